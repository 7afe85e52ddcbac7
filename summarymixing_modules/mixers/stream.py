"""A stream between two chunks: what every mixer's ``step`` takes and returns.

Shape suffixes: B streams, T frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from summarymixing_modules.ops.chunks import Chunks


class StreamState(NamedTuple):
    """A batch of streams. Immutable: ``step`` returns the next one.

    Attributes:
        memory: what the mixer remembers: tensors, numbers, and (named) tuples of them.
        x_B0D: no frames; its shape tells the number of streams.
        left_context_size: chunks that a chunk sees before its own; None = all the past.
        chunk_size: frames of the first chunk; None before it.
        ended: a shorter chunk was given, which can only be the last.
    """

    memory: Any
    x_B0D: Tensor
    left_context_size: int | None
    chunk_size: int | None = None
    ended: bool = False

    def check_batch(self, x_BTD: Tensor) -> None:
        """Refuses frames of another number of streams.

        Raises:
            ValueError: names both numbers.
        """
        if len(x_BTD) != len(self.x_B0D):
            raise ValueError(
                f"the state is that of {len(self.x_B0D)} streams, and the chunk has "
                f"{len(x_BTD)}: give every stream its row."
            )

    def admit(self, length: int) -> tuple[StreamState, Chunks]:
        """The state once a chunk of ``length`` frames is taken, and the chunks of the stream.

        Raises:
            ValueError: a chunk longer than the first, or after a shorter one.
        """
        size = self.chunk_size or length
        if length > size:
            raise ValueError(
                f"the chunks of this stream have {size} frames and this one has {length}: only the "
                "last may differ, and be shorter."
            )
        if self.ended:
            raise ValueError(
                f"a chunk of less than {size} frames ends a stream, and one has been given: make "
                "a new initial_state for the next stream."
            )
        state = self._replace(chunk_size=size, ended=length < size)
        return state, Chunks(size, self.left_context_size)
