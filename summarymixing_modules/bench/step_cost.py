"""FLOPs and memory of a training step, told without running it where that can be.

The step runs on fake tensors: operators see shapes and types, no numbers, so a batch of any size is
exact and costs neither memory nor time. A model that looks at numbers (one that draws what to hide,
say) cannot run so: it runs for real on short utterances, and longer ones are told from the parabola
through them, batches from two of them. That is done in float32, which CPUs are fast in: the memory
of half precision is then less than what is told.

FLOPs are those of matrix products, convolutions and attention, 2 for a multiply-add.

Shape suffixes: B batch, T frames, F features, L samples, U tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from summarymixing_modules.bench.measure import peak_bytes
from summarymixing_modules.bench.setup import DTYPES, TOKEN_RATE
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.valid_frontend import Waveform
from summarymixing_modules.ops.attention_blocks import FLOP_FORMULAS

DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, NotImplementedError)
SHORT = (2.0, 8.0, 16.0)  # seconds of what runs for real


@dataclass(frozen=True)
class Cost:
    """Of forward and backward on one batch.

    Attributes:
        flops: forward and backward.
        peak_bytes: most that was live beside the weights, gradients included.
    """

    flops: float
    peak_bytes: float


class StepCost:
    """Cost of a recipe's model for any batch, no layer dropped.

    Args:
        model: ``modules.model``; changed: it is left with fake weights where that can be.
        features: SpeechBrain's filterbanks or `Waveform`; None for models on tokens.
        sample_rate: Hz.
        precision: fp32, fp16 or bf16.

    Attributes:
        exact: the step was counted on fake tensors, not extrapolated.
        precision: of what was counted.

    Raises:
        InputError: the model's forward pass takes what is not known here.
    """

    def __init__(self, model: nn.Module, features: Any, sample_rate: int, precision: str) -> None:
        self.model, self.features = model, features
        self.sample_rate, self.precision = sample_rate, precision
        check_arguments(model)
        for module in model.modules():
            if hasattr(module, "layerdrop_prob"):
                module.layerdrop_prob = 0.0  # type: ignore[assignment]
        self._known: dict[tuple[int, float], Cost] = {}
        self._fake: FakeTensorMode | None = None
        self.exact = True
        if next(model.parameters()).is_meta:
            self._fake = FakeTensorMode()

    def at(self, batch: float, seconds: float) -> Cost:
        """Cost of ``batch`` utterances of ``seconds``; exactly linear in ``batch``."""
        if self.exact:
            try:
                one = self._measure(1, seconds)
                return one if batch == 1 else _line(one, self._measure(2, seconds), batch)
            except DATA_DEPENDENT:
                self._make_real()
        ones = [self._measure(1, short) for short in SHORT]
        both = self._measure(2, SHORT[0])
        one = Cost(*(_parabola(seconds, [_values(c)[i] for c in ones]) for i in range(2)))
        fixed = [2 * a - b for a, b in zip(_values(ones[0]), _values(both), strict=True)]
        return Cost(
            *(f + batch * (value - f) for f, value in zip(fixed, _values(one), strict=True))
        )

    def _make_real(self) -> None:
        """Gives the model memory and values of a usual size: they decide what it computes."""
        self.exact, self._fake, self.precision = False, None, "fp32"
        self._known.clear()
        _replace_weights(self.model, _usual_values)

    def _measure(self, batch: int, seconds: float) -> Cost:
        key = (batch, seconds)
        if key not in self._known:
            if self._fake is None:
                self._known[key] = self._run(batch, seconds)
            else:
                with self._fake:
                    if next(self.model.parameters()).is_meta:
                        _replace_weights(self.model, _empty_like)
                    self._known[key] = self._run(batch, seconds)
        return self._known[key]

    def _run(self, batch: int, seconds: float) -> Cost:
        torch.manual_seed(0)
        inputs = make_inputs(self.model, self.features, self.sample_rate, batch, seconds)
        self.model.train()
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            peak = peak_bytes(lambda: train_step(self.model, inputs, self.precision))
        self.model.zero_grad(set_to_none=True)
        return Cost(float(counter.get_total_flops()), float(peak))


def train_step(model: nn.Module, inputs: Mapping[str, Tensor], precision: str) -> None:
    """Forward and backward; without targets the loss is the mean of what the model says."""
    device = next(iter(inputs.values())).device.type
    with torch.autocast(device, dtype=DTYPES[precision], enabled=precision != "fp32"):
        output = model(**inputs)
        loss = getattr(output, "loss", None)
        if loss is None:
            loss = sum(tensor.float().mean() for tensor in _differentiable(output))
    assert isinstance(loss, Tensor)
    loss.backward()


def check_arguments(model: nn.Module) -> None:
    """Refuses a model whose forward pass takes what ``make_inputs`` does not know."""
    for name in _arguments(model):
        if name not in ("x_BTF", "lengths_B", "src") and not name.startswith("tokens"):
            raise InputError(
                f"{type(model).__name__}.forward takes {name!r}, which cannot be made up here: "
                "plan knows x_BTF, lengths_B and tokens_BU."
            )


def make_inputs(
    model: nn.Module, features: Any, sample_rate: int, batch: int, seconds: float
) -> dict[str, Tensor]:
    """What the model's forward pass takes, by the names of its arguments; no padding."""
    device = next(model.parameters()).device
    names, inputs = _arguments(model), dict[str, Tensor]()
    tokens = max(1, round(TOKEN_RATE * seconds))
    if "x_BTF" in names:
        frames, width = feature_shape(features, round(seconds * sample_rate))
        inputs["x_BTF"] = torch.randn(batch, frames, width, device=device)
        inputs["lengths_B"] = torch.full((batch,), frames, device=device)
    for name in names:
        if name.startswith("tokens") or name == "src":
            inputs[name] = torch.ones(batch, tokens, dtype=torch.long, device=device)
    return inputs


