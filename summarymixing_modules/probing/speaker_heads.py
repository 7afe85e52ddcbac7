"""Heads of probes that make one vector of an utterance: ECAPA-TDNN and X-vector.

Shape suffixes: B batch, T frames, D features, E embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.lobes.models.Xvector import Xvector
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.padding_blind import PaddingBlind


def ecapa_tdnn(input_size: int, channels: Sequence[int], embedding_size: int) -> PaddingBlind:
    """SpeechBrain's ECAPA-TDNN (arXiv 2005.07143), blind to padding: (B, T, D) → (B, 1, E).

    Its attention has 64 channels, as in MP3S (arXiv 2308.14456).

    Args:
        input_size: features D.
        channels: of the first convolution, the three SE-Res2Net blocks and their aggregation; the
            first four must be multiples of 8.
        embedding_size: E.

    Raises:
        InputError: the channels do not fit.
    """
    five = isinstance(channels, Sequence) and len(channels) == 5
    if not five or any(width % 8 for width in channels[:4]):
        raise InputError(
            f"channels={channels} of ECAPA-TDNN: give five, the first four multiples of 8."
        )
    network = ECAPA_TDNN(
        input_size,
        channels=list(channels),
        attention_channels=64,
        lin_neurons=embedding_size,
    )
    return PaddingBlind(network)


def x_vector(input_size: int, channels: Sequence[int], embedding_size: int) -> PaddingBlind:
    """SpeechBrain's X-vector (Snyder et al., ICASSP 2018), blind to padding: (B, T, D) → (B, 1, E).

    Args:
        input_size: features D.
        channels: of its five convolutions.
        embedding_size: E.

    Raises:
        InputError: not five widths.
    """
    if not isinstance(channels, Sequence) or len(channels) != 5:
        raise InputError(f"channels={channels} of X-vector: give five.")
    network = Xvector(
        tdnn_channels=list(channels), lin_neurons=embedding_size, in_channels=input_size
    )
    return PaddingBlind(network)


@dataclass(frozen=True)
class _Embedder:
    """A network that makes one vector of an utterance, and its usual sizes."""

    build: Callable[[int, Sequence[int], int], PaddingBlind]
    channels: Sequence[int]
    size: int


EMBEDDERS = {
    "ecapa": _Embedder(ecapa_tdnn, (512, 512, 512, 512, 1536), 192),
    "xvector": _Embedder(x_vector, (512, 512, 512, 512, 1500), 512),
}


def _embedder(
    name: str, input_size: int, channels: Sequence[int] | None, embedding_size: int | None
) -> tuple[PaddingBlind, int]:
    """The network and E."""
    if name not in EMBEDDERS:
        raise InputError(f"embedder={name!r}: use one of {', '.join(EMBEDDERS)}.")
    embedder = EMBEDDERS[name]
    size = embedding_size or embedder.size
    return embedder.build(input_size, channels or embedder.channels, size), size


class SpeakerHead(nn.Module):
    """An embedding, and the cosines of its angles to one vector for each training speaker.

    Args:
        input_size: features D.
        outputs: training speakers K.
        embedder: "ecapa" or "xvector".
        channels: see `ecapa_tdnn` and `x_vector`; None = those of `EMBEDDERS`.
        embedding_size: E; None = that of `EMBEDDERS`.
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        embedder: str = "ecapa",
        channels: Sequence[int] | None = None,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.embedder, size = _embedder(embedder, input_size, channels, embedding_size)
        self.classifier = Classifier(size, out_neurons=outputs)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Embeddings (B, E)."""
        return self.embedder(x_BTD, lengths_B).squeeze(1)

    def cosines(self, embedding_BE: Tensor) -> Tensor:
        """Cosines (B, K), for a loss with an angular margin."""
        return self.classifier(embedding_BE[:, None]).squeeze(1)


class EmbeddedClassHead(nn.Module):
    """An embedding and Linear: scores of the classes.

    Args:
        input_size: features D.
        outputs: classes K.
        embedder: "ecapa" or "xvector".
        channels: see `ecapa_tdnn` and `x_vector`; None = those of `EMBEDDERS`.
        embedding_size: E; None = that of `EMBEDDERS`.
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        embedder: str = "ecapa",
        channels: Sequence[int] | None = None,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.embedder, size = _embedder(embedder, input_size, channels, embedding_size)
        self.output = nn.Linear(size, outputs)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores (B, K)."""
        return self.output(self.embedder(x_BTD, lengths_B).squeeze(1))
