"""Linear probes: regressions against a reference, CTC layers against each alone, padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.layer_data import split_speakers
from summarymixing_modules.probing.layer_probes import (
    RESULTS,
    LayerProbe,
    read_results,
    write_results,
)
from summarymixing_modules.probing.linear_probes import (
    CTCHeads,
    fit_logistic,
    frame_statistics,
    majority_accuracy,
    train_ctc_heads,
)
from summarymixing_modules.probing.states import StateBatch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def state_batch(states: int = 3, lengths: tuple[int, ...] = (12, 9), pad: int = 0) -> StateBatch:
    lengths_B = torch.tensor(lengths)
    states_NBTD = torch.randn(states, len(lengths), max(lengths) + pad, 5)
    tokens_BU = torch.tensor([[1, 2, 2], [3, 1, 0]])
    return StateBatch(["a", "b"], states_NBTD, lengths_B, tokens_BU, torch.tensor([3, 2]))


def test_a_separable_toy_is_learnt() -> None:
    classes_S = torch.arange(90) % 3
    x_SD = 5 * F.one_hot(classes_S, 3).float() + 0.1 * torch.randn(90, 3)
    x_SD = torch.cat([x_SD, torch.full((90, 1), 7.0)], dim=1)  # and a feature that never varies
    fit = fit_logistic(x_SD[:60], classes_S[:60], 3)
    assert fit.converged
    assert fit.accuracy(x_SD[60:], classes_S[60:]) == 100
    assert torch.equal(fit.predict(x_SD[:60]), classes_S[:60])


def test_the_regression_is_the_optimum_that_plain_gradient_descent_finds() -> None:
    x_SD, classes_S = torch.randn(50, 4) * torch.tensor([1.0, 30, 0.1, 2]) + 3, torch.arange(50) % 3
    fit = fit_logistic(x_SD, classes_S, 3)
    z_SD = (x_SD.double() - x_SD.double().mean(0)) / x_SD.double().std(0, correction=0)
    weight_KD = torch.zeros(3, 4, dtype=torch.double, requires_grad=True)
    bias_K = torch.zeros(3, dtype=torch.double, requires_grad=True)
    for _ in range(1500):
        loss = F.cross_entropy(z_SD @ weight_KD.T + bias_K, classes_S)
        loss = loss + weight_KD.square().sum() / 2 / 50
        gradients = torch.autograd.grad(loss, (weight_KD, bias_K))
        with torch.no_grad():
            weight_KD -= gradients[0]
            bias_K -= gradients[1]
    torch.testing.assert_close(fit.weight_KD, weight_KD.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(fit.bias_K, bias_K.detach(), atol=1e-3, rtol=0)
    again = fit_logistic(x_SD, classes_S, 3)
    assert torch.equal(again.weight_KD, fit.weight_KD)


def test_chance_is_that_of_the_most_frequent_training_class() -> None:
    train_S, test_S = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 0, 0])
    assert majority_accuracy(train_S, test_S) == 25


def test_padding_changes_neither_pooled_states_nor_statistics() -> None:
    batch = state_batch(pad=4)
    garbage_NBTD = batch.states_NBTD.clone()
    garbage_NBTD[:, 0, 12:], garbage_NBTD[:, 1, 9:] = 1e4, -1e4
    other = replace(batch, states_NBTD=garbage_NBTD)
    alone_ND = batch.states_NBTD[:, 1, :9].mean(dim=1)
    for padded in (batch, other):
        torch.testing.assert_close(padded.pooled()["b"], alone_ND)
    frames_NMD = torch.cat([batch.states_NBTD[:, 0, :12], batch.states_NBTD[:, 1, :9]], dim=1)
    mean_ND, deviation_ND = frame_statistics([other])
    torch.testing.assert_close(mean_ND, frames_NMD.mean(dim=1))
    torch.testing.assert_close(deviation_ND, frames_NMD.std(dim=1, correction=0))
    heads = CTCHeads(mean_ND, deviation_ND, 6)
    nn.init.normal_(heads.weight_NDV)
    torch.testing.assert_close(heads.losses(batch), heads.losses(other))


def test_states_are_kept_in_half_precision_unless_they_overflow() -> None:
    batch = state_batch()
    compact_NBTD = batch.compact().states_NBTD
    assert compact_NBTD.dtype == torch.half
    torch.testing.assert_close(compact_NBTD.float(), batch.states_NBTD, atol=2e-3, rtol=1e-3)
    batch.states_NBTD[0, 0, 0, 0] = 1e6
    assert torch.equal(batch.compact().states_NBTD, batch.states_NBTD)


def test_heads_trained_together_equal_heads_trained_alone() -> None:
    batches = [state_batch(), state_batch(lengths=(7, 8))]
    mean_ND, deviation_ND = frame_statistics(batches)
    together = CTCHeads(mean_ND, deviation_ND, 6)
    losses = train_ctc_heads(together, batches, 15, seed=1)
    assert len(losses) == 30 and sum(losses[-2:]) < sum(losses[:2])  # two batches an epoch
    for state in range(3):
        alone = CTCHeads(mean_ND[state : state + 1], deviation_ND[state : state + 1], 6)
        own = [
            replace(batch, states_NBTD=batch.states_NBTD[state : state + 1]) for batch in batches
        ]
        train_ctc_heads(alone, own, 15, seed=1)
        torch.testing.assert_close(alone.weight_NDV[0], together.weight_NDV[state])
        torch.testing.assert_close(alone.bias_NV[0], together.bias_NV[state])


def test_a_head_equals_a_linear_layer() -> None:
    batch = state_batch()
    heads = CTCHeads(torch.randn(3, 5), torch.rand(3, 5) + 0.5, 6)
    nn.init.normal_(heads.weight_NDV)
    nn.init.normal_(heads.bias_NV)
    expected: list[Tensor] = []
    for state in range(3):
        z_BTD = (batch.states_NBTD[state] - heads.mean_ND[state]) * heads.scale_ND[state]
        scores_BTV = F.linear(z_BTD, heads.weight_NDV[state].T, heads.bias_NV[state])
        expected.append(scores_BTV.log_softmax(-1))
    torch.testing.assert_close(heads(batch.states_NBTD), torch.stack(expected))


def test_utterances_that_ctc_cannot_align_are_found() -> None:
    whole = state_batch(lengths=(4, 2)).alignable()  # A B B needs a blank, so four frames
    assert whole.ids == ["a", "b"]
    kept = state_batch(lengths=(3, 5)).alignable()
    assert kept.ids == ["b"] and kept.lengths_B.tolist() == [5]
    assert kept.states_NBTD.shape == (3, 1, 5, 5) and kept.tokens_BU.tolist() == [[3, 1]]
    heads = CTCHeads(*frame_statistics([kept]), 6)
    assert bool(heads.losses(kept).isfinite().all())
    assert state_batch(lengths=(3, 1)).alignable().ids == []


def test_whole_chapters_are_held_out_where_there_are_several() -> None:
    counts = {"1-10": 6, "1-11": 6, "1-12": 6, "2-20": 10, "3-30": 1, "4-40": 2}
    chapters = {f"{name}-{n:04d}": name for name, count in counts.items() for n in range(count)}
    split = split_speakers(chapters, seed=1)
    assert split.left_out == ["3"] and split.by_chapter == 1
    assert not {*split.train} & {*split.test} and len(split.train) + len(split.test) == 30
    assert all(name.partition("-")[0] == who for name, who in (split.train | split.test).items())
    held = [name.rpartition("-")[0] for name in split.test]
    assert sorted(held.count(chapter) for chapter in ("1-10", "1-11", "1-12")) == [0, 0, 6]
    assert held.count("2-20") == 2 and held.count("4-40") == 1
    assert split_speakers(dict(reversed(chapters.items())), seed=1) == split
    assert any(split_speakers(chapters, seed=seed).test != split.test for seed in range(2, 5))


def test_results_are_written_and_read_back(tmp_path: Path) -> None:
    probe = LayerProbe("mine", "/x/mine", "abc", "speaker", {"seed": 1}, [40.0, 60.0], 5.0, {})
    files = write_results(tmp_path, [probe], [probe])
    assert [file.name for file in files] == [
        RESULTS,
        "layer_probes_speaker.png",
        "layer_probes_speaker.csv",
    ]
    assert files[1].stat().st_size > 10_000
    lines = files[2].read_text().splitlines()
    assert lines == ["encoder,layer,accuracy,chance", "mine,0,40.0,5.0", "mine,1,60.0,5.0"]
    assert read_results(tmp_path) == [probe]
    (tmp_path / RESULTS).write_text("{}]")
    with pytest.raises(InputError, match="does not hold results of layer probes"):
        read_results(tmp_path)
