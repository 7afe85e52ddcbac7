"""Which frames masked prediction hides: whole blocks, drawn per utterance, never padding.

Shape suffixes: B batch, T frames, N blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from summarymixing_modules.errors import InputError


def draw_block_masks(
    lengths_B: Tensor,
    length: int,
    prob: float,
    block: int,
    shared: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks of BEST-RQ as in arXiv 2409.02596: each frame begins a masked block with ``prob``.

    Blocks lie side by side from the first frame on, so none overlaps another: of L frames,
    ``prob`` · L blocks (rounded at random to a neighbour, at least one) are drawn among the
    L // ``block`` whole ones. prob = 0.15 and block = 4 hide 60 % of the frames.

    Args:
        lengths_B: real frames of each utterance.
        length: frames T of the padded batch.
        prob: blocks per frame.
        block: frames of a block.
        shared: draw one mask for the batch, from its shortest utterance, as the study did.
        generator: of random numbers, on the CPU; None = PyTorch's.

    Returns:
        (B, T), True = hidden, on the device of ``lengths_B``. An utterance shorter than a block
        has nothing hidden.

    Raises:
        InputError: ``prob`` or ``block`` out of range.
    """
    if block < 1 or not 0 < prob * block <= 1:
        raise InputError(
            f"mask_prob={prob} and mask_length={block} hide a share of {prob * block:g} of the "
            "frames: give a mask_length of at least 1, and a share above 0 and up to 1."
        )
    lengths = lengths_B.detach().cpu().long()
    drawn = lengths.min().expand(1) if shared else lengths
    whole = torch.div(drawn, block, rounding_mode="floor")
    chance = torch.rand(len(drawn), generator=generator)
    wanted = (prob * drawn + chance).long().clamp(min=1).minimum(whole)
    scores_BN = torch.rand(len(drawn), -(-length // block), generator=generator)
    beyond_BN = torch.arange(scores_BN.shape[1])[None] >= whole[:, None]
    rank_BN = scores_BN.masked_fill(beyond_BN, 2.0).argsort(dim=1).argsort(dim=1)
    hidden_BN = rank_BN < wanted[:, None]
    hidden_BT = hidden_BN.repeat_interleave(block, dim=1)[:, :length]
    return hidden_BT.expand(len(lengths), -1).to(lengths_B.device)
