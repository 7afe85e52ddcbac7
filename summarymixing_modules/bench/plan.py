"""``summarymixing plan``: what a recipe will want, before anything is launched."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from summarymixing_modules.bench.flags import plan_parser
from summarymixing_modules.bench.measure import Timing, time_interleaved
from summarymixing_modules.bench.memory import GIB, is_out_of_memory
from summarymixing_modules.bench.plan_text import as_text
from summarymixing_modules.bench.planned import (
    PlannedRecipe,
    parameters_by_part,
    read_planned,
)
from summarymixing_modules.bench.step_cost import StepCost, make_inputs, train_step
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.widths import count_parameters

UTTERANCE = 15.0  # seconds, where a recipe does not limit them
MEASURED_STEPS = 3
CPU_UTTERANCE = 10.0  # seconds; a CPU is not timed on whole batches
# Hours of LibriSpeech's parts (openslr.org/12), from which epochs become steps.
HOURS = {"train-clean-100": 100.6, "train-clean-360": 363.6, "train-other-500": 496.7}


@dataclass(frozen=True)
class Run:
    """The shape of a training.

    Attributes:
        audio: seconds of it in a batch of one process.
        seconds: of its utterances, the longest that the recipe takes.
        accumulation: batches in an optimizer step.
        gpus: processes.
        steps: optimizer steps; None = not told by the recipe.
        why: how the steps were told.
    """

    audio: float
    seconds: float
    accumulation: int
    gpus: int
    steps: int | None = None
    why: str = "give --corpus_hours to turn epochs into steps"

    @property
    def hours_per_step(self) -> float:
        """Of audio, over all processes."""
        return self.audio * self.accumulation * self.gpus / 3600

    @property
    def batch(self) -> float:
        """Utterances in a batch; all costs are linear in them."""
        return self.audio / self.seconds


def run_plan(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Raises:
        InputError: a flag that means nothing, or a recipe that train.py would refuse, too.
    """
    arguments, flags = plan_parser().parse_known_args(arguments.flags, arguments)
    _check_flags(arguments)
    recipe = read_planned(Path(arguments.recipe), flags)
    found = describe(recipe, arguments)
    if arguments.measure and recipe.modules:
        found |= measure(read_planned(recipe.file, flags, real=True), found)
    found |= duration(found, arguments.step_seconds)
    print(json.dumps(found, indent=2) if arguments.json else as_text(found))
    return 0


