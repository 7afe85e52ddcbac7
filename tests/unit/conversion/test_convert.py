"""What is converted says what SpeechBrain's own model says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.bundles import SSLEncoder, load_model
from summarymixing_modules.conversion.command import convert
from summarymixing_modules.ops.summary import masked
from tests.tensors import padding_of
from tests.unit.conversion.conftest import Stock

SAMPLES = 16000
CLOSE = 1e-5


def audio(*samples: int) -> tuple[Tensor, Tensor]:
    """Noise, padded with zeros, and the lengths."""
    torch.manual_seed(1)
    lengths_B = torch.tensor(samples)
    samples_BL = torch.randn(len(samples), max(samples))
    return masked(samples_BL[..., None], padding_of(*samples))[..., 0], lengths_B


def difference(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    assert want.std() > 1e-3  # it says something
    return float((got - want).abs().max())


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"attention_type": "RoPEMHA"},
        {"attention_type": "hypermixing"},
        {"attention_type": "regularMHA"},
        {"attention_type": "hypermixing", "encoder_module": "branchformer"},
        {"attention_type": "RelPosMHAXL", "encoder_module": "branchformer"},
        {"attention_type": "regularMHA", "encoder_module": "transformer"},
        {"causal": "True"},
        {"norm_type": "sentence"},
    ],
    ids=lambda keys: "-".join(keys.values()) or "conformer",
)
@torch.no_grad()
def test_attention_and_ctc(stock: Callable[..., Stock], tmp_path: Path, keys: Any) -> None:
    theirs = stock("attention", num_decoder_layers="2", **keys)
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert found.left_out == ["counter.ckpt"]
    ours = load_model(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    tokens_BU = torch.tensor([[1, 4, 5, 6]])
    x_BTD = theirs["CNN"](theirs.features(samples_BL))
    encoded_BTD, decoded_BUD = theirs["Transformer"](x_BTD, tokens_BU, torch.ones(1))
    output = ours.model(*ours.acoustic_features(samples_BL, lengths_B), tokens_BU)
    assert difference(output.encoded_BTD, encoded_BTD) < CLOSE
    ctc_BTV = theirs["ctc_lin"](encoded_BTD).log_softmax(-1)
    assert difference(output.ctc_BTV, ctc_BTV) < CLOSE
    assert difference(output.seq_BUV, theirs["seq_lin"](decoded_BUD).log_softmax(-1)) < CLOSE


@torch.no_grad()
def test_a_padded_batch_is_as_alone(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("ctc", encoder_module="branchformer")
    convert(theirs.folder / "save", tmp_path / "bundle")
    ours = load_model(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES // 2 + 77, SAMPLES)
    batch_BTV, frames_B = ours.model(*ours.acoustic_features(samples_BL, lengths_B))
    alone_BL = samples_BL[:1, : lengths_B[0]]
    alone_BTV, _ = ours.model(*ours.acoustic_features(alone_BL, lengths_B[:1]))
    assert difference(batch_BTV[:1, : frames_B[0]], alone_BTV) < CLOSE
    encoded_BTD = theirs["enc"](theirs["CNN"](theirs.features(alone_BL)))
    assert difference(alone_BTV, theirs["ctc_lin"](encoded_BTD).log_softmax(-1)) < CLOSE


@torch.no_grad()
def test_chunks_of_a_transducer(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("transducer")
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert {"emb", "dec", "proj_enc"} == {
        name.split(".")[0] for name in found.dropped if not name.startswith("positional")
    } | {"emb"}
    ours = SSLEncoder.from_bundle(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    for chunks in (DynChunkTrainConfig(4, 2), DynChunkTrainConfig(5)):
        x_BTD = theirs["CNN"](theirs.features(samples_BL))
        want_BTD = theirs["enc"](x_BTD, torch.ones(1), dynchunktrain_config=chunks)
        features = ours.acoustics.acoustic_features(samples_BL, lengths_B)
        got_BTD, _ = ours.encoder.encode(*features, chunks)
        assert difference(got_BTD, want_BTD) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize("kind", ["best-rq", "encoder"])
def test_an_encoder(stock: Callable[..., Stock], tmp_path: Path, kind: str) -> None:
    theirs = stock(kind)
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert ("Quantizer.CB" in found.dropped) == (kind == "best-rq")
    ours = SSLEncoder.from_bundle(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    want_BTD = theirs["enc"](theirs["CNN"](theirs.features(samples_BL)))
    assert difference(ours(samples_BL, lengths_B).output_BTD, want_BTD) < CLOSE
