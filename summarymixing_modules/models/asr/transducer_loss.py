"""The loss of transducers: −log P(tokens | frames), summed over all alignments.

Graves, "Sequence transduction with recurrent neural networks", arXiv 1211.3711, §2.3. With
a(1, 0) = 0, the forward variables of lattice node (t, u) are

    a(t, u) = log( e^{a(t−1, u) + blank(t−1, u)} + e^{a(t, u−1) + label(t, u−1)} )

and the loss is −a(T, U) − blank(T, U).

Shape suffixes: B batch, T frames, U tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import rnnt_loss

logger = get_logger(__name__)

#: Index of the blank, as in the tokenizers.
BLANK_INDEX = 0


def transducer_loss(
    logits_BTUV: Tensor, tokens_BU: Tensor, lengths_B: Tensor, token_lengths_B: Tensor
) -> Tensor:
    """The loss of each utterance, in at least float32, whatever autocast says.

    Uses torchaudio's kernel, which keeps the gradient of the logits, as large as they are, and
    nothing else. Where torchaudio has no compiled library, or in float64, `plain_transducer_loss`.

    Args:
        logits_BTUV: scores before the softmax, (B, T, U + 1, V); what lies past the lengths gets
            no gradient.
        tokens_BU: what was said, without blanks.
        lengths_B: real frames of each utterance, at least 1.
        token_lengths_B: real tokens of each; may be 0.

    Returns:
        loss_B, natural logarithm.
    """
    # Both forms want tensors no longer than their longest utterance.
    frames, tokens = int(lengths_B.max()), int(token_lengths_B.max())
    logits_BTUV = logits_BTUV[:, :frames, : tokens + 1]
    tokens_BU = tokens_BU[:, :tokens]
    if logits_BTUV.dtype == torch.float64 or not has_fused_loss():
        return plain_transducer_loss(logits_BTUV, tokens_BU, lengths_B, token_lengths_B)
    return rnnt_loss(
        logits_BTUV.float().contiguous(),
        tokens_BU.int().contiguous(),
        lengths_B.int(),
        token_lengths_B.int(),
        blank=BLANK_INDEX,
        reduction="none",
        fused_log_softmax=True,
    )


def has_fused_loss() -> bool:
    """Whether torchaudio's compiled loss is there; beside a CPU-only torch it is not."""
    found = hasattr(torch.ops.torchaudio, "rnnt_loss_forward")
    if not found:
        _warn_once()
    return found


_warned: list[bool] = []


def _warn_once() -> None:
    if not _warned:
        _warned.append(True)
        logger.warning(
            "torchaudio has no compiled transducer loss here: a slower one in plain PyTorch is "
            "used. torch and torchaudio built for the same CUDA have it (they run on CPUs too)."
        )


def plain_transducer_loss(
    logits_BTUV: Tensor, tokens_BU: Tensor, lengths_B: Tensor, token_lengths_B: Tensor
) -> Tensor:
    """`transducer_loss` in plain PyTorch, in the dtype of the logits (at least float32).

    A row of the lattice at a time: with the prefix sums p(u) of label(t, ·),
    a(t, u) = p(u) + log Σ_{v ≤ u} e^{a(t−1, v) + blank(t−1, v) − p(v)}.
    """
    dtype = torch.promote_types(logits_BTUV.dtype, torch.float32)
    log_probs_BTUV = logits_BTUV.to(dtype).log_softmax(dim=-1)
    blank_BTU = log_probs_BTUV[..., BLANK_INDEX]
    index_BTU1 = tokens_BU.long()[:, None, :, None].expand(-1, logits_BTUV.shape[1], -1, -1)
    label_BTU = log_probs_BTUV[:, :, :-1].gather(3, index_BTU1)[..., 0]
    prefix_BTU = F.pad(label_BTU.cumsum(dim=2), (1, 0))
    rows = [prefix_BTU[:, 0]]
    for t in range(1, logits_BTUV.shape[1]):
        entered_BU = rows[-1] + blank_BTU[:, t - 1] - prefix_BTU[:, t]
        rows.append(prefix_BTU[:, t] + entered_BU.logcumsumexp(dim=1))
    reached_BTU = torch.stack(rows, dim=1) + blank_BTU
    row_B = torch.arange(len(lengths_B), device=lengths_B.device)
    return -reached_BTU[row_B, lengths_B.long() - 1, token_lengths_B.long()]
