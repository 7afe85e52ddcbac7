"""Big Bird attention (arXiv 2007.14062, §2): window, global and random blocks, O(T).

Shape suffixes: B batch, T frames, D model features, H heads, E features of a head, P period of the
draws, V random blocks.
"""

from __future__ import annotations

import math

from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.heads import HeadProjections, head_features
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.block_sparse import block_sparse_attend, draw_blocks
from summarymixing_modules.ops.chunks import Chunks
from summarymixing_modules.ops.rope import rotate


class BigBird(Mixer):
    """Block-sparse softmax attention with rotary positions (arXiv 2104.09864).

    The paper's pattern (window of 3 blocks, 2 global, 3 random) with smaller blocks: its blocks of
    64 tokens would make 20 s of speech in frames of 40 ms dense. The random pattern is drawn when
    the mixer is built, from PyTorch's random state (so each layer has its own, and the seed of a
    run fixes them), and saved with the weights; heads share it.

    The global blocks are the first ones of the utterance (the paper's ITC). Full context only.

    Args:
        enc_dim: features D.
        nhead: heads H; D/H must be even.
        block_size: frames of a block; with frames of 40 ms, 16 are 0.64 s.
        window_blocks: blocks to each side of a query's own.
        global_blocks: first blocks, which see all frames and are seen by all.
        random_blocks: random key blocks of each query block.
        attention_dropout: on the attention weights. 0 keeps PyTorch on its fastest kernels.
        causal: refused.

    Raises:
        InputError: heads that do not fit D, or numbers of blocks out of range.
    """

    capabilities = Capabilities(
        linear_time=True, causal=False, chunked=False, streaming=False, positions="rotary"
    )
    draws_PV: Tensor

    def __init__(
        self,
        enc_dim: int,
        nhead: int,
        block_size: int = 16,
        window_blocks: int = 1,
        global_blocks: int = 2,
        random_blocks: int = 3,
        attention_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__(enc_dim, causal)
        if block_size < 1:
            raise InputError(f"block_size={block_size} counts frames: at least 1.")
        if min(window_blocks, global_blocks, random_blocks) < 0:
            raise InputError(
                f"window_blocks={window_blocks}, global_blocks={global_blocks} and "
                f"random_blocks={random_blocks} must be at least 0."
            )
        self.scale = 1 / math.sqrt(head_features(enc_dim, nhead, rotary=True))
        self.block_size, self.window_blocks = block_size, window_blocks
        self.global_blocks, self.attention_dropout = global_blocks, attention_dropout
        self.projections = HeadProjections(enc_dim, nhead)
        self.register_buffer("draws_PV", draw_blocks(random_blocks))

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """See ``Mixer.mix``."""
        query_BHTE, key_BHTE, value_BHTE = self.projections(x_BTD)
        y_BHTE = block_sparse_attend(
            rotate(query_BHTE),
            rotate(key_BHTE),
            value_BHTE,
            padding_BT,
            self.draws_PV,
            self.block_size,
            self.window_blocks,
            self.global_blocks,
            self.scale,
            self.attention_dropout if self.training else 0.0,
        )
        return self.projections.output(y_BHTE)


@register_mixer(
    "bigbird",
    BigBird.capabilities,
    source="arXiv 2007.14062, §2",
    forms={
        "bigbird": {},
        "bigbird-fine": {"block_size": 4, "global_blocks": 1, "random_blocks": 1},
    },
)
def build_bigbird(
    size: MixerSize,
    *,
    block_size: int = 16,
    window_blocks: int = 1,
    global_blocks: int = 2,
    random_blocks: int = 3,
    attention_dropout: float = 0.0,
) -> BigBird:
    """Builds block-sparse attention for a host layer."""
    return BigBird(
        size.d_model,
        size.nhead,
        block_size,
        window_blocks,
        global_blocks,
        random_blocks,
        attention_dropout,
        size.causal,
    )
