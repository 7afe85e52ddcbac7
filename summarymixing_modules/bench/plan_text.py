"""The plan of a recipe in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from summarymixing_modules.bench.memory import GIB
from summarymixing_modules.bench.setup import TOKEN_RATE
from summarymixing_modules.bench.step_cost import SHORT
from summarymixing_modules.text_tables import aligned


def as_text(found: Mapping[str, Any]) -> str:
    """The plan for people."""
    lines = [f"{found['recipe']}, {found['precision']}"]
    if found["missing"]:
        lines.append(f"not needed here and not given: {', '.join(found['missing'])}")
    lines += ["", *_model_lines(found)]
    seconds, of_step = found["utterance_seconds"], found["hours_per_step"]
    batch = f"{found['batch_seconds']:g} s of audio, in utterances of {seconds:g} s"
    if of_step is None:
        tokens = round(TOKEN_RATE * seconds)
        batch = f"{found['batch_seconds'] / seconds:g} lines of {tokens} tokens"
    lines += [
        "",
        f"batch of a process: {batch}; accumulation {found['accumulation']}, "
        f"{found['gpus']} process(es)",
    ]
    if of_step is not None:
        lines.append(f"audio in an optimizer step: {of_step:.3g} h")
    steps, hours = found["steps"], found["hours"]
    told = "not told" if steps is None else f"{steps:,}"
    lines.append(f"optimizer steps: {told} ({found['steps_from']})")
    if hours is not None:
        lines.append(f"audio in the training: {hours:,.0f} h")
    return "\n".join([*lines, *_time_lines(found)])


def _model_lines(found: Mapping[str, Any]) -> list[str]:
    if found["parameters"] is None:
        return [
            "model: made in train.py from another run or bundle, so nothing is told about it here; "
            "plan the recipe that trains the encoder"
        ]
    counts = {**found["parameters"], "parameters": found["parameters_total"]}
    frozen = found["parameters_total"] - found["parameters_trained"]
    counts |= {"  of it frozen": frozen} if frozen else {}
    rows = [[part, f"{count:>13,}"] for part, count in counts.items()]
    how = "counted"
    if not found["exact"]:
        bound = ", in fp32: memory is an upper bound" if found["precision"] != "fp32" else ""
        how = f"extrapolated from {SHORT[-1]:g} s{bound}"
    lines = [
        aligned(rows, right=[1]),
        "",
        f"{found['flops_per_step'] / 1e12:.3g} TFLOP an optimizer step, all processes ({how})",
        "memory of a process: "
        + " + ".join(
            f"{name} {found[f'{key}_bytes'] / GIB:.2f}"
            for name, key in (
                ("weights", "weight"),
                ("gradients", "gradient"),
                ("optimizer", "optimizer"),
                ("activations", "activation"),
            )
        )
        + f" = {found['total_bytes'] / GIB:.2f} GiB",
    ]
    if found["memory_gb"] is not None:
        seconds = found["longest_batch_seconds"]
        fits = f"{seconds:,.0f} s of audio" if seconds else "not even one utterance of that length"
        if found["hours_per_step"] is None:
            fits = f"{seconds / found['utterance_seconds']:,.0f} lines"
        lines.append(f"longest batch in {found['memory_gb']:g} GiB: {fits}")
    return lines


def _time_lines(found: Mapping[str, Any]) -> list[str]:
    if found["step_seconds"] is None:
        return ["time: give --measure, or the --step_seconds of a step"]
    lines = []
    if "measured_on" in found:
        lines.append(
            f"measured on {found['measured_on']}: {found['measured_seconds']:.3g} s for a batch of "
            f"{found['measured_batch']} x {found['measured_utterance_seconds']:g} s, "
            f"{found['measured_share']:.3g} of a process's step"
        )
    lines.append(f"seconds of an optimizer step: {found['step_seconds']:.3g}")
    if found["training_hours"] is not None:
        lines.append(f"time of the training: {found['training_hours']:,.1f} h")
    return lines
