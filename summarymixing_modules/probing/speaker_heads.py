"""Heads of probes that make one vector of an utterance: ECAPA-TDNN and X-vector.

Shape suffixes: B batch, T frames, D features, E embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.lobes.models.Xvector import Xvector
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.padding_blind import PaddingBlind

#: Embedder → channels of its five convolutions (of ECAPA-TDNN: the first, the three SE-Res2Net
#: blocks and their aggregation), what all but the last are multiples of, and the size E.
EMBEDDERS = {
    "ecapa": ((512, 512, 512, 512, 1536), 8, 192),
    "xvector": ((512, 512, 512, 512, 1500), 1, 512),
}


class _EmbeddingHead(nn.Module):
    """SpeechBrain's ECAPA-TDNN or X-vector, blind to padding, and what follows it.

    Args:
        input_size: features D.
        outputs: K.
        embedder: "ecapa" (arXiv 2005.07143) or "xvector" (Snyder et al., ICASSP 2018).
        channels: of its five convolutions; None = those of `EMBEDDERS`.
        embedding_size: E; None = that of `EMBEDDERS`.

    Raises:
        InputError: no such embedder, or the channels do not fit it.
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
        if embedder not in EMBEDDERS:
            raise InputError(f"embedder={embedder!r}: use one of {', '.join(EMBEDDERS)}.")
        usual_channels, multiple, usual_size = EMBEDDERS[embedder]
        channels, size = channels or usual_channels, embedding_size or usual_size
        five = isinstance(channels, Sequence) and len(channels) == 5
        if not five or any(width % multiple for width in channels[:4]):
            rest = f", the first four multiples of {multiple}" if multiple > 1 else ""
            raise InputError(f"channels={channels} of {embedder}: give five{rest}.")
        if embedder == "ecapa":
            network = ECAPA_TDNN(
                input_size,
                channels=[*channels],
                attention_channels=64,  # as in MP3S (arXiv 2308.14456)
                lin_neurons=size,
            )
        else:
            network = Xvector(tdnn_channels=[*channels], lin_neurons=size, in_channels=input_size)
        self.embedder = PaddingBlind(network)
        self.add_output(size, outputs)

    def add_output(self, size: int, outputs: int) -> None:
        """Makes what follows the embedding."""
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Embeddings (B, E)."""
        return self.embedder(x_BTD, lengths_B).squeeze(1)


class SpeakerHead(_EmbeddingHead):
    """An embedding, and the cosines of its angles to one vector for each of K training speakers."""

    def add_output(self, size: int, outputs: int) -> None:
        self.classifier = Classifier(size, out_neurons=outputs)

    def cosines(self, embedding_BE: Tensor) -> Tensor:
        """Cosines (B, K), for a loss with an angular margin."""
        return self.classifier(embedding_BE[:, None]).squeeze(1)


class EmbeddedClassHead(_EmbeddingHead):
    """An embedding and Linear: scores of K classes."""

    def add_output(self, size: int, outputs: int) -> None:
        self.output = nn.Linear(size, outputs)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores (B, K)."""
        return self.output(super().forward(x_BTD, lengths_B))
