"""A Transformer language model over the tokens of a recogniser.

Shape suffixes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from torch import Tensor, nn

from summarymixing_modules.models.describe import describable

MAX_TOKENS = 2500  # of a line; SpeechBrain makes that many positions


@describable
class LanguageModel(TransformerLM):
    """SpeechBrain's TransformerLM: causal encoder layers (arXiv 1706.03762, §3.1), sine positions.

    Token 0 is padding. Tokens (B, U) become scores (B, U, V) of the token that follows each.

    Args:
        vocab: vocabulary V.
        d_model: features.
        nhead: heads of self-attention.
        num_layers: how many layers.
        d_ffn: hidden size of the feed-forward networks.
        dropout: everywhere.
        d_embedding: features of a token's embedding; None = ``d_model``.
        normalize_before: normalise the input of each part ("pre-norm"), not the sum after it.
        activation: of the feed-forward networks.
    """

    needs_marks = True  # of the tokenizer: token 0 is hidden

    def __init__(
        self,
        vocab: int,
        d_model: int = 768,
        nhead: int = 12,
        num_layers: int = 12,
        d_ffn: int = 3072,
        dropout: float = 0.0,
        d_embedding: int | None = None,
        normalize_before: bool = False,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__(
            vocab,
            d_model=d_model,
            nhead=nhead,
            num_encoder_layers=num_layers,
            d_ffn=d_ffn,
            dropout=dropout,
            d_embedding=d_embedding,
            normalize_before=normalize_before,
            activation=activation,
            max_length=MAX_TOKENS,
        )

    def make_masks(
        self,
        src: Tensor,
        pad_idx: int = 0,
        look_ahead_mask: bool = True,
        padding_mask: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """As in SpeechBrain, but both boolean: torch warns about a mixture of two types."""
        length = src.shape[1]
        future_UU = torch.ones(length, length, dtype=torch.bool, device=src.device).triu(1)
        return future_UU if look_ahead_mask else None, src == pad_idx if padding_mask else None
