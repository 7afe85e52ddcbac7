"""The text files of the synthetic demo corpus: transcripts, README and LibriSpeech's tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from summarymixing_modules.data.audio import SAMPLE_RATE
from summarymixing_modules.data.demo.speech import Utterance

_README = """SYNTHETIC SPEECH - NOT LIBRISPEECH

This tree has the layout of LibriSpeech, but nobody recorded it: espeak-ng, a speech synthesiser,
reads sentences drawn from a small grammar, with light artificial noise. It exists so that recipes
can be tried and tested without a download. Error rates on it say nothing about human speech and
must not be compared with published results. Voices and sentences of train-clean-100, dev-clean and
test-clean do not overlap. demo.json holds the settings that made it.
"""
_SPEAKERS_HEADER = (
    "; SYNTHETIC speakers: espeak-ng voice variant and accent\n"
    ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
)
_CHAPTERS_HEADER = (
    "; SYNTHETIC chapters: sentences of a small grammar read by espeak-ng\n"
    ";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"
)


def write_transcripts(split_folder: Path, utterances: Sequence[Utterance]) -> None:
    """Make the folders of a split and their ``SPEAKER-CHAPTER.trans.txt`` files."""
    for folder, chapter in groupby(utterances, key=lambda utterance: utterance.folder):
        lines = [f"{utterance.identifier} {utterance.sentence.text}\n" for utterance in chapter]
        path = split_folder / folder
        path.mkdir(parents=True)
        name = "-".join(folder.parts) + ".trans.txt"
        (path / name).write_text("".join(lines), encoding="utf-8")


def write_tables(
    tree: Path, splits: Mapping[str, Sequence[Utterance]], frames: Mapping[str, int]
) -> None:
    """Write README.TXT, SPEAKERS.TXT and CHAPTERS.TXT.

    Args:
        tree: the ``LibriSpeech`` folder.
        splits: utterances of each split.
        frames: number of samples of each utterance id.
    """
    (tree / "README.TXT").write_text(_README, encoding="utf-8")
    (tree / "SPEAKERS.TXT").write_text(_speaker_table(splits, frames), encoding="utf-8")
    (tree / "CHAPTERS.TXT").write_text(_chapter_table(splits, frames), encoding="utf-8")


def _minutes(utterances: Iterable[Utterance], frames: Mapping[str, int]) -> float:
    return sum(frames[utterance.identifier] for utterance in utterances) / SAMPLE_RATE / 60


def _speaker_table(splits: Mapping[str, Sequence[Utterance]], frames: Mapping[str, int]) -> str:
    lines = [_SPEAKERS_HEADER]
    for split, utterances in splits.items():
        for speaker, spoken in groupby(utterances, key=lambda utterance: utterance.speaker):
            minutes = _minutes(spoken, frames)
            lines.append(
                f"{speaker.number:<5}| {speaker.sex} | {split:<17}| {minutes:<6.2f}|"
                f" espeak-ng {speaker.variant} {speaker.accent}\n"
            )
    return "".join(lines)


def _chapter_table(splits: Mapping[str, Sequence[Utterance]], frames: Mapping[str, int]) -> str:
    lines = [_CHAPTERS_HEADER]
    for split, utterances in splits.items():
        for folder, spoken in groupby(utterances, key=lambda utterance: utterance.folder):
            reader, chapter = folder.parts
            minutes = _minutes(spoken, frames)
            lines.append(
                f"{chapter:<7}| {reader:<5}| {minutes:<6.2f}| {split:<17}| 0    | 0     |"
                " Synthetic | Synthetic demo corpus\n"
            )
    return "".join(lines)
