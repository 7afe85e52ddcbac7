"""The contract of a token mixer, on one page.

A mixer maps ``x_BTD`` to ``y_BTD``. It is told which frames are padding (True = padded, the only
polarity here) and, for dynamic chunk training, the chunk size in frames and the number of chunks
visible to the left. It is never handed a T×T mask. What it can do, it declares; asking for more is
an error that names the mixers that can.

The public methods check what they are asked and hand it to the mixer's own: ``forward`` to ``mix``,
``initial_state`` to ``_initial_state``, ``step`` to ``_step``.

Shape suffixes: B batch, T frames, D model features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.stream import StreamState
from summarymixing_modules.ops.chunks import Chunks

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


# What is checked here and not to be overridden, and what is to be implemented instead.
CHECKED = {"forward": "mix", "initial_state": "_initial_state", "step": "_step"}


class UnsupportedByMixer(InputError):
    """A mixer was asked for what it declares that it cannot do."""


class Mixer(nn.Module, ABC):
    """Base of every token mixer. A subclass sets ``capabilities`` and implements ``mix``; one that
    streams also ``_initial_state`` and ``_step``.

    Args:
        enc_dim: number of features D.
        causal: a frame sees itself and the past only. Equal to chunks of one frame.

    Raises:
        UnsupportedByMixer: ``causal=True`` on a mixer that is not causal.
    """

    capabilities: Capabilities

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, own in CHECKED.items():
            if name in vars(cls):
                raise TypeError(f"{cls.__name__} overrides {name}: implement {own} instead.")

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
            x_BTD: features, T ≥ 1.
            key_padding_mask: (B, T) booleans, True = padded.
            chunk_size: frames of a chunk; None = full context.
            left_context_size: chunks visible to the left; None = all of them.
            pos_embs: relative position embeddings (1, 2T−1, D), for mixers with
                ``positions="relative"``; those make their own when it is None.

        Returns:
            y_BTD. Padded frames of it are finite and otherwise unspecified.

        Raises:
            ValueError: shapes that do not fit; (``InputError``) chunk settings that mean nothing.
            UnsupportedByMixer: chunks or positions that this mixer cannot do.
        """
        self._check_input(x_BTD, key_padding_mask)
        chunks = self.chunks_of(chunk_size, left_context_size)
        if pos_embs is None:
            return self.mix(x_BTD, key_padding_mask, chunks)
        if self.capabilities.positions != "relative":
            raise UnsupportedByMixer(
                f"{type(self).__name__} does not use pos_embs: pass None, or choose a mixer with "
                f"relative positions ({_names_with('positions', 'relative')})."
            )
        return self.mix(x_BTD, key_padding_mask, chunks, pos_embs)  # type: ignore[call-arg]

    @abstractmethod
    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """The computation, of arguments that are checked; ``chunks`` None = full context.

        With ``positions="relative"`` there is a fourth argument, ``pos_embs=None``.
        """

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StreamState:
        """State before the first chunk of a stream.

        Args:
            batch_size: number of streams B.
            left_context_size: chunks that ``step`` remembers; None = all the past. Those of a
                causal mixer are of one frame.
            device: where the state lives; None = where the parameters are.
            dtype: of the features; None = that of the parameters.

        Returns:
            a state to hand to ``step``. That of a linear mixer does not grow with time.

        Raises:
            InputError: a negative left context.
            UnsupportedByMixer: the mixer does not stream.
        """
        self.require("streaming", "initial_state")
        Chunks(1, left_context_size)  # checks it
        like = next(self.parameters(), torch.empty(0))
        shape = (batch_size, 0, self.enc_dim)
        x_B0D = torch.empty(shape, device=device or like.device, dtype=dtype or like.dtype)
        return StreamState(self._initial_state(x_B0D, left_context_size), x_B0D, left_context_size)

    def _initial_state(self, x_B0D: Tensor, left: int | None) -> Any:
        """The memory of streams before their first frame.

        Args:
            x_B0D: no frames; tells the number of streams, the device and the dtype.
            left: chunks that a chunk sees before its own; None = all the past.
        """
        raise NotImplementedError(f"{type(self).__name__} declares streaming: implement this.")

    def step(
        self, x_BTD: Tensor, state: StreamState, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, StreamState]:
        """Mixes the next chunk of a stream; equal to ``forward`` with that chunk size.

        Where no frame sees the one after it (a causal mixer, or all the past of one that is not
        bidirectional), there are no chunks to keep to: any number of frames may be given.

        Args:
            x_BTD: the T ≥ 1 frames of one chunk; the last chunk may be shorter.
            state: from ``initial_state`` or the step before. It is not changed.
            key_padding_mask: (B, T), True = padded: streams that ended inside this chunk.

        Returns:
            y_BTD and the next state.

        Raises:
            ValueError: shapes that do not fit the mixer or the streams.
        """
        self.require("streaming", "step")
        self._check_input(x_BTD, key_padding_mask)
        if not isinstance(state, StreamState):
            raise ValueError(f"state is a {type(state).__name__}: give that of initial_state.")
        state.check_batch(x_BTD)
        if state.left_context_size is None and not self.capabilities.bidirectional:
            chunks = Chunks(x_BTD.shape[1])
        elif self.causal:
            return self._step_by_frames(x_BTD, key_padding_mask, state)
        else:
            state, chunks = state.admit(x_BTD.shape[1])
        y_BTD, memory = self._step(x_BTD, key_padding_mask, chunks, state.memory)
        return y_BTD, state._replace(memory=memory)

    def _step_by_frames(
        self, x_BTD: Tensor, padding_BT: Tensor | None, state: StreamState
    ) -> tuple[Tensor, StreamState]:
        memory, chunks, frames = state.memory, Chunks(1, state.left_context_size), []
        for t in range(x_BTD.shape[1]):
            padding_B1 = None if padding_BT is None else padding_BT[:, t : t + 1]
            y_B1D, memory = self._step(x_BTD[:, t : t + 1], padding_B1, chunks, memory)
            frames.append(y_B1D)
        return torch.cat(frames, dim=1), state._replace(memory=memory)

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: Any
    ) -> tuple[Tensor, Any]:
        """One chunk, of arguments that are checked: y_BTD and the next memory.

        The last chunk of a stream may have less than ``chunks.size`` frames.
        """
        raise NotImplementedError(f"{type(self).__name__} declares streaming: implement this.")

    def chunks_of(self, chunk_size: int | None, left_context_size: int | None) -> Chunks | None:
        """What ``mix`` is asked for; None = full context.

        Raises:
            InputError: numbers that mean nothing, or chunks of several frames of a causal mixer.
            UnsupportedByMixer: the mixer has no chunks.
        """
        chunks = Chunks.of(chunk_size, left_context_size)
        if chunks is not None and not self.capabilities.chunked:
            # Only here: under torch.compile a symbolic size cannot be put into a text.
            raise self._unsupported("chunked", f"chunk_size={chunk_size}")
        if not self.causal:
            return chunks
        if chunk_size not in (None, 1):
            raise InputError(
                f"chunk_size={chunk_size} contradicts causal=True, which means chunks of one "
                "frame: build the mixer with causal=False, or leave chunk_size None."
            )
        return chunks or Chunks(1)

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

    def _check_input(self, x_BTD: Tensor, padding_BT: Tensor | None) -> None:
        if x_BTD.dim() != 3 or x_BTD.shape[-1] != self.enc_dim:
            raise ValueError(
                f"{type(self).__name__} expects (batch, time, {self.enc_dim}) and got "
                f"{tuple(x_BTD.shape)}."
            )
        if x_BTD.shape[1] == 0:
            raise ValueError(f"{type(self).__name__} got no frames: give at least one.")
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