def feature_shape(features: Any, samples: int) -> tuple[int, int]:
    """Frames and features that ``compute_features`` makes of a number of samples."""
    if isinstance(features, Waveform):
        return samples, 1
    return samples // int(features.compute_STFT.hop_length) + 1, int(features.compute_fbanks.n_mels)


def _arguments(model: nn.Module) -> list[str]:
    """Names of the arguments without default."""
    found = inspect.signature(model.forward).parameters.values()
    return [one.name for one in found if one.default is inspect.Parameter.empty]


def _differentiable(output: Any) -> Iterator[Tensor]:
    parts = output
    if is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in fields(output)]
    for leaf in tree_leaves(parts):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            yield leaf


def _replace_weights(model: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replaces parameters and buffers by what is made of them; a shared one stays shared."""
    made: dict[int, Tensor] = {}

    def replaced(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            new = make(tensor)
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, tensor.requires_grad)
            made[id(tensor)] = new
        return made[id(tensor)]

    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = replaced(tensor)  # type: ignore[assignment]


def _empty_like(tensor: Tensor) -> Tensor:
    """On the CPU; fake within a fake mode, where it knows autocast as a meta tensor would not."""
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _usual_values(tensor: Tensor) -> Tensor:
    """Ones for scales and the like, matrices that keep the size of what they multiply."""
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return torch.ones(tensor.shape, dtype=tensor.dtype)
    return torch.randn(tensor.shape, dtype=tensor.dtype) * tensor.shape[1:].numel() ** -0.5


def _values(cost: Cost) -> tuple[float, float]:
    return cost.flops, cost.peak_bytes


def _line(one: Cost, two: Cost, batch: float) -> Cost:
    pairs = zip(_values(one), _values(two), strict=True)
    return Cost(*(a + (batch - 1) * (b - a) for a, b in pairs))


def _parabola(seconds: float, values: list[float]) -> float:
    """Lagrange's polynomial through the values at ``SHORT``."""
    total = 0.0
    for index, (x, y) in enumerate(zip(SHORT, values, strict=True)):
        others = [other for place, other in enumerate(SHORT) if place != index]
        for other in others:
            y *= (seconds - other) / (x - other)
        total += y
    return total


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _convolution_backward_flops(
    grad: Any,
    x: Any,
    weight: Any,
    bias_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """The gradients of input and weights each hold the products of the forward pass once."""
    return sum(wanted[:2]) * conv_flop_count(x, weight, grad, transposed)


#: PyTorch's counter knows the fused attention of GPUs only, and takes the gradient of a grouped
#: convolution's weights for that of a dense one: 512 times too much where 512 channels are apart.
FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    torch.ops.aten.convolution_backward: _convolution_backward_flops,
    **FLOP_FORMULAS,
}
