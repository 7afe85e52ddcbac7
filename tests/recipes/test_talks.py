"""The recipes for TED-LIUM 2 and VoxPopuli: every YAML, on small trees in their layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.manifest import read_manifest
from tests.recipes.tiny import TINY_SIZES, flags_for
from tests.unit.data.talks import write_cut, write_sessions, write_talk

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
YAMLS = [*RECIPES.glob("TEDLIUM2/**/*.yaml"), *RECIPES.glob("VoxPopuli/**/*.yaml")]
SPEECHES = RECIPES / "VoxPopuli/ASR/transducer/hparams/small_conformer.yaml"
SPLITS = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}
RATE = 16000
RunRecipe = Callable[..., dict[str, Any]]
Clip = tuple[str, np.ndarray, str]  # ID, samples, words

TINY = TINY_SIZES | {
    "max_batch_length": 20,
    "num_buckets": 2,
    "predictor_size": 8,
    "joint_size": 12,
    "token_type": "librispeech_char",
    "valid_beam_size": 2,
    "test_beam_size": 2,
    "max_expansions": 4,
    "max_decode_ratio": 0.2,
    "grad_accumulation_factor": 1,
    "training_steps": 2,
}


def clips(corpus: Path, split: str) -> list[Clip]:
    """The demo corpus's audio and words."""
    found = []
    for file in sorted((corpus / "LibriSpeech" / SPLITS[split]).rglob("*.trans.txt")):
        for line in file.read_text().splitlines():
            name, words = line.split(" ", 1)
            found.append((name, soundfile.read(file.parent / f"{name}.flac")[0], words.lower()))
    return found


def joined(utterances: list[Clip]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """One recording of them all, with silence between, and where each begins and ends, s."""
    signal, places = [np.zeros(3000)], []
    for _, samples_L, _ in utterances:
        start = sum(map(len, signal)) / RATE
        signal += [samples_L, np.zeros(9000)]
        places.append((start, start + len(samples_L) / RATE))
    return np.concatenate(signal), places


@pytest.fixture(scope="session")
def talks(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Corpus → its folder: three talks; cut speeches."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("tedlium2", "voxpopuli")}
    for split in SPLITS:
        utterances = clips(corpus, split)
        recording_L, places = joined(utterances)
        lines = [
            f"{split} 1 {split} {start:.3f} {stop:.3f} <o,f0,male> {words}"
            for (start, stop), (_, _, words) in zip(places, utterances, strict=True)
        ]
        write_talk(folders["tedlium2"], split, split, recording_L, lines)
        speeches = {f"2010{name}": (samples_L, words) for name, samples_L, words in utterances}
        write_cut(folders["voxpopuli"] / "transcribed_data" / "en", split, speeches)
    return folders


def tiny(hparams: Path, **changes: Any) -> list[str]:
    marks = 0 if hparams.is_relative_to(RECIPES / "VoxPopuli") else 2
    return flags_for(hparams, TINY, output_neurons=29 + marks, **changes)


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: f"{path.parts[-5]}-{path.stem}")
def test_every_yaml_trains_decodes_and_reports(
    hparams: Path, talks: dict[str, Path], run_recipe: RunRecipe, tmp_path: Path
) -> None:
    corpus = hparams.parts[-5].lower()
    result = run_recipe(hparams, *tiny(hparams, data_folder=talks[corpus]), "--debug")
    assert result["optimizer_steps"] > 0 and result["test_wer"] >= 0
    assert {"dev_wer", "test_wer"} <= result["metrics"].keys()
    rows = read_manifest(tmp_path / "run" / "save" / "train.csv")
    assert len(rows) == 24 and rows.in_parts == (corpus == "tedlium2")


def test_sessions_and_the_matrix(corpus: Path, tmp_path: Path, run_recipe: RunRecipe) -> None:
    """Uncut sessions are read by part; the matrix is over dev and test."""
    sessions, lines = {}, []
    for number, split in enumerate(SPLITS):
        utterances, name = clips(corpus, split), f"2010010{number}-PLENARY"
        sessions[name], places = joined(utterances)
        lines += [
            f"{name}|{identifier}|{words}|{words}|7|{split}|male|[({start}, {stop})]"
            for (start, stop), (identifier, _, words) in zip(places, utterances, strict=True)
        ]
    write_sessions(tmp_path / "uncut", sessions, lines)
    matrix = {"streaming_matrix": True, "matrix_chunk_sizes": [8], "matrix_left_contexts": [2]}
    options = tiny(SPEECHES, data_folder=tmp_path / "uncut", **matrix)
    result = run_recipe(SPEECHES, *options, "--debug")
    assert read_manifest(tmp_path / "run" / "save" / "train.csv").in_parts
    for split in ("dev", "test"):
        cells = result["streaming_matrix"][split]
        assert [(c["chunk_size"], c["left_chunks"]) for c in cells] == [(None, None), (8, 2)]
