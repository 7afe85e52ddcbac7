"""Transcripts that take more frames than their audio has."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from summarymixing_modules.data.manifest import Row, read_manifest, write_manifest
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import CharTokenizer, Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.frontend import ConvFrontEnd1d, ConvFrontEnd2d
from summarymixing_modules.models.features.valid_frontend import ValidConvFrontEnd
from summarymixing_modules.training.ctc_lengths import (
    frames_needed,
    report_too_short,
    too_short_for_ctc,
)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [1, 1], [2, 2, 2, 1], [1, 2, 1, 2]])
def test_as_many_frames_as_the_loss_takes_to_be_finite(tokens: list[int]) -> None:
    def loss(frames: int) -> torch.Tensor:
        log_probs_TV = torch.zeros(frames, 4).log_softmax(-1)
        return F.ctc_loss(log_probs_TV, torch.tensor([tokens]), (frames,), (len(tokens),))

    needed = frames_needed(tokens)
    assert loss(needed).isfinite() and loss(needed - 1).isinf()


@pytest.mark.parametrize(
    "frontend", [ConvFrontEnd1d(8, (4, 4)), ConvFrontEnd2d(8, (2, 2)), ValidConvFrontEnd(8, 4)]
)
def test_front_ends_tell_the_lengths_that_they_make(frontend: torch.nn.Module) -> None:
    lengths_B = torch.arange(1, 40)
    made_B = frontend(torch.zeros(39, 39, 8), lengths_B)[1]
    assert frontend.lengths(lengths_B).tolist() == made_B.tolist()  # type: ignore[operator]


@pytest.fixture
def speech(tmp_path: Path) -> ManifestDataset:
    """Transcripts with many repeated letters, sorted by another order than that of the file."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("AB É", k=draw.randint(1, 30))).strip() or "A" for _ in range(99)]
    rows = [Row(f"u{n}", draw.uniform(1, 9), "a.wav", "s", t) for n, t in enumerate(texts)]
    write_manifest(tmp_path / "train.csv", rows)
    whole = ManifestDataset(read_manifest(tmp_path / "train.csv"), tmp_path)
    return whole.filtered_sorted(key_min_value={"duration": 2.0}, sort_key="duration")


@pytest.mark.parametrize("kind", ["char", "unigram"])
def test_those_whose_tokens_do_not_fit_are_found(
    speech: ManifestDataset, tmp_path: Path, kind: str
) -> None:
    tokenizer: Tokenizer = CharTokenizer("AB É")
    if kind == "unigram":
        tokenizer = SentencePieceTokenizer.train(tmp_path / "train.csv", tmp_path, 12)
    frames_N = np.array([random.Random(name).randint(1, 30) for name in speech.data_ids])
    found = {
        u.index: (u.id, u.frames, u.needed) for u in too_short_for_ctc(speech, tokenizer, frames_N)
    }
    expected = {}
    for index, name in enumerate(speech.data_ids):
        needed = frames_needed(tokenizer.encode(speech.data[name]["wrd"]))
        if needed > frames_N[index]:
            expected[index] = (name, frames_N[index], needed)
    assert found == expected and 10 < len(found) < 80


def test_if_they_are_all_there_is_it_is_an_error(speech: ManifestDataset) -> None:
    found = list(too_short_for_ctc(speech, CharTokenizer("AB É"), np.zeros(len(speech))))
    with pytest.raises(InputError, match="all .* training utterances .*subsample less"):
        report_too_short(found, len(speech), left_out=True, folder=None)
