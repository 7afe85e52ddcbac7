"""Windows of SummaryMixing; the cell that has them is compared in test_summary_ablation.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, SummaryMixing, build_mixer
from summarymixing_modules.mixers.summary_options import EXPDECAY, FAST, LITE
from summarymixing_modules.ops import window_means as ops
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.naive import naive_window_means
from summarymixing_modules.ops.window_means import window_means
from tests.tensors import padding_of, relative_error

D = 16


@pytest.mark.parametrize(
    ("chunks", "want"),
    [
        (Chunks(6), [1.5, 2, 3, 4, 4.5]),
        (Chunks(2), [1.5, 1.5, 3, 3.5, 4.5]),
        (Chunks(2, 0), [1.5, 1.5, 3.5, 3.5, 5]),
        (Chunks(1), [1, 1.5, 2.5, 3.5, 4.5]),
        (Chunks(1, 0), [1.0, 2, 3, 4, 5]),
    ],
)
def test_by_hand(chunks: Chunks, want: list[float]) -> None:
    """s = 1 … 5 and a padded 100, a window of three frames."""
    s_BTS = torch.tensor([[1.0, 2, 3, 4, 5, 100]])[..., None]
    (got,) = window_means(s_BTS, padding_of(5, 6)[:1], chunks, [1])
    torch.testing.assert_close(got[0, :5, 0], torch.tensor(want))


@pytest.mark.parametrize("added_up", [0, 128])
@pytest.mark.parametrize(
    "chunks",
    [Chunks(24), *(Chunks(4, n) for n in (None, 0, 1, 3)), Chunks(1), Chunks(1, 2), Chunks(12, 1)],
)
def test_equals_the_band(added_up: int, chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows narrower and wider than chunks, left contexts and utterances, by both ways."""
    monkeypatch.setattr(ops, "ADDED_UP", added_up)
    torch.manual_seed(0)
    radii, padding = (1, 3, 4, 5, 11, 24, 70), padding_of(24, 13, 0)
    s_BTS = torch.randn(3, 24, 2, dtype=torch.float64, requires_grad=True)
    got = torch.stack(window_means(s_BTS, padding, chunks, radii))
    want = torch.stack([naive_window_means(s_BTS, padding, chunks, radius) for radius in radii])
    torch.testing.assert_close(got, want)
    seen = torch.randn_like(got)
    grads = [torch.autograd.grad((y * seen).sum(), s_BTS)[0] for y in (got, want)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("radius", [4, 150])
def test_long_utterances_keep_their_precision(radius: int) -> None:
    """A difference of two sums over all the past would be five times or more off."""
    torch.manual_seed(0)
    s_BTS = torch.randn(1, 16_384, 2) + 3.0
    (got,) = window_means(s_BTS, None, Chunks(16_384), [radius])
    want = s_BTS[:, -radius - 1 :].double().mean(dim=1)
    assert relative_error(got[:, -1], want) < 1e-6


def test_a_window_of_everything_is_the_mean() -> None:
    """With one matrix for both, and the window's share of c moved to s̄'s, nothing changes."""
    torch.manual_seed(0)
    options = {"global_dropout": 0.0, "use_layernorm": False}
    wide, plain = SummaryMixing(D, summary_window=[99], **options), SummaryMixing(D, **options)
    plain.load_state_dict(wide.state_dict(), strict=False)
    assert isinstance(wide.combine_windows, nn.Linear)
    with torch.no_grad():
        plain.combine_summary.weight.add_(wide.combine_windows.weight)
    x_BTD, padding = torch.randn(2, 40, D), padding_of(40, 23)
    torch.testing.assert_close(wide(x_BTD, padding)[~padding], plain(x_BTD, padding)[~padding])


@pytest.mark.parametrize("left", [None, 2])
def test_a_stream_remembers_the_widest_window(left: int | None) -> None:
    cell = SummaryMixing(D, summary_window=[5, 31], summary_out_dim=8)
    assert cell.initial_state(3, left).memory.recent_BRX.shape == (3, 15, 9)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"summary_window": 9}, 512 * 512 + 2 * 512),
        ({"summary_window": [9, 49], "use_layernorm": False}, 2 * 512 * 512),
        ({"summary_window": [9], "summary_out_dim": 256}, 256 * 512 + 2 * 256),
        ({"summary_window": [9], "mode": FAST}, 512 * 512),
    ],
)
def test_parameters_at_512(options: dict, more: int) -> None:
    without = {key: value for key, value in options.items() if key != "summary_window"}
    counts = [
        sum(p.numel() for p in build_mixer("SummaryMixing", MixerSize(512), **each).parameters())
        for each in (options, without)
    ]
    assert counts[0] - counts[1] == more


@pytest.mark.parametrize("windows", [4, 1, -3, [9, 10], [9, 9], [0]])
def test_what_is_no_window_is_refused(windows: int | list[int]) -> None:
    with pytest.raises(InputError, match=r"summary_window=.* holds .*odd numbers from 3"):
        SummaryMixing(D, summary_window=windows)


@pytest.mark.parametrize(
    "options",
    [{"mode": LITE}, {"mode": EXPDECAY}, {"combiner": False}, {"summary_proj": False}],
)
def test_cells_without_use_for_windows_say_so(options: dict) -> None:
    with pytest.raises(InputError, match=r"summary_window=\[9\] cannot be had in this cell"):
        SummaryMixing(D, summary_window=9, **options)
    SummaryMixing(D, summary_window=[], **options)


@pytest.mark.parametrize(("value", "radii"), [(None, ()), (9, (4,)), ([9, 49], (4, 24))])
def test_from_yaml(value: object, radii: tuple[int, ...]) -> None:
    shared = Path(__file__).parents[3] / "hparams" / "mixer.yaml"
    loaded = load_hyperpyyaml(shared.read_text(encoding="utf-8"), {"summary_window": value})
    cell = build_mixer("SummaryMixing", MixerSize(D, 4), **loaded["mixer_settings"])
    assert isinstance(cell, SummaryMixing) and cell.windows.radii == radii
