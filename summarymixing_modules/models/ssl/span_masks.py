"""Which frames wav2vec 2.0 hides: spans that begin anywhere, drawn per utterance, never padding.

Shape suffixes: B batch, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from summarymixing_modules.errors import InputError


def draw_span_masks(
    lengths_B: Tensor,
    length: int,
    prob: float,
    span: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks of wav2vec 2.0 (arXiv 2006.11477, §3.1) with the exact share of arXiv 2407.13377.

    Of L frames, N = ``prob`` · L / ``span`` (rounded at random to a neighbour, at least one) begin
    a span of hidden frames. Spans overlap; single frames drawn among the others make up for it, so
    that exactly N · ``span`` are hidden. (SpeechBrain's ``compute_mask`` draws one N for the batch,
    from its shortest utterance, and one span more than ``prob`` asks for.)

    Args:
        lengths_B: real frames of each utterance.
        length: frames T of the padded batch.
        prob: share of hidden frames.
        span: frames of a span.
        generator: of random numbers, on the CPU; None = PyTorch's.

    Returns:
        (B, T), True = hidden, on the device of ``lengths_B``. An utterance shorter than a span has
        nothing hidden.

    Raises:
        InputError: ``prob`` or ``span`` out of range.
    """
    if span < 1 or not 0 < prob <= 1:
        raise InputError(
            f"mask_prob={prob} and mask_length={span}: give a share of hidden frames above 0 and "
            "up to 1, and spans of at least 1 frame."
        )
    lengths = lengths_B.detach().cpu().long()
    chance_B = torch.rand(len(lengths), generator=generator)
    spans_B = (prob * lengths / span + chance_B).long().clamp(min=1)
    spans_B = spans_B.minimum(torch.div(lengths, span, rounding_mode="floor"))
    starts_BT = torch.rand(len(lengths), length, generator=generator)
    fill_BT = torch.rand(len(lengths), length, generator=generator)
    return span_masks(lengths, spans_B, span, starts_BT, fill_BT).to(lengths_B.device)


def span_masks(
    lengths_B: Tensor, spans_B: Tensor, span: int, starts_BT: Tensor, fill_BT: Tensor
) -> Tensor:
    """The masks that random numbers stand for; `naive_span_mask` says the same of one utterance.

    Args:
        lengths_B: real frames of each utterance.
        spans_B: spans of each; must fit side by side.
        span: frames of a span.
        starts_BT: in [0, 1); spans begin where it is least.
        fill_BT: in [0, 1); where it is least among the other frames, single ones are hidden.
    """
    positions_1T = torch.arange(starts_BT.shape[1])[None]
    starts_BT = _least(starts_BT, positions_1T <= (lengths_B - span)[:, None], spans_B)
    begun_BT = starts_BT.cumsum(1)
    ended_BT = torch.nn.functional.pad(begun_BT, (span, 0))[:, : begun_BT.shape[1]]
    hidden_BT = begun_BT > ended_BT
    free_BT = ~hidden_BT & (positions_1T < lengths_B[:, None])
    return hidden_BT | _least(fill_BT, free_BT, spans_B * span - hidden_BT.sum(1))


def _least(scores_BT: Tensor, allowed_BT: Tensor, counts_B: Tensor) -> Tensor:
    """Marks the ``counts_B`` smallest scores of each row among those that are allowed."""
    order_BT = scores_BT.masked_fill(~allowed_BT, 2.0).argsort(dim=1)
    chosen_BT = torch.arange(scores_BT.shape[1])[None] < counts_B[:, None]
    return torch.zeros_like(allowed_BT).scatter(1, order_BT, chosen_BT)
