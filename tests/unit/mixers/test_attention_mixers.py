"""The attention mixers against SpeechBrain's own layers and the naive matrix of scores."""

from __future__ import annotations

import pytest
import torch
from speechbrain.nnet import attention as stock

from summarymixing_modules.mixers import MixerSize, build_mixer
from summarymixing_modules.mixers.adapter import MixerAdapter
from summarymixing_modules.mixers.attention_cache import AttentionCache
from summarymixing_modules.mixers.rope_mha import RoPEMHA
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.rope import rotate
from tests.tensors import padding_of

D, HEADS = 32, 4


def test_rope_is_speechbrains_with_its_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = RoPEMHA(D, HEADS), stock.RoPEMHA(D, HEADS)
    ours.load_state_dict(theirs.state_dict())
    x_BTD = torch.randn(3, 17, D)
    padding = padding_of(17, 9, 4)
    want, _ = theirs(x_BTD, x_BTD, x_BTD, key_padding_mask=padding)
    torch.testing.assert_close(ours(x_BTD, padding)[~padding], want[~padding])


def test_rotation_depends_on_the_difference_of_positions() -> None:
    query, key = torch.randn(2, 1, 1, 5, 8, dtype=torch.float64)
    here = rotate(query) @ rotate(key).mT
    there = rotate(query, 90_000) @ rotate(key, 90_000).mT
    torch.testing.assert_close(here, there, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["RelPosMHAXL", "regularMHA"])
def test_speechbrains_layers_answer_as_before(name: str) -> None:
    torch.manual_seed(0)
    mixer = build_mixer(name, MixerSize(D, HEADS)).eval()
    x_BTD, padding = torch.randn(2, 11, D), padding_of(11, 6)
    extra = {"pos_embs": mixer.positions(x_BTD)} if name == "RelPosMHAXL" else {}
    want, _ = mixer.attention(x_BTD, x_BTD, x_BTD, key_padding_mask=padding, **extra)
    torch.testing.assert_close(mixer(x_BTD, padding)[~padding], want[~padding])
    if extra:
        got = mixer(x_BTD, padding, pos_embs=extra["pos_embs"])
        torch.testing.assert_close(got[~padding], want[~padding])


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="nhead=5"):
        RoPEMHA(D, 5)


def test_cache_holds_the_left_context_and_no_more() -> None:
    cache, chunks = AttentionCache.empty(torch.zeros(1, 0, 2)), Chunks(3, 2)
    for step in range(5):
        cache = cache.extended((torch.full((1, 3, 2), float(step)),), None).trimmed(chunks)
    assert cache.frames[0][0, :, 0].tolist() == [3.0] * 3 + [4.0] * 3
    assert cache.position == 15 and cache.padding_BS.shape == (1, 6)
    assert cache.trimmed(Chunks(3, 0)).frames[0].shape[1] == 0


def test_adapter_hosts_a_mixer_in_a_stock_conformer() -> None:
    from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder

    torch.manual_seed(0)
    encoder = ConformerEncoder(2, D, 64, HEADS, 7, attention_type="RoPEMHA").eval()
    for layer in encoder.layers:
        layer.mha_layer = MixerAdapter(build_mixer("SummaryMixing", MixerSize(D, HEADS)))
    x_BTD = torch.randn(2, 9, D)
    output, _ = encoder(x_BTD, src_key_padding_mask=padding_of(9, 5))
    assert output.shape == x_BTD.shape and output.isfinite().all()
    adapter = encoder.layers[0].mha_layer
    with pytest.raises(ValueError, match="self-attention only"):
        adapter(x_BTD, x_BTD + 1, x_BTD)
    with pytest.raises(ValueError, match="dynchunktrain_config"):
        adapter(x_BTD, x_BTD, x_BTD, attn_mask=torch.zeros(9, 9, dtype=torch.bool))
