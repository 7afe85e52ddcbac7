"""The classifier: padding, poolings, tasks, and that everything in it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.models import ConvFrontEnd1d, TransformerASR
from summarymixing_modules.models.describe import build, describe
from summarymixing_modules.models.slu.classifier import (
    POOLINGS,
    AttentiveStatisticsPooling,
    ClassifierModel,
    MeanPooling,
)

LENGTHS = torch.tensor([50, 23, 41])


def make(pooling: str = "mean", attention_type: str = "SummaryMixing", **options: Any) -> Any:
    torch.manual_seed(0)
    frontend = ConvFrontEnd1d(8, (12, 12), dropout=0.0)
    transformer = TransformerASR(
        1,
        frontend.output_size,
        d_model=16,
        nhead=2,
        num_encoder_layers=1,
        num_decoder_layers=0,
        d_ffn=32,
        kernel_size=7,
        dropout=0.0,
        attention_type=attention_type,
    )
    tasks = {"tasks": ["scenario", "action"], "classes": [3, 5], **options}
    return ClassifierModel(frontend, transformer, pooling=pooling, **tasks)


def features() -> Tensor:
    torch.manual_seed(1)
    x_BTF = torch.randn(3, 50, 8)
    return x_BTF.masked_fill(torch.arange(50)[None, :, None] >= LENGTHS[:, None, None], 1e4)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("attention_type", ["SummaryMixing", "RoPEMHA"])
def test_an_utterance_is_the_same_alone(pooling: str, attention_type: str) -> None:
    """Output and gradient, in training mode."""
    model, x_BTF = make(pooling, attention_type).train(), features()

    def gradients(scores: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(scores.sum(), parameters, allow_unused=True))

    parameters = list(model.parameters())
    beside = [scores[1:2] for scores in model(x_BTF, LENGTHS)]
    alone = model(x_BTF[1:2, :23], LENGTHS[1:2])
    near = {"atol": 1e-5, "rtol": 1e-4}
    for task in range(2):
        torch.testing.assert_close(beside[task], alone[task], **near)
    pairs = zip(gradients(beside[0][:, 0]), gradients(alone[0][:, 0]), strict=True)
    for together, single in pairs:
        if together is not None:
            torch.testing.assert_close(together, single, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_scores_are_log_probabilities_of_every_task(pooling: str) -> None:
    scores = make(pooling)(features(), LENGTHS)
    assert [tuple(task.shape) for task in scores] == [(3, 3), (3, 5)]
    for task in scores:
        torch.testing.assert_close(task.exp().sum(-1), torch.ones(3))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_parameter_learns(pooling: str) -> None:
    model = make(pooling)
    sum(scores[:, 0].sum() for scores in model(features(), LENGTHS)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_mean_pooling_against_the_plain_mean() -> None:
    x_BTD, padding_BT = torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool)
    padding_BT[1, 2:] = True
    pooled_BP = MeanPooling(4)(x_BTD, padding_BT)
    torch.testing.assert_close(pooled_BP, torch.stack([x_BTD[0].mean(0), x_BTD[1, :2].mean(0)]))


def test_attentive_pooling_with_equal_weights_is_mean_and_deviation() -> None:
    pooling = AttentiveStatisticsPooling(4)
    torch.nn.init.zeros_(pooling.scores[2].weight)
    x_BTD, padding_BT = torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool)
    padding_BT[1, 3:] = True
    pooled_BP = pooling(x_BTD, padding_BT)
    for row, frames in enumerate((x_BTD[0], x_BTD[1, :3])):
        expected = torch.cat([frames.mean(0), frames.std(0, correction=0)])
        torch.testing.assert_close(pooled_BP[row], expected)


def test_attentive_pooling_follows_its_scores() -> None:
    pooling = AttentiveStatisticsPooling(1, 1)
    with torch.no_grad():
        for parameter, value in zip(pooling.parameters(), (1.0, 0.0, 50.0), strict=True):
            parameter.fill_(value)
    x_BTD = torch.tensor([[[2.0], [-3.0], [-1.0]]])
    mean, deviation = pooling(x_BTD, torch.zeros(1, 3, dtype=torch.bool))[0].tolist()
    assert mean == pytest.approx(2.0) and deviation == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_nothing_but_padding_stays_finite(pooling: str) -> None:
    module = POOLINGS[pooling](4)
    x_BTD = torch.randn(1, 5, 4, requires_grad=True)
    pooled_BP = module(x_BTD, torch.ones(1, 5, dtype=torch.bool))
    pooled_BP.sum().backward()
    assert torch.isfinite(pooled_BP).all() and torch.isfinite(x_BTD.grad).all()


def test_chunks_reach_the_encoder() -> None:
    model = make().eval()
    full = model(features(), LENGTHS)[0]
    assert not torch.allclose(full, model(features(), LENGTHS, DynChunkTrainConfig(2, 1))[0])


def test_a_description_makes_the_same_model() -> None:
    model = make("attentive").eval()
    again = build(describe(model)).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(features(), LENGTHS), model(features(), LENGTHS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "--pooling='max' must be one of mean, attentive"),
        ({"classes": [3]}, "must be lists of one length"),
        ({"tasks": "word", "classes": [3]}, "must be lists of one length"),
        ({"tasks": [], "classes": []}, "must be lists of one length"),
        ({"tasks": ["a", "a"]}, "a task is named twice"),
        ({"classes": [3, 0]}, "must be whole numbers from 1"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)
