"""wav2vec 2.0: the loss, masks, padding, precision, and that it is learnable."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.models import TransformerASR
from summarymixing_modules.models.features.valid_frontend import frontend_for
from summarymixing_modules.models.ssl.negatives import draw_negatives
from summarymixing_modules.models.ssl.span_masks import draw_span_masks
from summarymixing_modules.models.ssl.wav2vec2 import Wav2Vec2Model

FRAMES = torch.tensor([60, 38, 21])  # of the front end
LENGTHS = 2 * FRAMES + 5  # of the features


def make(attention_type: str = "SummaryMixing", **options: object) -> Wav2Vec2Model:
    torch.manual_seed(0)
    frontend = frontend_for("mel", 6, 16)
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
        absolute_positions=True,
    )
    arguments = {"codes": 8, "code_dim": 8, "comparison_dim": 8, "negatives": 12, **options}
    return Wav2Vec2Model(frontend, transformer, **arguments)  # type: ignore[arg-type]


def features() -> Tensor:
    torch.manual_seed(1)
    x_BTF = torch.randn(3, int(LENGTHS.max()), 6)
    padding_BT = torch.arange(x_BTF.shape[1]) >= LENGTHS[:, None]
    return x_BTF.masked_fill(padding_BT[..., None], 1e6)


def draws() -> tuple[Tensor, Tensor]:
    hidden_BT = draw_span_masks(FRAMES, 60, 0.65, 5)
    counts_B = hidden_BT.sum(1)
    return hidden_BT, draw_negatives(counts_B, int(counts_B.max()), 12)


@pytest.mark.parametrize("attention_type", ["SummaryMixing", "RoPEMHA", "regularMHA", "mamba"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_is_that_of_the_utterances_alone(attention_type: str, reduction: str) -> None:
    model = make(attention_type, loss_reduction=reduction, diversity_weight=0.0).eval()
    x_BTF, (hidden_BT, negatives_BNK) = features(), draws()
    together = model(x_BTF, LENGTHS, hidden_BT, negatives_BNK)
    alone = []
    for row, (frames, length) in enumerate(zip(FRAMES, LENGTHS, strict=True)):
        mask_BT = hidden_BT[row : row + 1, :frames]
        index_BNK = negatives_BNK[row : row + 1, : int(mask_BT.sum())]
        alone.append(model(x_BTF[row : row + 1, :length], length[None], mask_BT, index_BNK))
    losses_B = torch.cat([output.losses_B for output in alone])
    torch.testing.assert_close(together.losses_B, losses_B, rtol=1e-4, atol=1e-4)
    loss = losses_B.sum() / (hidden_BT.sum() if reduction == "mean" else 1)
    torch.testing.assert_close(together.loss, loss, rtol=1e-4, atol=1e-4)
    for name in ("codes_MG", "correct_M", "chance_M"):
        both = torch.cat([getattr(output, name) for output in alone])
        assert torch.equal(getattr(together, name), both)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_diversity_is_weighted_by_the_hidden_frames(reduction: str) -> None:
    model = make(loss_reduction=reduction, diversity_weight=0.5).eval()
    (hidden_BT, negatives_BNK), x_BTF = draws(), features()
    output = model(x_BTF, LENGTHS, hidden_BT, negatives_BNK)
    y_BTC, _ = model.frontend(x_BTF, LENGTHS)
    perplexity_G = model.quantiser(y_BTC[hidden_BT]).perplexity_G
    torch.testing.assert_close(output.diversity, (16 - perplexity_G.sum()) / 16)
    hidden = hidden_BT.sum()
    want = output.losses_B.sum() + 0.5 * hidden * output.diversity
    torch.testing.assert_close(output.loss, want / (hidden if reduction == "mean" else 1))


def test_nothing_hidden_is_the_encoder() -> None:
    model, x_BTF = make().eval(), features()
    y_BTC, frames_B = model.frontend(x_BTF, LENGTHS)
    hidden_BT = torch.zeros(y_BTC.shape[:2], dtype=torch.bool)
    want_BTD, want_B = model.encode(x_BTF, LENGTHS)
    assert torch.equal(frames_B, FRAMES) and torch.equal(want_B, FRAMES)
    torch.testing.assert_close(model.encode_hidden(y_BTC, frames_B, hidden_BT), want_BTD)


def test_the_encoder_does_not_see_what_is_hidden() -> None:
    model, x_BTF = make().eval(), features()
    y_BTC, frames_B = model.frontend(x_BTF, LENGTHS)
    y_BTC = y_BTC.detach().requires_grad_()
    hidden_BT, _ = draws()
    model.encode_hidden(y_BTC, frames_B, hidden_BT)[hidden_BT].square().sum().backward()
    assert y_BTC.grad is not None
    assert (y_BTC.grad[hidden_BT] == 0).all() and y_BTC.grad.abs().max() > 0
    assert (y_BTC.grad[torch.arange(60) >= FRAMES[:, None]] == 0).all()
    assert model.mask_embedding.grad is not None and model.mask_embedding.grad.abs().max() > 0


def test_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU waits for no GPU but to draw the mask; on the meta device there is nothing to read."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    hidden_BT, _ = draws()
    output = make().to("meta")(features().to("meta"), LENGTHS.to("meta"), hidden_BT)
    output.loss.backward()
    assert len(output.correct_M) == hidden_BT.sum()


def test_every_parameter_is_trained() -> None:
    model = make()
    model(features(), LENGTHS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_nothing_to_hide_gives_a_loss_of_zero() -> None:
    model = make()
    output = model(torch.randn(2, 20, 6), torch.tensor([12, 5]))  # 3 frames and none
    output.loss.backward()
    assert output.loss == 0 and output.codes_MG.shape == (0, 2)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_single_code_is_no_success() -> None:
    model = make().eval()
    torch.nn.init.zeros_(model.quantiser.scores.weight)
    output = model(features(), LENGTHS)
    assert not output.correct_M.any() and (output.chance_M == 1).all()
    assert output.losses_B.abs().max() == 0


def test_the_gradient_of_the_front_end_is_scaled() -> None:
    grads = []
    for scale in (1.0, 0.1):
        model = make(frontend_grad_scale=scale)
        torch.manual_seed(2)
        model(features(), LENGTHS).loss.backward()
        grads.append([p.grad for p in (*model.frontend.parameters(), model.mask_embedding)])
    for whole, tenth in zip(grads[0][:-1], grads[1][:-1], strict=True):
        torch.testing.assert_close(0.1 * whole, tenth, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(grads[0][-1], grads[1][-1], rtol=1e-3, atol=1e-5)


def test_bfloat16_is_near_float32() -> None:
    model, x_BTF = make(), features()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model(x_BTF, LENGTHS).losses_B.sum())
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0.0)
    losses[1].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_learns_to_tell_frames_apart() -> None:
    """Kinds of frames follow each other slowly: what is hidden can be told from its neighbours."""
    model = make(mask_prob=0.4, mask_length=2, temperature=(1.0, 0.5, 0.99))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(2)
    kinds_KF = 3 * torch.randn(6, 6)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        order_BT = torch.randint(6, (size, 6)).repeat_interleave(16, dim=1)
        return kinds_KF[order_BT] + 0.05 * torch.randn(size, 96, 6), torch.full((size,), 96)

    for step in range(60):
        optimizer.zero_grad()
        model(*batch(4)).loss.backward()
        optimizer.step()
        model.quantiser.set_step(step)
    output = model.eval()(*batch(24))
    assert output.correct_M.float().mean() > output.chance_M.mean() + 0.08
    assert output.diversity < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_length": 1}, "mask_length=1 must be at least 2"),
        ({"negatives": 0}, "negatives=0"),
        ({"logit_temperature": 0.0}, "logit_temperature=0"),
        ({"loss_reduction": "max"}, "loss_reduction 'max': give sum or mean"),
    ],
)
def test_bad_settings_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)
