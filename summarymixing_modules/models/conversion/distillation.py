"""Layer-wise distillation: after a swap, the new mixers learn what the old ones gave.

Shape suffixes: B batch, T frames, D model features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from summarymixing_modules.errors import InputError
from summarymixing_modules.ops.summary import masked


class LayerwiseDistillation:
    """Compares what the same modules of a teacher and of a student put out.

    The loss is the mean over modules of Σ (student − teacher)² / Σ (teacher − its mean)². Sums are
    over real frames and features, means over the real frames of the batch: it is the share of the
    teacher's variance that the student misses (1 = no better than a constant). The loss of the task
    can be added to it. Outputs are recorded by hooks, inside the ``with`` block only::

        teacher = copy.deepcopy(model).eval().requires_grad_(False)
        report = swap_mixer(model, "SummaryMixing")
        optimizer = torch.optim.Adam(report.new_parameters(model))
        with LayerwiseDistillation(teacher, model, [one.mixer for one in report.layers]) as distil:
            for x, lengths, padding in batches:
                with torch.no_grad():
                    teacher(x, lengths)
                model(x, lengths)
                distil.loss(padding).backward()
                ...

    Args:
        teacher: in eval mode.
        student: has modules of the same names.
        modules: names of modules whose output, or first output, is (B, T, D): mixers or layers.

    Raises:
        InputError: no modules, a name that one of the two lacks, or a teacher that is the student.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, modules: Sequence[str]) -> None:
        if teacher is student:
            raise InputError(
                "teacher and student are one model: take copy.deepcopy(model) as the teacher "
                "before swap_mixer changes it."
            )
        if not modules:
            raise InputError("modules is empty: name those to compare, as in report.layers.")
        self.modules = tuple(modules)
        self._sides = {"teacher": teacher, "student": student}
        self._outputs: dict[str, dict[str, Tensor]] = {"teacher": {}, "student": {}}
        self._handles: list[RemovableHandle] = []
        for side, model in self._sides.items():
            for name in self.modules:
                _submodule(side, model, name)

    def __enter__(self) -> LayerwiseDistillation:
        """Starts to record.

        Raises:
            InputError: the teacher is in training mode.
        """
        if self._sides["teacher"].training:
            raise InputError("the teacher is in training mode, its dropout on: call eval() on it.")
        for side, model in self._sides.items():
            for name in self.modules:
                module = _submodule(side, model, name)
                self._handles.append(module.register_forward_hook(self._recorder(side, name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Removes every hook and forgets what was recorded."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    def losses(self, padding_BT: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of each module for the last batch of both models, which is then forgotten.

        Args:
            padding_BT: True = padded; those frames do not count.

        Returns:
            name → loss, in the order of ``modules``; without those that a layer drop left out.

        Raises:
            RuntimeError: the two have not both seen a batch.
            ValueError: they have seen different ones.
        """
        teacher, student = self._outputs["teacher"], self._outputs["student"]
        both = [name for name in self.modules if name in teacher and name in student]
        if not both:
            raise RuntimeError(
                "nothing to compare: call the teacher and the student on the same batch, inside "
                "the with block, before every loss."
            )
        losses = {name: missed_variance(student[name], teacher[name], padding_BT) for name in both}
        self._forget()
        return losses

    def loss(self, padding_BT: Tensor | None = None) -> Tensor:
        """The mean of ``losses``."""
        return torch.stack(list(self.losses(padding_BT).values())).mean()

    def _recorder(self, side: str, name: str) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            assert isinstance(first, Tensor)
            self._outputs[side][name] = first.detach() if side == "teacher" else first

        return record

    def _forget(self) -> None:
        for outputs in self._outputs.values():
            outputs.clear()


def missed_variance(
    student_BTD: Tensor, teacher_BTD: Tensor, padding_BT: Tensor | None = None
) -> Tensor:
    """Σ (student − teacher)² / Σ (teacher − mean)² over real frames, in at least float32.

    Args:
        student_BTD: what should come near.
        teacher_BTD: what to.
        padding_BT: True = padded; those frames do not count.

    Raises:
        ValueError: shapes that differ.
    """
    if student_BTD.shape != teacher_BTD.shape:
        raise ValueError(
            f"the student gave {tuple(student_BTD.shape)} and the teacher "
            f"{tuple(teacher_BTD.shape)}: both must see the same batch."
        )
    dtype = torch.promote_types(teacher_BTD.dtype, torch.float32)
    student_BTD, teacher_BTD = student_BTD.to(dtype), teacher_BTD.to(dtype)
    frames = teacher_BTD.shape[0] * teacher_BTD.shape[1]
    count = frames if padding_BT is None else (~padding_BT).sum().clamp(min=1)
    mean_D = masked(teacher_BTD, padding_BT).sum(dim=(0, 1)) / count
    variance = masked(teacher_BTD - mean_D, padding_BT).square().sum()
    error = masked(student_BTD - teacher_BTD, padding_BT).square().sum()
    return error / variance.clamp(min=torch.finfo(dtype).tiny)


def _submodule(side: str, model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise InputError(
            f"the {side} has no module {name!r}: name modules that both models have, such as the "
            "layers and mixers in the report of swap_mixer."
        ) from None
