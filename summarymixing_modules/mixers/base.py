"""The contract of a token mixer, on one page.

A mixer maps ``x_BTD`` to ``y_BTD``. It is told which frames are padding (True = padded, the only
polarity here) and, for dynamic chunk training, the chunk size in frames and the number of chunks
visible to the left. It is never handed a T×T mask. What it can do, it declares; asking for more is
an error that names the mixers that can.

Shape suffixes: B batch, T frames, D model features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.ops.chunks import check_chunks

Positions = Literal["none", "absolute", "relative", "rotary"]


@dataclass(frozen=True)
class Capabilities:
    """What a mixer can do.

    Attributes:
        linear_time: time and memory grow linearly with T at full context.
        bidirectional: a frame sees the future at full context.
        causal: can be built with ``causal=True``: a frame sees itself and the past only.
        chunked: takes ``chunk_size`` and ``left_context_size``.
        streaming: has ``initial_state`` and ``step``.
        positions: where order comes from. "none": the layers around it or the mixer itself;
            "absolute": the host adds position embeddings to the input of the encoder;
            "relative": ``pos_embs`` are used in the scores; "rotary": queries and keys are rotated.
        mixes: False stands for the absence of a mixer ("CNN only"): a host leaves the whole branch
            out. What a mixer promises does not apply to it, so it has no form to test or to time.
    """

    linear_time: bool
    bidirectional: bool = True
    causal: bool = True
    chunked: bool = True
    streaming: bool = True
    positions: Positions = "none"
    mixes: bool = True


class UnsupportedByMixer(InputError):
    """A mixer was asked for what it declares that it cannot do."""


class Mixer(nn.Module, ABC):
    """Base of every token mixer. A subclass sets ``capabilities`` and implements ``mix``.

    Args:
        enc_dim: number of features D.
        causal: a frame sees itself and the past only. Equal to chunks of one frame.

    Raises:
        UnsupportedByMixer: ``causal=True`` on a mixer that is not causal.
    """

    capabilities: Capabilities

    def __init__(self, enc_dim: int, causal: bool = False) -> None:
        super().__init__()
        self.enc_dim = enc_dim
        self.causal = causal
        if causal:
            self.require("causal", "causal=True")

    def forward(
        self,
        x_BTD: Tensor,
        key_padding_mask: Tensor | None = None,
        chunk_size: int | None = None,
        left_context_size: int | None = None,
        pos_embs: Tensor | None = None,
    ) -> Tensor:
        """Mixes information between frames.

        Args:
            x_BTD: features.
            key_padding_mask: (B, T) booleans, True = padded.
            chunk_size: frames of a chunk; None = full context.
            left_context_size: chunks visible to the left; None = all of them.
            pos_embs: relative position embeddings (1, 2T−1, D), for mixers with
                ``positions="relative"``; those make their own when it is None.

        Returns:
            y_BTD. Padded frames of it are finite and otherwise unspecified.

        Raises:
            ValueError: shapes or chunk settings that mean nothing.
            UnsupportedByMixer: chunks or positions that this mixer cannot do.
        """
        self._check_input(x_BTD, key_padding_mask)
        check_chunks(chunk_size, left_context_size)
        if chunk_size is not None and not self.capabilities.chunked:
            # Only here: under torch.compile a symbolic size cannot be put into a text.
            raise self._unsupported("chunked", f"chunk_size={chunk_size}")
        if pos_embs is not None and self.capabilities.positions != "relative":
            raise UnsupportedByMixer(
                f"{type(self).__name__} does not use pos_embs: pass None, or choose a mixer with "
                f"relative positions ({_names_with('positions', 'relative')})."
            )
        if self.causal:
            if chunk_size not in (None, 1):
                raise ValueError(
                    f"chunk_size={chunk_size} contradicts causal=True, which means chunks of one "
                    "frame: build the mixer with causal=False, or leave chunk_size None."
                )
            chunk_size = 1
        return self.mix(x_BTD, key_padding_mask, chunk_size, left_context_size, pos_embs)

    @abstractmethod
    def mix(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int | None,
        left_context_size: int | None,
        pos_embs: Tensor | None,
    ) -> Tensor:
        """The computation; arguments as in ``forward``, already checked."""

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """State before the first chunk of a stream.

        Args:
            batch_size: number of streams B.
            left_context_size: chunks that ``step`` remembers; None = all the past.
            device: where the state lives; None = where the parameters are.
            dtype: of the features; None = that of the parameters.

        Returns:
            a state to hand to ``step``. That of a linear mixer does not grow with time.
        """
        raise self._unsupported("streaming", "initial_state")

    def step(
        self, x_BTD: Tensor, state: Any, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Mixes the next chunk of a stream; equal to ``forward`` with that chunk size.

        Args:
            x_BTD: the T frames of one chunk; the last chunk may be shorter.
            state: from ``initial_state`` or the step before. It is not changed.
            key_padding_mask: (B, T), True = padded: streams that ended inside this chunk.

        Returns:
            y_BTD and the next state.
        """
        raise self._unsupported("streaming", "step")

    def require(self, capability: str, request: str) -> None:
        """Raises UnsupportedByMixer unless the mixer has a capability.

        Args:
            capability: a boolean field of ``Capabilities``.
            request: what was asked for, for the message.
        """
        if not getattr(self.capabilities, capability):
            raise self._unsupported(capability, request)

    def _unsupported(self, capability: str, request: str) -> UnsupportedByMixer:
        return UnsupportedByMixer(
            f"{type(self).__name__} is not {capability}: it cannot take {request}. "
            f"Mixers that can: {_names_with(capability, True)}."
        )

    def _anchor(self) -> Tensor:
        """A parameter, for default devices and dtypes."""
        return next(self.parameters())

    def _check_input(self, x_BTD: Tensor, padding_BT: Tensor | None) -> None:
        if x_BTD.dim() != 3 or x_BTD.shape[-1] != self.enc_dim:
            raise ValueError(
                f"{type(self).__name__} expects (batch, time, {self.enc_dim}) and got "
                f"{tuple(x_BTD.shape)}."
            )
        if padding_BT is None:
            return
        if padding_BT.dtype != torch.bool or padding_BT.shape != x_BTD.shape[:2]:
            raise ValueError(
                f"key_padding_mask must be boolean (True = padded) of shape "
                f"{tuple(x_BTD.shape[:2])}, and is {padding_BT.dtype} of shape "
                f"{tuple(padding_BT.shape)}."
            )


def _names_with(capability: str, value: object) -> str:
    """Registered mixers whose capability has a value, for error messages."""
    from summarymixing_modules.mixers import registry  # the registry imports this module

    names = [
        name
        for name in registry.mixer_names()
        if getattr(registry.mixer_spec(name).capabilities, capability) == value
    ]
    return ", ".join(names) or "none"
