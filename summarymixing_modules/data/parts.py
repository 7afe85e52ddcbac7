"""Parts of recordings that are told in seconds, as samples of a file."""

from __future__ import annotations

from summarymixing_modules.data.audio import AudioError, AudioInfo, StrPath

#: Seconds by which a table may be wrong: it rounds, and headers of MP3 files only estimate.
TOLERANCE = 0.1


def part_in_samples(
    audio: StrPath, info: AudioInfo, start: float, end: float | None
) -> tuple[int, int]:
    """Where a part begins and ends, at the file's own rate.

    Args:
        audio: the file, for messages.
        info: of it.
        start: seconds.
        end: likewise; None is the end of the file.

    Raises:
        AudioError: it is not within the file.
    """
    last = info.duration if end is None else end
    if start >= info.duration or last > info.duration + TOLERANCE:
        raise AudioError(
            f"{audio}: {start:g} to {last:g} s is no part of it, as it lasts {info.duration:.2f} "
            "s: copy it again, or correct where the utterance lies"
        )
    return round(start * info.sample_rate), min(round(last * info.sample_rate), info.frames)


def check_length(audio: StrPath, info: AudioInfo, told: float) -> None:
    """Compare the length of a file with what is told of it.

    Raises:
        AudioError: they differ.
    """
    if abs(info.duration - told) > TOLERANCE:
        raise AudioError(
            f"{audio}: its duration is given as {told:g} s, and it lasts {info.duration:.2f} s: "
            "copy it again, or, of a part of a file, give its start, too"
        )
