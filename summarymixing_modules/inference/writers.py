"""Transcripts as text, JSON, CTM and SRT; classes as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from summarymixing_modules.inference.classifier import Classification
from summarymixing_modules.inference.decoding import Transcript, Word

#: A subtitle holds at most so many characters and seconds, and ends before a pause of so many.
SUBTITLE_CHARACTERS, SUBTITLE_SECONDS, SUBTITLE_PAUSE = 84, 6.0, 0.8
#: It stays at least so long, where the next one lets it.
SUBTITLE_LEAST_SECONDS = 1.0
_LINE_CHARACTERS = 42


def as_text(transcript: Transcript) -> str:
    """The text alone, in one line."""
    return f"{transcript.text}\n"


def as_json(transcript: Transcript) -> str:
    """One object in one line; times and durations in seconds."""
    words = [
        {
            "word": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": None if word.confidence is None else round(word.confidence, 4),
        }
        for word in transcript.words
    ]
    content = {
        "file": str(transcript.path),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "words": words,
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def as_ctm(transcript: Transcript) -> str:
    """NIST's time-marked conversation format: file, channel, start, duration, word, confidence."""
    name = transcript.path.stem.replace(" ", "_")
    lines = []
    for word in transcript.words:
        confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
        times = f"{word.start:.3f} {word.end - word.start:.3f}"
        lines.append(f"{name} 1 {times} {word.text}{confidence}\n")
    return "".join(lines)


def as_srt(transcript: Transcript) -> str:
    """SubRip subtitles of one or two lines."""
    groups = _subtitles(transcript.words)
    blocks = []
    for number, group in enumerate(groups, start=1):
        following = groups[number][0].start if number < len(groups) else transcript.duration
        start = group[0].start
        end = max(group[-1].end, min(start + SUBTITLE_LEAST_SECONDS, following))
        blocks.append(f"{number}\n{_clock(start)} --> {_clock(end)}\n{_lines(group)}\n")
    return "\n".join(blocks)


#: format → writer
WRITERS: dict[str, Callable[[Transcript], str]] = {
    "text": as_text,
    "json": as_json,
    "ctm": as_ctm,
    "srt": as_srt,
}
SUFFIXES = {"text": ".txt", "json": ".json", "ctm": ".ctm", "srt": ".srt"}


def classes_as_text(found: Classification, top: int) -> str:
    """One line: file, and of every task its name and the most likely classes, parted by tabs."""
    tasks = (
        f"{task}: " + ", ".join(f"{each.label} {each.probability:.3f}" for each in classes[:top])
        for task, classes in found.tasks.items()
    )
    return "\t".join([str(found.path), *tasks]) + "\n"


def classes_as_json(found: Classification, top: int) -> str:
    """One object in one line; durations in seconds."""
    tasks = {
        task: [
            {"label": each.label, "probability": round(each.probability, 6)}
            for each in classes[:top]
        ]
        for task, classes in found.tasks.items()
    }
    content = {"file": str(found.path), "duration": round(found.duration, 3), "tasks": tasks}
    return json.dumps(content, ensure_ascii=False) + "\n"


#: format → writer of the ``top`` most likely classes
CLASS_WRITERS: dict[str, Callable[[Classification, int], str]] = {
    "text": classes_as_text,
    "json": classes_as_json,
}


def _subtitles(words: Sequence[Word]) -> list[list[Word]]:
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        characters = sum(len(other.text) + 1 for other in group) + len(word.text)
        if (
            not group
            or characters > SUBTITLE_CHARACTERS
            or word.end - group[0].start > SUBTITLE_SECONDS
            or word.start - group[-1].end > SUBTITLE_PAUSE
        ):
            groups.append([])
        groups[-1].append(word)
    return groups


def _lines(group: Sequence[Word]) -> str:
    """The words in one line, or in two of about the same length."""
    texts = [word.text for word in group]
    whole = " ".join(texts)
    if len(whole) <= _LINE_CHARACTERS or len(texts) == 1:
        return whole
    halves = ((" ".join(texts[:n]), " ".join(texts[n:])) for n in range(1, len(texts)))
    return "\n".join(min(halves, key=lambda half: max(map(len, half))))


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02},{rest % 1000:03}"
