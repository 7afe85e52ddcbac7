"""The fused CUDA kernels that Mamba's authors publish, used where they are installed.

``mamba-ssm`` scans (``selective_scan_fn``) and ``causal-conv1d`` convolves; both want time last.
Neither is needed: without them ops/selective_scan.py and ops/convolution.py compute the same.

Shape suffixes: B batch, T frames, E features, N states of a feature, W taps.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

CONV_TAPS = range(2, 5)


def fused_scan_available(device: torch.device) -> bool:
    """Whether ``mamba-ssm`` is installed and can be called: on CUDA, and not while compiling."""
    return _callable_on(device) and _installed("mamba_ssm")


def fused_conv_available(device: torch.device, taps: int) -> bool:
    """Whether ``causal-conv1d`` is installed and can be called with so many taps."""
    return _callable_on(device) and taps in CONV_TAPS and _installed("causal_conv1d")


def fused_scan(
    x_BTE: Tensor, delta_BTE: Tensor, a_EN: Tensor, b_BTN: Tensor, c_BTN: Tensor
) -> Tensor:
    """``selective_scan`` by ``mamba-ssm``; in float32, which the kernel's states have anyway."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, delta, b, c = (_time_last(t.float()) for t in (x_BTE, delta_BTE, b_BTN, c_BTN))
    return selective_scan_fn(x, delta, a_EN.float(), b, c).transpose(1, 2).to(x_BTE.dtype)


def fused_conv(x_BTE: Tensor, weight_E1W: Tensor, bias_E: Tensor | None) -> Tensor:
    """SiLU of the causal depthwise convolution, by ``causal-conv1d``."""
    from causal_conv1d import causal_conv1d_fn

    weight_EW = weight_E1W.squeeze(1).to(x_BTE.dtype)
    bias_E = None if bias_E is None else bias_E.to(x_BTE.dtype)
    y_BET = causal_conv1d_fn(_time_last(x_BTE), weight_EW, bias_E, activation="silu")
    return y_BET.transpose(1, 2).contiguous()


def _time_last(x_BTX: Tensor) -> Tensor:
    return x_BTX.transpose(1, 2).contiguous()


def _callable_on(device: torch.device) -> bool:
    return device.type == "cuda" and not torch.compiler.is_compiling()


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