def describe(recipe: PlannedRecipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that needs no running."""
    run = shape_of_run(recipe, arguments)
    found: dict[str, Any] = {
        "recipe": str(recipe.file),
        "missing": list(recipe.missing),
        "precision": recipe.setting("precision", "fp32"),
        "batch_seconds": run.audio,
        "utterance_seconds": run.seconds,
        "accumulation": run.accumulation,
        "gpus": run.gpus,
        "steps": run.steps,
        "steps_from": run.why,
        "hours_per_step": None if recipe.on_text else run.hours_per_step,
        "hours": None,
    }
    if run.steps is not None and not recipe.on_text:
        found["hours"] = run.steps * run.hours_per_step
    if not recipe.modules:
        return {**found, "parameters": None}
    found["parameters"] = parameters_by_part(recipe.modules)
    found["parameters_total"] = sum(map(count_parameters, recipe.modules.values()))
    trained = [p for m in recipe.modules.values() for p in m.parameters() if p.requires_grad]
    found["parameters_trained"] = sum(parameter.numel() for parameter in trained)
    cost = step_cost(recipe)
    one_batch = cost.at(run.batch, run.seconds)
    found["exact"] = cost.exact
    found["flops_per_step"] = one_batch.flops * run.accumulation * run.gpus
    return found | memory(recipe, cost, run, found["parameters_trained"], arguments.memory_gb)


def step_cost(recipe: PlannedRecipe) -> StepCost:
    """Cost of the recipe's model."""
    model = recipe.modules.get("model")
    if model is None:
        raise InputError(f"{recipe.file} has modules but no modules[model]: plan cannot run it.")
    return StepCost(
        model,
        recipe.hparams.get("compute_features"),
        int(recipe.setting("sample_rate", 16_000)),
        str(recipe.setting("precision", "fp32")),
    )


def shape_of_run(recipe: PlannedRecipe, arguments: argparse.Namespace) -> Run:
    """Batches and steps, from the keys of the recipe."""
    longest = arguments.utterance_seconds or recipe.setting("avoid_if_longer_than") or UTTERANCE
    seconds, length = float(longest), recipe.setting("max_batch_length")
    audio = seconds * float(recipe.setting("batch_size", 1)) if length is None else float(length)
    seconds = min(seconds, audio)
    audio = min(audio, seconds * float(recipe.setting("max_batch_ex", math.inf)))
    run = Run(audio, seconds, int(recipe.setting("grad_accumulation_factor", 1)), arguments.gpus)
    limit = recipe.setting("optimizer_step_limit")
    if limit is not None:
        return replace(run, steps=int(limit), why="optimizer_step_limit")
    if recipe.on_text:
        return replace(run, why="epochs of text are not told")
    epochs, hours = recipe.setting("number_of_epochs"), arguments.corpus_hours
    if hours is None:
        # Probes of other tasks are variants of the one on LibriSpeech, and may keep its key.
        own = recipe.setting("task", "librispeech_asr") == "librispeech_asr"
        splits = recipe.setting("train_splits", []) if own else []
        hours = sum(HOURS.get(split, math.nan) for split in splits) if splits else math.nan
    if epochs is None or math.isnan(hours):
        return run
    steps = int(epochs) * math.ceil(hours / run.hours_per_step)
    return replace(run, steps=steps, why=f"{epochs} epochs of {hours:g} h, all batches full")


def memory(
    recipe: PlannedRecipe, cost: StepCost, run: Run, trained: int, memory_gb: float | None
) -> dict[str, Any]:
    """Bytes of a process, and the longest batch that fits.

    The peak of forward and backward holds the gradients that exist by then. Gradients count once
    more where they exist before it: with accumulation, and in the buckets of DDP.
    """
    weights = sum(
        tensor.numel() * tensor.element_size()
        for module in recipe.modules.values()
        for tensor in (*module.parameters(), *module.buffers())
    )
    gradients = 4 * trained
    states = trained * optimizer_bytes(recipe.hparams)
    more = gradients * ((run.accumulation > 1) + (run.gpus > 1))
    peak, fixed = cost.at(run.batch, run.seconds).peak_bytes, weights + states + more
    if memory_gb is None and torch.cuda.is_available():
        memory_gb = torch.cuda.get_device_properties(0).total_memory / GIB
    found: dict[str, Any] = {
        "weight_bytes": weights,
        "gradient_bytes": gradients + more,
        "optimizer_bytes": states,
        "activation_bytes": max(0.0, peak - gradients),
        "total_bytes": fixed + peak,
        "memory_gb": memory_gb,
        "longest_batch_seconds": None,
    }
    if memory_gb is not None:
        one, two = (cost.at(batch, run.seconds).peak_bytes for batch in (1, 2))
        room = memory_gb * GIB - fixed - one
        fitting = 0 if room < 0 else 1 + int(room // max(two - one, 1))
        found["longest_batch_seconds"] = fitting * run.seconds
    return found


def optimizer_bytes(hparams: Mapping[str, Any]) -> float:
    """Bytes of state for a parameter, of the hungriest optimizer in the recipe: it is tried out."""
    most, numbers = 0.0, 1000
    for key, make in hparams.items():
        if not key.endswith("opt_class"):
            continue
        parameter = nn.Parameter(torch.zeros(numbers))
        optimizer = make([parameter])
        parameter.grad = torch.ones(numbers)
        optimizer.step()
        tensors = [value for value in optimizer.state[parameter].values() if torch.is_tensor(value)]
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        most = max(most, 4 * round(held / numbers / 4))
    return most


def measure(recipe: PlannedRecipe, found: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of an optimizer step, from a few batches on the present device.

    A GPU takes the recipe's batch, or the largest half, quarter, … of it that fits; a CPU one
    utterance. What is smaller is scaled by its FLOPs.
    """
    device = str(recipe.options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = recipe.modules["model"].to(device)
    rate, precision = int(recipe.setting("sample_rate", 16_000)), str(found["precision"])
    seconds = float(found["utterance_seconds"])
    batch = max(1, int(found["batch_seconds"] // seconds))
    if torch.device(device).type == "cpu":
        batch, seconds = 1, min(seconds, CPU_UTTERANCE)
    make = next((v for k, v in recipe.hparams.items() if k.endswith("opt_class")), None)
    optimizer = None if make is None else make(list(model.parameters()))
    while True:
        try:
            inputs = make_inputs(
                model, recipe.hparams.get("compute_features"), rate, batch, seconds
            )
            taken = _time_steps(model, inputs, precision, optimizer, device)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch == 1:
                raise
            batch //= 2
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    cost = step_cost(recipe)
    share = cost.at(batch, seconds).flops * int(found["gpus"]) / float(found["flops_per_step"])
    return {
        "measured_on": device,
        "measured_batch": batch,
        "measured_utterance_seconds": seconds,
        "measured_seconds": taken.median,
        "measured_share": share,
        "step_seconds": taken.median / share,
    }


def duration(found: Mapping[str, Any], step_seconds: float | None) -> dict[str, Any]:
    """Hours of the whole training from the seconds of a step."""
    each = step_seconds if step_seconds is not None else found.get("step_seconds")
    if each is None:
        return {"step_seconds": None, "training_hours": None}
    steps = found["steps"]
    hours = None if steps is None else steps * each / 3600
    return {"step_seconds": each, "training_hours": hours}


def _time_steps(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    precision: str,
    optimizer: torch.optim.Optimizer | None,
    device: str,
) -> Timing:
    """A step to warm up, and some that count."""
    model.train()

    def step() -> None:
        train_step(model, inputs, precision)
        if optimizer is not None:
            optimizer.step()
        model.zero_grad(set_to_none=True)

    return time_interleaved({"step": step}, MEASURED_STEPS, device=device)["step"]


def _check_flags(arguments: argparse.Namespace) -> None:
    for name in ("gpus", "memory_gb", "step_seconds", "utterance_seconds", "corpus_hours"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name}={value} must be above 0.")
    if arguments.measure and arguments.step_seconds is not None:
        raise InputError("--measure finds what --step_seconds gives: keep one of them.")
