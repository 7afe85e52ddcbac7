"""BEST-RQ: targets, masks, padding, and that the loss is learnable."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.models import ConvFrontEnd2d, TransformerASR
from summarymixing_modules.models.ssl.best_rq import BestRQModel, RandomProjectionQuantiser
from summarymixing_modules.models.ssl.block_masks import draw_block_masks
from summarymixing_modules.models.ssl.naive import naive_random_projection_codes

LENGTHS = torch.tensor([61, 40, 23])


def make(attention_type: str = "SummaryMixing", **options: object) -> BestRQModel:
    torch.manual_seed(0)
    frontend = ConvFrontEnd2d(16, [4, 4], dropout=0.0)
    transformer = TransformerASR(
        1,
        frontend.output_size,
        d_model=32,
        nhead=2,
        num_encoder_layers=2,
        num_decoder_layers=0,
        d_ffn=64,
        dropout=0.0,
        kernel_size=5,
        attention_type=attention_type,
    )
    return BestRQModel(
        frontend,
        transformer,
        **{"n_mels": 16, "codes": 32, "code_dim": 8, "noise_std": 0.0, **options},  # type: ignore[arg-type]
    )


def features() -> Tensor:
    torch.manual_seed(1)
    x_BTF = torch.randn(3, 61, 16)
    return x_BTF.masked_fill(torch.arange(61)[None, :, None] >= LENGTHS[:, None, None], 1e6)


@pytest.mark.parametrize("attention_type", ["SummaryMixing", "RoPEMHA", "mamba"])
@pytest.mark.parametrize("codebooks", [1, 2])
def test_the_loss_is_the_mean_over_utterances_alone(attention_type: str, codebooks: int) -> None:
    model, x_BTF = make(attention_type, codebooks=codebooks), features()
    hidden_BT = draw_block_masks(LENGTHS, 64, 0.15, 4)
    together = model(x_BTF, LENGTHS, hidden_BT)
    alone = []
    for x_TF, length, hidden_T in zip(x_BTF, LENGTHS, hidden_BT, strict=True):
        frames = -(-int(length) // 4) * 4
        alone.append(model(x_TF[None, :length], length[None], hidden_T[None, :frames]).loss)
    torch.testing.assert_close(together.losses_B, torch.stack(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.loss, torch.stack(alone).mean(), rtol=1e-5, atol=1e-5)


def test_targets_are_codes_of_what_was_hidden() -> None:
    model, x_BTF = make(), features()
    hidden_BT = torch.zeros(3, 64, dtype=torch.bool)
    hidden_BT[1, 8:12] = True
    output = model(x_BTF, LENGTHS, hidden_BT)
    want = model.quantiser(x_BTF[1, 8:12].reshape(1, -1))
    assert torch.equal(output.codes_MQ, want)
    assert output.losses_B[0] == output.losses_B[2] == 0
    torch.testing.assert_close(output.loss, output.losses_B[1])


def test_the_encoder_does_not_see_what_is_hidden() -> None:
    model, x_BTF = make(), features()
    hidden_BT = torch.zeros(3, 64, dtype=torch.bool)
    hidden_BT[0, 4:12] = True
    x_BTF.requires_grad_()
    model(x_BTF, LENGTHS, hidden_BT).loss.backward()
    assert x_BTF.grad is not None
    assert x_BTF.grad[0, 4:12].abs().max() == 0 and x_BTF.grad[0, 12:].abs().max() > 0
    assert x_BTF.grad[0, 61:].abs().sum() == 0


def test_the_quantiser_is_saved_and_never_trained() -> None:
    quantiser = RandomProjectionQuantiser(64, codes=32, codebooks=2)
    assert not list(quantiser.parameters())
    assert set(quantiser.state_dict()) == {"projection", "codebook"}
    torch.testing.assert_close(quantiser.codebook.norm(dim=-1), torch.ones(2, 32))


def test_the_seed_alone_draws_the_quantiser() -> None:
    drawn = []
    for seed, before in ((0, 1), (0, 1000), (1, 1)):
        torch.manual_seed(seed)
        torch.rand(before)  # a mixer with more weights
        drawn.append(RandomProjectionQuantiser(64, codes=32, codebooks=2).state_dict())
    for name, weight in drawn[0].items():
        assert torch.equal(weight, drawn[1][name]) and not torch.equal(weight, drawn[2][name])
    with torch.device("meta"):
        assert RandomProjectionQuantiser(64, codes=32).codebook.is_meta


def test_noise_replaces_what_is_hidden() -> None:
    model, x_BTF = make(noise_std=0.1), features()
    hidden_BT = draw_block_masks(LENGTHS, 64, 0.15, 4)
    losses = [model(x_BTF, LENGTHS, hidden_BT).loss.item() for _ in range(2)]
    assert losses[0] != losses[1]


def test_learns_to_predict() -> None:
    """Two kinds of frames alternate slowly: what is hidden can be told from its neighbours."""
    model = make(codes=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(2)
    kinds_2F = 3 * torch.randn(2, 16)
    for _ in range(60):
        order = (torch.arange(96) // 24 + torch.randint(2, (4, 1))) % 2
        x_BTF = kinds_2F[order] + 0.05 * torch.randn(4, 96, 16)
        output = model(x_BTF, torch.full((4,), 96))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.correct_MQ.float().mean() > 0.8


def test_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU waits for no GPU but to draw the mask; on the meta device there is nothing to read."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    hidden_BT = draw_block_masks(LENGTHS, 64, 0.15, 4)
    output = make().to("meta")(features().to("meta"), LENGTHS.to("meta"), hidden_BT)
    output.loss.backward()
    assert len(output.codes_MQ) == hidden_BT.sum() / 4


def test_a_block_of_part_of_a_frame_is_refused() -> None:
    with pytest.raises(InputError, match="mask_length=6 must be a multiple of 4"):
        make(mask_length=6)


def test_all_hidden_frames_can_count_alike() -> None:
    model, x_BTF = make(loss_mean="frames").eval(), features()
    hidden_BT = draw_block_masks(LENGTHS, 64, 0.15, 4)
    output = model(x_BTF, LENGTHS, hidden_BT)
    counts_B = hidden_BT[:, ::4].sum(1)
    want = (output.losses_B * counts_B).sum() / counts_B.sum()
    torch.testing.assert_close(output.loss, want)
    assert abs(output.loss - output.losses_B.mean()) > 1e-4
    with pytest.raises(InputError, match="utterances or frames"):
        make(loss_mean="batches")


def test_what_is_quantised_is_normalised_or_not() -> None:
    frames_MF = 2 * torch.randn(50, 12) + 3
    for layernorm in (False, True):
        quantiser = RandomProjectionQuantiser(12, 32, 8, layernorm=layernorm)
        seen_MF = torch.nn.functional.layer_norm(frames_MF, (12,)) if layernorm else frames_MF
        want_MQ = naive_random_projection_codes(seen_MF, quantiser.projection, quantiser.codebook)
        assert torch.equal(quantiser(frames_MF), want_MQ)
