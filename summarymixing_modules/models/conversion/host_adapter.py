"""A mixer in a layer of SpeechBrain whose host prepares masks and positions for attention."""

from __future__ import annotations

import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerAdapter
from summarymixing_modules.ops.chunks import Chunks, visible_TT


class HostAdapter(MixerAdapter):
    """For hosts that still prepare their inputs for the attention they were built with.

    * Dense masks of dynamic chunk training and causal masks are read back into a chunk size and a
      left context (the host has made them at a quadratic price; reading one costs as much and
      waits for the GPU once in every layer). Any other mask is refused.
    * Relative position embeddings are dropped, by intent, where the mixer has no use for them: the
      host computes them for the layers that have, or for the attention it had.

    Args:
        mixer: any mixer.
    """

    def _chunks(self, attn_mask: Tensor | None) -> Chunks | None:
        return None if attn_mask is None else chunks_of_mask(attn_mask)

    def _positions(self, pos_embs: Tensor | None) -> Tensor | None:
        return pos_embs if self.mixer.capabilities.positions == "relative" else None


def chunks_of_mask(mask_TT: Tensor) -> Chunks | None:
    """The chunks that a dense mask stands for; ``visible_TT`` undone.

    A causal mask stands for chunks of one frame. Where the left context reaches the first frame
    from everywhere, it is unlimited as far as can be seen, and so is returned as None.

    Args:
        mask_TT: what a frame (row) may not see: True, or −inf in a mask of floats; any other entry
            is False, or 0.

    Raises:
        InputError: any other mask.
    """
    hidden_TT = _hidden(mask_TT)
    length = hidden_TT.shape[0]
    chunk_size = int((~hidden_TT[0]).sum())
    left_context_size = None
    if chunk_size:
        last_chunk = (length - 1) // chunk_size
        first_seen = int(hidden_TT[-1].logical_not().byte().argmax())
        left_context_size = last_chunk - first_seen // chunk_size if first_seen else None
        chunks = Chunks(chunk_size, left_context_size)
        if torch.equal(visible_TT(length, chunks, hidden_TT.device), ~hidden_TT):
            return None if chunk_size == length else chunks
    raise InputError(
        "a token mixer takes no attn_mask other than a causal one or one of chunks with left "
        "context (dynamic chunk training): leave the mask out, or keep attention in this layer."
    )


def _hidden(mask_TT: Tensor) -> Tensor:
    if mask_TT.dim() != 2 or mask_TT.shape[0] != mask_TT.shape[1]:
        raise InputError(
            f"attn_mask is {tuple(mask_TT.shape)}: a token mixer can only follow one (T, T) mask "
            "for the whole batch. Give padding as key_padding_mask."
        )
    if mask_TT.dtype == torch.bool:
        return mask_TT
    hidden_TT = mask_TT == -torch.inf
    if not torch.equal(mask_TT.masked_fill(hidden_TT, 0), torch.zeros_like(mask_TT)):
        raise InputError(
            "attn_mask adds biases to scores, and a token mixer has no scores: use a boolean mask, "
            "or one of 0 and -inf."
        )
    return hidden_TT
