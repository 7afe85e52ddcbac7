"""`summarymixing plan`: every recipe, figures of known models, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from summarymixing_modules.bench import plan
from summarymixing_modules.bench.flags import plan_parser
from summarymixing_modules.bench.planned import parameters_by_part, read_planned
from summarymixing_modules.bench.step_cost import FORMULAS, StepCost, make_inputs
from summarymixing_modules.cli import main
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.widths import count_parameters, without_memory

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
FILES = sorted(RECIPES.rglob("hparams/*.yaml"))
CTC = RECIPES / "LibriSpeech/ASR/CTC/hparams/small_conformer.yaml"
TINY = ["--num_encoder_layers=1", "--d_model=32", "--d_ffn=64", "--cnn_channels=[8, 8]"]


class Filterbanks:
    """As far as planning looks at SpeechBrain's."""

    class compute_STFT:
        hop_length = 160

    class compute_fbanks:
        n_mels = 8


class Linear(nn.Module):
    """A known number of FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16, bias=False)

    def forward(self, x_BTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        return self.layer(x_BTF)


class Choosing(Linear):
    """Looks at its numbers: every frame with a positive first feature."""

    def forward(self, x_BTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        return self.layer(x_BTF[x_BTF[..., 0] > -100])


def test_there_are_recipes() -> None:
    assert len(FILES) >= 30


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECIPES)))
def test_every_recipe_is_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read_planned(file, [])
    run = plan.shape_of_run(recipe, plan_parser().parse_args([]))
    assert run.audio >= run.seconds > 0 and run.accumulation >= 1
    assert not list(tmp_path.iterdir()), "planning left something on the disk"
    if not recipe.modules:
        assert "encoder" in recipe.missing
        return
    assert recipe.device == "meta"
    parts = parameters_by_part(recipe.modules)
    total = sum(count_parameters(module) for module in recipe.modules.values())
    assert sum(n for part, n in parts.items() if not part.startswith(" ")) == total > 0


def test_a_ctc_recipe_as_a_person_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gpus", "2", "--memory_gb=4", "--step_seconds=0.5", "--grad_accumulation_factor=2"]
    assert main(["plan", str(CTC), *TINY, *flags]) == 0
    out = capsys.readouterr().out
    assert "not needed here and not given: data_folder" in out
    for part in ("front end", "  of it mixers", "head output", "TFLOP", "longest batch in 4 GiB"):
        assert part in out
    assert "audio in an optimizer step: 0.04 h" in out  # 36 s x 2 x 2
    assert "optimizer steps: 1,900" in out and "audio in the training: 76 h" in out
    assert "time of the training: 0.3 h" in out


def test_figures_for_programs_and_a_measured_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(CTC), *TINY, "--json", "--measure", "--utterance_seconds=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] and found["measured_on"] == "cpu"
    assert found["measured_share"] == pytest.approx(2 / 36, rel=1e-6)
    expected = found["measured_seconds"] / found["measured_share"]
    assert found["step_seconds"] == pytest.approx(expected)
    assert found["training_hours"] == pytest.approx(1900 * expected / 3600)
    assert found["optimizer_bytes"] == 8 * found["parameters_trained"]
    assert found["weight_bytes"] >= 4 * found["parameters_total"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flops_and_memory_of_a_known_model(precision: str) -> None:
    with without_memory():
        model = Linear()
    cost = StepCost(model, Filterbanks(), 16_000, precision)
    got, frames = cost.at(3, 1.0), 101
    assert cost.exact
    assert got.flops == 3 * 2 * (2 * frames * 8 * 16)  # forward, and the gradient of the weights
    assert got.peak_bytes > 3 * frames * 16 * (4 if precision == "fp32" else 2)
    assert cost.at(6, 1.0).flops == 2 * got.flops


@pytest.mark.parametrize(
    ("conv", "multiply_adds"),  # of the forward pass: frames out x channels out x weights of each
    [
        (nn.Conv1d(8, 6, 3), 18 * 6 * 8 * 3),
        (nn.Conv1d(8, 8, 5, groups=8, bias=False), 16 * 8 * 5),
        (nn.Conv1d(8, 16, 3, stride=2, groups=8), 9 * 16 * 3),
        (nn.Conv1d(8, 12, 3, padding=2, dilation=2, groups=4), 20 * 12 * 2 * 3),
        (nn.Conv2d(8, 4, (3, 1), groups=2), 18 * 4 * 4 * 3),
        (nn.ConvTranspose1d(8, 6, 3, stride=2, groups=2), 20 * 8 * 3 * 3),
    ],
    ids=["dense", "depthwise", "strided", "dilated", "2d", "transposed"],
)
def test_flops_of_convolutions(conv: nn.Module, multiply_adds: int) -> None:
    """Backward holds the products of the forward pass twice, without gradient of the input once."""
    shape = (3, 8, 20, 1) if isinstance(conv, nn.Conv2d) else (3, 8, 20)
    for times in (2, 3):
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            conv(torch.randn(shape, requires_grad=times == 3)).sum().backward()
        assert counter.get_total_flops() == times * 2 * 3 * multiply_adds


def test_what_looks_at_numbers_is_extrapolated() -> None:
    with without_memory():
        model, plain = Choosing(), Linear()
    cost = StepCost(model, Filterbanks(), 16_000, "fp32")
    want = StepCost(plain, Filterbanks(), 16_000, "fp32").at(5, 30.0)
    got = cost.at(5, 30.0)
    assert not cost.exact and got.flops == pytest.approx(want.flops, rel=1e-3)


def test_counting_equals_running() -> None:
    """The fake step of a real recipe has the FLOPs and nearly the peak of the real one."""
    fake, real = (read_planned(CTC, TINY, real=real) for real in (False, True))
    counted = plan.step_cost(fake)
    run = plan.step_cost(real)
    assert counted.at(2, 3.0).flops == run.at(2, 3.0).flops
    assert counted.at(2, 3.0).peak_bytes == pytest.approx(run.at(2, 3.0).peak_bytes, rel=0.02)


def test_attention_is_counted_and_grows_with_the_square() -> None:
    flops = {}
    for mixer in ("RoPEMHA", "SummaryMixing"):
        cost = plan.step_cost(read_planned(CTC, [*TINY, f"--attention_type={mixer}"]))
        flops[mixer] = [cost.at(1, seconds).flops / seconds for seconds in (4.0, 40.0)]
    assert flops["RoPEMHA"][1] > 1.3 * flops["RoPEMHA"][0]
    assert flops["SummaryMixing"][1] == pytest.approx(flops["SummaryMixing"][0], rel=0.01)


def test_longest_batch_just_fits(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["plan", str(CTC), *TINY, "--json", "--memory_gb=1"]
    main(base)
    longest = json.loads(capsys.readouterr().out)["longest_batch_seconds"]
    totals = []
    for batch in (longest, longest + 15):
        main([*base, f"--max_batch_length={batch:g}", "--max_batch_ex=100000"])
        totals.append(json.loads(capsys.readouterr().out)["total_bytes"])
    assert totals[0] <= 2**30 < totals[1]


@pytest.mark.parametrize(
    ("optimizer", "size"),
    [(torch.optim.AdamW, 8), (torch.optim.SGD, 0), (torch.optim.Adagrad, 4)],
)
def test_state_of_optimizers(optimizer: Any, size: int) -> None:
    assert (
        plan.optimizer_bytes({"opt_class": lambda parameters: optimizer(parameters, lr=0.1)})
        == size
    )


def test_inputs_by_the_names_of_arguments() -> None:
    inputs = make_inputs(Linear(), Filterbanks(), 16_000, 2, 1.5)
    assert inputs["x_BTF"].shape == (2, 151, 8) and inputs["lengths_B"].tolist() == [151, 151]

    class Strange(Linear):
        def forward(self, x_BTF: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return self.layer(x_BTF)

    with pytest.raises(InputError, match="Strange.forward takes 'graph'"):
        StepCost(Strange(), Filterbanks(), 16_000, "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(CTC.with_name("smal_conformer.yaml"))], "Did you mean small_conformer.yaml"),
        (["/nope.yaml"], "/nope.yaml"),
        ([str(CTC), "--attention_typ=mamba"], "--attention_typ"),
        ([str(CTC), "--attention_type=mambo"], "Did you mean mamba?"),
        ([str(CTC), "--nhead=0"], "--nhead=0 must be a whole number from 1 on"),
        ([str(CTC), "--nhead=3", "--d_model=16"], "cannot be had with --d_model=16 and --nhead=3"),
        ([str(CTC), "--mixer_options={a"], "--mixer_options={a cannot be read as YAML"),
        ([str(CTC), "--gpus=0"], "--gpus=0 must be above 0"),
        ([str(CTC), "--measure", "--step_seconds=1"], "keep one of them"),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 1
    assert message in capsys.readouterr().err
