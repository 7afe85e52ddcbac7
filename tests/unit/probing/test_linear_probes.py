"""Linear probes: regressions against a reference, CTC layers against each alone, padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.layer_figures import (
    RESULTS,
    LayerProbe,
    read_results,
    write_results,
)
from summarymixing_modules.probing.layer_probes import (
    GRADIENT_TOLERANCE,
    CTCHeads,
    fit_logistic,
    majority_accuracy,
    split_speakers,
)
from summarymixing_modules.probing.layer_states import StateBatch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def state_batch(states: int = 3, lengths: tuple[int, ...] = (12, 9), pad: int = 0) -> StateBatch:
    lengths_B = torch.tensor(lengths)
    states_NBTD = torch.randn(states, len(lengths), max(lengths) + pad, 5)
    return StateBatch(["a", "b"], states_NBTD, lengths_B, ["ABB", "CA"])


def test_a_separable_toy_is_learnt() -> None:
    classes_S = torch.arange(90) % 3
    x_SD = 5 * F.one_hot(classes_S, 3).float() + 0.1 * torch.randn(90, 3)
    x_SD = torch.cat([x_SD, torch.full((90, 1), 7.0)], dim=1)  # and a feature that never varies
    scores_SK, gradient = fit_logistic(x_SD, classes_S, range(60))
    assert gradient <= GRADIENT_TOLERANCE
    assert torch.equal(scores_SK.argmax(dim=-1), classes_S)


def test_the_regression_is_the_optimum_that_plain_gradient_descent_finds() -> None:
    x_SD, classes_S = torch.randn(50, 4) * torch.tensor([1.0, 30, 0.1, 2]) + 3, torch.arange(50) % 3
    scores_SK, _ = fit_logistic(x_SD, classes_S, range(50))
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
    best_SK = (z_SD @ weight_KD.T + bias_K).detach()
    torch.testing.assert_close(scores_SK, best_SK, atol=1e-3, rtol=0)
    assert torch.equal(fit_logistic(x_SD, classes_S, range(50))[0], scores_SK)


def test_chance_is_that_of_the_most_frequent_training_class() -> None:
    train_S, test_S = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 0, 0])
    assert majority_accuracy(train_S, test_S) == 25


def test_padding_changes_neither_pooled_states_nor_statistics() -> None:
    batch = state_batch(pad=4)
    garbage_NBTD = batch.states_NBTD.clone()
    garbage_NBTD[:, 0, 12:], garbage_NBTD[:, 1, 9:] = 1e4, -1e4
    other = batch._replace(states_NBTD=garbage_NBTD)
    alone_ND = batch.states_NBTD[:, 1, :9].mean(dim=1)
    for padded in (batch, other):
        torch.testing.assert_close(padded.pooled()["b"], alone_ND)
    frames_NMD = torch.cat([batch.states_NBTD[:, 0, :12], batch.states_NBTD[:, 1, :9]], dim=1)
    heads = CTCHeads([other])
    torch.testing.assert_close(heads.mean_ND, frames_NMD.mean(dim=1))
    torch.testing.assert_close(1 / heads.scale_ND, frames_NMD.std(dim=1, correction=0))
    nn.init.normal_(heads.weight_NDV)
    torch.testing.assert_close(heads.losses(batch), heads.losses(other))


def test_states_are_kept_in_half_precision_unless_they_overflow() -> None:
    batch = state_batch()
    compact_NBTD = batch.alignable().states_NBTD
    assert compact_NBTD.dtype == torch.half
    torch.testing.assert_close(compact_NBTD.float(), batch.states_NBTD, atol=2e-3, rtol=1e-3)
    batch.states_NBTD[0, 0, 0, 0] = 1e6
    assert torch.equal(batch.alignable().states_NBTD, batch.states_NBTD)


def test_heads_trained_together_equal_heads_trained_alone() -> None:
    batches = [state_batch(), state_batch(lengths=(7, 8))]
    together = CTCHeads(batches)
    before = sum(together.losses(batch).sum().item() for batch in batches)
    together.fit(batches, 15, seed=1, title="together")
    assert sum(together.losses(batch).sum().item() for batch in batches) < before
    for state in range(3):
        own = [b._replace(states_NBTD=b.states_NBTD[state : state + 1]) for b in batches]
        alone = CTCHeads(own)
        alone.fit(own, 15, seed=1, title="alone")
        torch.testing.assert_close(alone.weight_NDV[0], together.weight_NDV[state])
        torch.testing.assert_close(alone.bias_NV[0], together.bias_NV[state])


def test_a_head_equals_a_linear_layer() -> None:
    batch = state_batch()
    heads = CTCHeads([state_batch()])
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
    assert kept.states_NBTD.shape == (3, 1, 5, 5) and kept.texts == ["CA"]
    assert bool(CTCHeads([kept]).losses(kept).isfinite().all())
    assert state_batch(lengths=(3, 1)).alignable().ids == []


def test_whole_chapters_are_held_out_where_there_are_several() -> None:
    counts = {"1-10": 6, "1-11": 6, "1-12": 6, "2-20": 10, "3-30": 1, "4-40": 2}
    chapters = {f"{name}-{n:04d}": name for name, count in counts.items() for n in range(count)}
    train, test, left_out, by_chapter = split = split_speakers(chapters, seed=1)
    assert left_out == ["3"] and by_chapter == 1
    assert not {*train} & {*test} and len(train) + len(test) == 30
    assert all(name.partition("-")[0] == who for name, who in (train | test).items())
    held = [name.rpartition("-")[0] for name in test]
    assert sorted(held.count(chapter) for chapter in ("1-10", "1-11", "1-12")) == [0, 0, 6]
    assert held.count("2-20") == 2 and held.count("4-40") == 1
    assert split_speakers(dict(reversed(chapters.items())), seed=1) == split
    assert any(split_speakers(chapters, seed=seed)[1] != test for seed in range(2, 5))


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
