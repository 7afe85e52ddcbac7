"""What is to be timed is right: compared first with the naive form of it.

Mixers are compared with their textbook form in float64 where the package has one, else with
themselves in float32 on the CPU, one utterance at a time, attention as explicit T×T matrices.
Encoders and models are compared with themselves in float32, uncompiled, one utterance at a time:
precision, compiler and padding change nothing but rounding.

Shape suffixes: B batch, T frames, D model features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from summarymixing_modules.bench.cases import Batch, Subject, make_batch
from summarymixing_modules.bench.setup import FORWARD, Setup
from summarymixing_modules.mixers.naive import NAIVE

# Largest relative error (Frobenius norms).
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 1e-1}
TF32_TOLERANCE = 2e-2
CHECK_SECONDS, CHECK_PADDING = 2.7, 0.2  # ragged: two utterances, the second 60 % as long


def tolerance(setup: Setup) -> float:
    """Largest relative error that the precision explains."""
    if setup.precision == "fp32" and setup.on_cuda and torch.backends.cuda.matmul.allow_tf32:
        return TF32_TOLERANCE
    return TOLERANCES[setup.precision]


def check_subject(subject: Subject, passes: str) -> float:
    """Largest relative error of the outputs and, unless only the forward pass is timed, gradients.

    Those are compared in float32: through the kinks of activations, rounding in half precision
    changes a gradient by more than an error would.

    Args:
        subject: what is to be timed; run as it will be timed, but in eval mode, where dropout and
            layers that are dropped have no part.
        passes: what is to be timed.
    """
    setup = replace(subject.setup, padding=CHECK_PADDING)
    batch = make_batch(setup, subject.input_width, 2, CHECK_SECONDS)
    subject.module.eval()
    reference = _mixer_reference if setup.what == "mixers" else _alone_reference
    want = _outputs(lambda each: reference(subject, each), batch)
    errors = [_error(_outputs(subject.forward, batch)[0], want[0])]
    if passes != FORWARD:
        got = _outputs(lambda each: subject.forward(each, "fp32"), batch)
        errors.append(_error(got[1], want[1]))
    return max(errors)


def reference_name(subject: Subject) -> str:
    """What ``check_subject`` compares with."""
    naive = NAIVE.get(type(subject.module))
    return naive.__name__ if naive else "float32, each utterance alone"


def _outputs(run: Callable[[Batch], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Output at real frames, and the gradient that a fixed target gives the input there."""
    x_BTF = batch.x_BTF.detach().requires_grad_()
    y_BTD = run(replace(batch, x_BTF=x_BTF))
    share = round(batch.x_BTF.shape[1] / y_BTD.shape[1])
    lengths_B = torch.div(batch.lengths_B + share - 1, share, rounding_mode="floor")
    real_BT = torch.arange(y_BTD.shape[1], device=y_BTD.device)[None] < lengths_B[:, None]
    y_MD = y_BTD[real_BT].float()
    generator = torch.Generator().manual_seed(1)
    target_MD = torch.randn(y_MD.shape, generator=generator).to(y_MD.device)
    (grad_BTF,) = torch.autograd.grad((y_MD * target_MD).sum(), x_BTF)
    return y_MD.detach(), grad_BTF[~batch.mask_BT]


def _mixer_reference(subject: Subject, batch: Batch) -> Tensor:
    mixer, x_BTD = copy.deepcopy(subject.module).cpu(), batch.x_BTF.cpu()
    naive = NAIVE.get(type(mixer))
    if naive is not None:
        y_BTD = naive(mixer.double(), x_BTD.double(), batch.mask_BT.cpu())
    else:
        with sdpa_kernel(SDPBackend.MATH):
            y_BTD = _one_by_one(mixer, x_BTD, batch.lengths_B.tolist())
    return y_BTD.to(batch.x_BTF.device)


def _alone_reference(subject: Subject, batch: Batch) -> Tensor:
    def run(x_BTF: Tensor) -> Tensor:
        length_1 = torch.tensor([x_BTF.shape[1]], device=x_BTF.device)
        return subject.call(x_BTF, length_1, None)

    return _one_by_one(run, batch.x_BTF, batch.lengths_B.tolist())


def _one_by_one(run: Callable[[Tensor], Tensor], x_BTF: Tensor, lengths: list[int]) -> Tensor:
    """Outputs of the utterances, each alone and without padding, padded with zeros."""
    rows = [run(row_TF[None, :length])[0] for row_TF, length in zip(x_BTF, lengths, strict=True)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _error(got: Tensor, want: Tensor) -> float:
    if not bool(got.isfinite().all()):
        return float("inf")
    difference = (got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-12)
    return float(difference)
