"""The switches of SummaryMixing: activations, depth and width, statistics other than the mean."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerSize, SummaryMixing, build_mixer
from summarymixing_modules.mixers.naive import naive_summary_mixing
from summarymixing_modules.mixers.summary_options import (
    EXPDECAY,
    FAST,
    LITE,
    MEAN_STD,
    MODES,
    STATISTICS,
    WEIGHTED,
)
from summarymixing_modules.mixers.summary_statistics import WeightedMean
from summarymixing_modules.ops.chunks import Chunks, pad_to_chunks
from summarymixing_modules.ops.naive import naive_mean_and_deviation
from summarymixing_modules.ops.pooling import (
    chunk_moments,
    mean_and_deviation,
    merge_moments,
    merge_prefixes,
    merge_windows,
)
from tests.tensors import padding_of, relative_error

D = 16
CHUNKS = [(None, None), (1, None), (4, None), (4, 0), (4, 2), (3, 1), (50, 1)]
OFF = {"local_activation": False, "summary_activation": False, "combiner_activation": False}
FORMS: dict[str, dict[str, object]] = {
    "weighted": {"summary_statistic": WEIGHTED},
    "weighted, 4 heads": {"summary_statistic": WEIGHTED, "nhead": 4, "use_layernorm": False},
    "weighted lite": {"summary_statistic": WEIGHTED, "nhead": 2, "mode": LITE},
    "weighted fast": {"summary_statistic": WEIGHTED, "mode": FAST},
    "mean_std": {"summary_statistic": MEAN_STD, "summary_out_dim": 24},
    "mean_std, 4 heads": {"summary_statistic": MEAN_STD, "nhead": 4, "use_layernorm": False},
    "mean_std fast": {"summary_statistic": MEAN_STD, "mode": FAST, "summary_out_dim": 8},
    "f linear": {"local_activation": False, "local_proj_hid_dim": [], "use_layernorm": False},
    "f ends linear": {"local_activation": False, "nhead": 2},
    "s ends linear": {"summary_activation": False, "summary_hid_dim": [8, 24], "nhead": 2},
    "s linear in lite": {"summary_activation": False, "summary_hid_dim": [], "mode": LITE},
    "c linear in fast": {"combiner_activation": False, "local_activation": False, "mode": FAST},
    "window": {"summary_window": 5, "nhead": 2},
    "windows": {"summary_window": [3, 9, 61], "use_layernorm": False, "summary_out_dim": 24},
    "wider than is added up": {"summary_window": [257], "local_activation": False},
    "window fast": {"summary_window": [7], "mode": FAST, "local_proj_out_dim": 8},
    "window, deviations": {"summary_window": 5, "summary_statistic": MEAN_STD, "nhead": 4},
    "window, weighted, c linear": {
        "summary_window": 5,
        "summary_statistic": WEIGHTED,
        "combiner_activation": False,
    },
    "window, no f": {"summary_window": [3], "local_proj": False},
    "no f": {"local_proj": False, "nhead": 2},
    "no f, fast, deviations": {"local_proj": False, "mode": FAST, "summary_statistic": MEAN_STD},
    "no s": {"summary_proj": False, "nhead": 2, "local_proj_out_dim": 24},
    "no c": {"combiner": False, "nhead": 2, "local_activation": False},
    "no c, fast, weighted": {"combiner": False, "mode": FAST, "summary_statistic": WEIGHTED},
    "no f, no c": {"local_proj": False, "combiner": False},
    "all linear, decay": {**OFF, "mode": EXPDECAY, "summary_hid_dim": []},
    "all linear, weighted": {**OFF, "summary_statistic": WEIGHTED},
}


def cell_of(**options: object) -> SummaryMixing:
    return SummaryMixing(D, **{"global_dropout": 0.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("chunk_size", "left"), CHUNKS)
@pytest.mark.parametrize("length", [1, 27])
def test_equals_the_textbook(
    form: str, chunk_size: int | None, left: int | None, length: int
) -> None:
    torch.manual_seed(length)
    cell = cell_of(**FORMS[form])
    exact = copy.deepcopy(cell).double()
    padding = padding_of(length, max(1, length // 2), 0)
    x_fast = torch.randn(3, length, D, requires_grad=True)
    x_exact = x_fast.detach().double().requires_grad_()
    got = cell(x_fast, padding, chunk_size, left)
    want = naive_summary_mixing(exact, x_exact, padding, chunk_size, left)
    seen = torch.randn(3, length, D).masked_fill(padding[..., None], 0.0)
    (got * seen).sum().backward()
    (want * seen.double()).sum().backward()
    assert relative_error(got[~padding], want[~padding]) < 1e-5
    assert x_fast.grad is not None and x_exact.grad is not None
    assert relative_error(x_fast.grad, x_exact.grad) < 1e-4
    assert x_fast.grad[padding].abs().max() == 0
    for (name, fast), slow in zip(cell.named_parameters(), exact.parameters(), strict=True):
        assert fast.grad is not None and slow.grad is not None
        # One frame has weight 1 whatever its score: that gradient is rounding alone.
        if slow.grad.norm() > 1e-9:
            assert relative_error(fast.grad, slow.grad) < 1e-4, name


@pytest.mark.parametrize("form", ["weighted", "mean_std", "window", "windows", "window fast"])
@pytest.mark.parametrize(
    ("chunk_size", "left"), [(1, None), (5, None), (4, 0), (4, 3), (8, 2), (50, 2)]
)
@torch.no_grad()
def test_streaming_is_exact(form: str, chunk_size: int, left: int | None) -> None:
    torch.manual_seed(0)
    cell = cell_of(**FORMS[form]).double()
    x_BTD, padding = torch.randn(2, 27, D).double(), padding_of(27, 11)
    state, chunks = cell.initial_state(2, left), []
    for start in range(0, 27, chunk_size):
        part = slice(start, start + chunk_size)
        y_BTD, state = cell.step(x_BTD[:, part], state, padding[:, part])
        chunks.append(y_BTD)
        assert state.memory.past_BLX.shape[:2] == (2, 1 if left is None else left)
    want = naive_summary_mixing(cell, x_BTD, padding, chunk_size, left)
    torch.testing.assert_close(torch.cat(chunks, 1)[~padding], want[~padding])


@pytest.mark.parametrize(("chunk_size", "left"), CHUNKS)
def test_softmax_survives_any_scores(chunk_size: int | None, left: int | None) -> None:
    """Scores from -1000 to 1000: early windows see only frames that weigh e^-1000 of the last."""
    torch.manual_seed(0)
    cell = cell_of(summary_statistic=WEIGHTED, nhead=2, mode=LITE, activation=nn.Identity)
    assert isinstance(cell.statistic, WeightedMean)
    nn.init.constant_(cell.statistic.score, 10.0)
    exact = copy.deepcopy(cell).double()
    x_BTD = torch.randn(2, 40, D)
    padding = padding_of(40, 23)
    s_BTS = torch.linspace(-10, 10, 40)[None, :, None] + 0.1 * torch.randn(2, 40, D)
    got = _statistic(cell, s_BTS, padding, chunk_size, left)
    want = _statistic(exact, s_BTS.double(), padding, chunk_size, left)
    assert relative_error(got, want) < 1e-4
    x_BTD.requires_grad_()
    (1e3 * cell(x_BTD, padding, chunk_size, left))[~padding].sum().backward()
    assert x_BTD.grad is not None and x_BTD.grad.isfinite().all()


def _statistic(
    cell: SummaryMixing, s_BTS: Tensor, padding: Tensor, chunk_size: int | None, left: int | None
) -> Tensor:
    chunks = Chunks.spanning(Chunks.of(chunk_size, left), s_BTS.shape[1])
    s_BTS, padding_BT = pad_to_chunks(s_BTS, padding, chunks.size)
    return cell.statistic(s_BTS, padding_BT, chunks)


@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (8, None), (8, 2), (2000, None)])
def test_deviation_far_from_zero(chunk_size: int, left: int | None) -> None:
    """Mean 1000, deviation 0.1: a sum of squares in float32 would have no correct digit left."""
    torch.manual_seed(0)
    x_BTS = 1000 + 0.1 * torch.randn(1, 2000, 4)
    moments = merge_windows(
        chunk_moments(x_BTS, None, chunk_size), left, merge_moments, torch.zeros(9)
    )
    got = mean_and_deviation(moments)[0, -1]
    first = 0 if left is None else 2000 - (left + 1) * chunk_size
    want = x_BTS[0, first:].double()
    assert relative_error(got[4:], want.std(0, correction=0)) < 1e-4
    assert relative_error(got[:4], want.mean(0)) < 1e-6


def test_deviation_of_what_does_not_vary() -> None:
    """One frame, or the same frame again and again: zero to 1e-5, and a gradient that is finite."""
    x_BTS = torch.full((1, 12, 3), 0.1).requires_grad_()
    for length in (1, 12):
        both = mean_and_deviation(chunk_moments(x_BTS[:, :length], None, length))[0, 0]
        both.sum().backward()
        torch.testing.assert_close(both[:3], torch.full((3,), 0.1))
        assert both[3:].max() < 2e-5
    assert x_BTS.grad is not None and x_BTS.grad.abs().max() < 1.2
    torch.testing.assert_close(
        naive_mean_and_deviation(x_BTS, None, Chunks(1))[0, :, 3:], torch.full((12, 3), 1e-5)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_merges_cover_every_window_once(count: int) -> None:
    """With a merge that lists what it was given: every window holds its chunks and no other."""
    x_BCX = torch.eye(count)[None]
    prefixes = merge_prefixes(x_BCX, torch.add)[0]
    assert torch.equal(prefixes, torch.ones(count, count).tril())
    for left in range(count + 2):
        windows = merge_windows(x_BCX, left, torch.add, torch.zeros(count))[0]
        assert torch.equal(windows, torch.ones(count, count).tril().triu(-left))


@pytest.mark.parametrize("statistic", [WEIGHTED, MEAN_STD])
def test_long_streams_keep_their_precision(statistic: str) -> None:
    torch.manual_seed(0)
    cell = cell_of(summary_statistic=statistic)
    x_BTD = torch.randn(1, 8192, D) + 3.0
    got = cell(x_BTD, None, 8, 1)[:, -8:]
    want = cell.double()(x_BTD[:, -16:].double())[:, -8:]
    assert relative_error(got, want) < 1e-5


@torch.no_grad()
def test_all_linear_is_affine() -> None:
    """Every activation off and no hidden layers: nothing of the cell bends any more."""
    torch.manual_seed(0)
    sizes = {"local_proj_hid_dim": [], "summary_hid_dim": [], "use_layernorm": False}
    a, b = torch.randn(2, 1, 9, D).double()
    bent = []
    for switches in itertools.product((True, False), repeat=3):
        cell = cell_of(**sizes, **dict(zip(OFF, switches, strict=True))).double()
        gap = cell(a + b) + cell(torch.zeros_like(a)) - cell(a) - cell(b)
        bent.append(gap.abs().max().item() > 1e-9)
    assert bent == [True] * 7 + [False]


def test_equal_scores_are_the_mean() -> None:
    torch.manual_seed(0)
    weighted, x_BTD = cell_of(summary_statistic=WEIGHTED, nhead=4), torch.randn(2, 11, D)
    mean = cell_of(nhead=4)
    missing = mean.load_state_dict(weighted.state_dict(), strict=False)
    assert missing.missing_keys == [] and missing.unexpected_keys == ["statistic.score"]
    assert isinstance(weighted.statistic, WeightedMean)
    assert not torch.allclose(weighted(x_BTD), mean(x_BTD), atol=1e-6)
    nn.init.zeros_(weighted.statistic.score)
    torch.testing.assert_close(weighted(x_BTD), mean(x_BTD))


def test_scores_stay_in_float32() -> None:
    cell = cell_of(summary_statistic=WEIGHTED)
    assert isinstance(cell.statistic, WeightedMean)
    s_BTS = torch.randn(1, 5, D)
    want_BTN = cell.statistic.scores(s_BTS)
    torch.testing.assert_close(want_BTN, s_BTS @ cell.statistic.score.T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cell.statistic.scores(s_BTS), want_BTN)
    cell.bfloat16()
    assert cell.statistic.scores(s_BTS.bfloat16()).dtype == torch.float32
    assert cell.initial_state(1).memory.past_BLX.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 788_992),
        (OFF, 788_992),
        ({"summary_statistic": WEIGHTED}, 788_992 + 512),
        ({"summary_statistic": MEAN_STD}, 788_992 + 512 * 512),
        ({"summary_statistic": MEAN_STD, "summary_out_dim": 256}, 788_992 - (128 * 256 + 256)),
        ({"summary_hid_dim": [], "local_proj_hid_dim": []}, 788_992 - 2 * (128 * 512 + 512)),
        ({"summary_hid_dim": [512, 512]}, 788_992 + 128 * 512 + 512),
        ({"summary_hid_dim": [128]}, 788_992 - 2 * 128 * 384 - 384),
        ({"mode": LITE, "summary_statistic": WEIGHTED}, 132_096 + 512),
        ({"local_proj": False}, 132_096 + 512 * 512 + 512),
        ({"summary_proj": False}, 132_096 + 512 * 512 + 512),
        ({"combiner": False}, 2 * 132_096),
        ({"mode": FAST, "summary_statistic": MEAN_STD}, 1_050_112 + 512 * 512),
    ],
)
def test_parameters_at_512(options: dict, parameters: int) -> None:
    cell = SummaryMixing(512, 4, use_layernorm=False, **options)
    assert sum(p.numel() for p in cell.parameters()) == parameters


@torch.no_grad()
def test_lite_has_neither_f_nor_c() -> None:
    torch.manual_seed(0)
    lite, x_BTD = cell_of(mode=LITE, nhead=2), torch.randn(2, 9, D)
    cell = cell_of(local_proj=False, combiner=False, use_layernorm=False, nhead=2)
    cell.load_state_dict(lite.state_dict())
    assert torch.equal(cell(x_BTD, chunk_size=4), lite(x_BTD, chunk_size=4))


def test_the_default_has_no_new_name() -> None:
    names = {name.rsplit(".", 1)[0] for name in cell_of().state_dict()}
    assert names == {
        "input_proj",
        "local_layers.0",
        "summary_layers.0",
        "local_norm",
        "summary_norm",
        "combine_local",
        "combine_summary",
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hidden", [[], [32], [8, 24]])
def test_any_depth_in_every_mode(mode: str, hidden: list[int]) -> None:
    options = {"mode": mode, "summary_hid_dim": hidden, "local_proj_hid_dim": hidden}
    cell = build_mixer("SummaryMixing", MixerSize(D, 4), **options)
    assert isinstance(cell, SummaryMixing)
    depth = 0 if mode == FAST else len(hidden)
    assert len(cell.summary_layers) == depth
    assert len(cell.local_layers) == (0 if mode == LITE else depth)
    x_BTD, padding = torch.randn(2, 9, D), padding_of(9, 4)
    cell.eval()
    for chunk in ((None, None), (4, 1)):
        want = naive_summary_mixing(cell, x_BTD, padding, *chunk)
        torch.testing.assert_close(cell(x_BTD, padding, *chunk)[~padding], want[~padding])


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="unknown summary_statistic 'median'. Known: mean, weigh"):
        cell_of(summary_statistic="median")
    for statistic in (WEIGHTED, MEAN_STD):
        with pytest.raises(InputError, match=rf"{statistic} .*expdecay.*leave it at mean"):
            cell_of(mode=EXPDECAY, summary_statistic=statistic)
    with pytest.raises(InputError, match="mean_std .*lite.*Choose mean or weighted, or mode="):
        cell_of(mode=LITE, summary_statistic=MEAN_STD)
    for flag in ("local_activation", "combiner_activation"):
        with pytest.raises(InputError, match=f"{flag}=False .*lite.*leave it out"):
            cell_of(mode=LITE, **{flag: False})
    for mode in (LITE, EXPDECAY):
        with pytest.raises(InputError, match=f"combiner=False .*mode={mode}: leave it True"):
            cell_of(mode=mode, combiner=False)
    with pytest.raises(InputError, match="leave nothing of the cell.*cnnonly"):
        cell_of(local_proj=False, summary_proj=False)
    with pytest.raises(InputError, match="summary_statistic=weighted .*which has no s"):
        cell_of(summary_proj=False, summary_statistic=WEIGHTED)
    with pytest.raises(InputError, match="global_dropout=0.1 .*which has no c"):
        cell_of(combiner=False, global_dropout=0.1)
    with pytest.raises(InputError, match=r"32 features \(summary_out_dim\) must be enc_dim=16"):
        cell_of(combiner=False, summary_statistic=MEAN_STD)
    with pytest.raises(InputError, match="a layer of 6 features .*nhead=4.*summary_hid_dim"):
        cell_of(nhead=4, summary_hid_dim=[6])
    with pytest.raises(InputError, match="a layer of 0 features .*local_proj_hid_dim"):
        cell_of(local_proj_hid_dim=[0])


@pytest.mark.parametrize("statistic", STATISTICS)
def test_switches_can_be_set_from_yaml(statistic: str) -> None:
    shared = Path(__file__).parents[3] / "hparams" / "mixer.yaml"
    overrides = {"summary_statistic": statistic, "combiner_activation": False}
    overrides |= {"local_proj_out_dim": D, "summary_out_dim": D, "summary_hid_dim": []}
    options = load_hyperpyyaml(shared.read_text(encoding="utf-8"), overrides)["mixer_settings"]
    cell = build_mixer("SummaryMixing", MixerSize(D, 4), **options)
    assert isinstance(cell, SummaryMixing)
    assert cell.local_activation and cell.summary_activation and not cell.combiner_activation
    assert type(cell.statistic) is type(cell_of(summary_statistic=statistic).statistic)
