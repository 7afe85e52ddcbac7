"""Small trees in the layouts of TED-LIUM 2 and VoxPopuli, made of speech or noise."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
COLUMNS = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent"
ANNOTATION = "session_id|id_|original_text|normed_text|speaker_id|split|gender|vad"


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def write_talk(
    root: Path, split: str, talk: str, samples_L: np.ndarray | None, lines: Sequence[str]
) -> Path:
    """A recording (none: it is missing) with its segments."""
    for part in ("sph", "stm"):
        (root / split / part).mkdir(parents=True, exist_ok=True)
    (root / split / "stm" / f"{talk}.stm").write_text("".join(f"{line}\n" for line in lines))
    audio = root / split / "sph" / f"{talk}.sph"
    if samples_L is not None:
        soundfile.write(audio, samples_L, RATE, format="NIST", subtype="PCM_16")
    return audio


def write_cut(
    folder: Path, split: str, speeches: Mapping[str, tuple[np.ndarray | None, str]]
) -> None:
    """A list and the audio of its utterances, ID → (samples, text), as `get_asr_data` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [COLUMNS]
    for name, (samples_L, text) in speeches.items():
        rows.append(f'{name}\t"{text}\t{text}\t125\t{split}\tfemale\tFalse\tNone')
        if samples_L is not None:
            (folder / name[:4]).mkdir(exist_ok=True)
            soundfile.write(folder / name[:4] / f"{name}.ogg", samples_L, RATE)
    (folder / f"asr_{split}.tsv").write_text("\n".join(rows) + "\n")


def write_sessions(
    root: Path, sessions: Mapping[str, np.ndarray], rows: Sequence[str], language: str = "en"
) -> None:
    """Whole sessions and their annotation."""
    for name, samples_L in sessions.items():
        audio = root / "raw_audios" / "original" / name[:4] / f"{name}_original.ogg"
        audio.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio, samples_L, RATE)
    folder = root / "transcribed_data" / language
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / f"asr_{language}.tsv.gz", "wt") as file:
        file.write("\n".join([ANNOTATION, *rows]) + "\n")
