"""wav2vec 2.0: self-supervised training by telling a hidden frame from others (arXiv 2006.11477).

Frames of the front end's output are hidden in spans; from what is left the encoder tells, for every
hidden frame, which of a number of quantised frames of the utterance was there. The quantiser is
trained along. Settings, and filterbanks in the place of the waveform: arXiv 2407.13377.

What a trained encoder is used with lives in ``frontend`` and ``transformer``; all else is for
pre-training only.

Shape suffixes: B batch, T frames, F input features, C features of the front end, D of the encoder,
M hidden frames, N those of an utterance, K negatives, G codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.ssl.gumbel_quantiser import GumbelQuantiser, Quantised
from summarymixing_modules.models.ssl.hidden import HiddenFrames
from summarymixing_modules.models.ssl.negatives import (
    contrastive_logits,
    distinct_candidates,
    draw_negatives,
)
from summarymixing_modules.models.ssl.span_masks import draw_span_masks
from summarymixing_modules.models.transformer_asr import TransformerASR
from summarymixing_modules.ops.positions import sine_positions

REDUCTIONS = ("sum", "mean")


@dataclass(frozen=True)
class Wav2Vec2Output:
    """Loss and monitors of a batch.

    Attributes:
        loss: what is trained, see ``Wav2Vec2Model``.
        losses_B: contrastive loss of each utterance, summed over its hidden frames.
        diversity: (G·V - Σ perplexity) / (G·V), from 0, all codes are as likely, to nearly 1.
        codes_MG: of hidden frames.
        correct_M: whether they were told from others; not where there was no other code.
        chance_M: how often a guess is right: 1 / (different codes to choose among).
    """

    loss: Tensor
    losses_B: Tensor
    diversity: Tensor
    codes_MG: Tensor
    correct_M: Tensor
    chance_M: Tensor


class Wav2Vec2Model(AcousticEncoder):
    """Front end, encoder, quantiser, and the projections in which the two are compared.

    The loss of a batch is that of the paper, summed over the M hidden frames of its utterances:
    Σ cross-entropy + ``diversity_weight`` · M · diversity. Its first part is the sum of what
    utterances have alone; the perplexities in the second are over all hidden frames of the batch,
    on this process. With ``loss_reduction`` "mean" all of it is divided by M: batches of an
    accumulation window, and processes, then count alike, and not by their hidden frames.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTC, lengths_B).
        transformer: the encoder.
        codes: V, of each codebook.
        codebooks: G.
        code_dim: features of a quantised frame.
        comparison_dim: features in which targets and predictions are compared.
        temperature: of the quantiser: (first, last, factor of each optimizer step).
        mask_prob: share of hidden frames.
        mask_length: frames of a span.
        negatives: K.
        logit_temperature: κ, by which similarities are divided.
        diversity_weight: α.
        loss_reduction: "sum" or "mean".
        frontend_grad_scale: the front end's gradients are multiplied by it.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self,
        frontend: nn.Module,
        transformer: TransformerASR,
        codes: int = 320,
        codebooks: int = 2,
        code_dim: int = 256,
        comparison_dim: int = 256,
        temperature: tuple[float, float, float] = (2.0, 0.25, 0.999995),
        mask_prob: float = 0.65,
        mask_length: int = 10,
        negatives: int = 100,
        logit_temperature: float = 0.1,
        diversity_weight: float = 0.1,
        loss_reduction: str = "sum",
        frontend_grad_scale: float = 1.0,
    ) -> None:
        super().__init__(frontend, transformer)
        _check_settings(mask_length, negatives, logit_temperature, loss_reduction)
        features = int(frontend.output_size)  # type: ignore[arg-type]
        self.quantiser = GumbelQuantiser(features, codes, codebooks, code_dim, temperature)
        self.project_target = nn.Linear(code_dim, comparison_dim)
        self.project_output = nn.Linear(self.encoder_size, comparison_dim)
        self.mask_embedding = nn.Parameter(torch.rand(self.encoder_size))
        self.mask_prob, self.mask_length, self.negatives = mask_prob, mask_length, negatives
        self.logit_temperature, self.diversity_weight = logit_temperature, diversity_weight
        self.loss_reduction, self.frontend_grad_scale = loss_reduction, frontend_grad_scale

    def forward(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        hidden_BT: Tensor | None = None,
        negatives_BNK: Tensor | None = None,
        clean_BTF: Tensor | None = None,
    ) -> Wav2Vec2Output:
        """Hides, encodes, compares.

        Args:
            x_BTF: normalised features.
            lengths_B: real frames of each utterance.
            hidden_BT: frames of the front end's output to hide, best on the CPU; None = drawn.
            negatives_BNK: see ``ops.negatives.draw_negatives``; None = drawn.
            clean_BTF: features that targets are of, which the front end reads, too; None = those
                that are heard.
        """
        targets_BTC = None
        if clean_BTF is not None:
            targets_BTC = _scale_gradient(
                self.frontend(clean_BTF, lengths_B)[0], self.frontend_grad_scale
            )
        y_BTC, lengths_B = self.frontend(x_BTF, lengths_B)
        y_BTC = _scale_gradient(y_BTC, self.frontend_grad_scale)
        if hidden_BT is None:
            hidden_BT = draw_span_masks(
                lengths_B.cpu(), y_BTC.shape[1], self.mask_prob, self.mask_length
            )
        hidden = HiddenFrames.of(hidden_BT, y_BTC.device)
        if negatives_BNK is None:
            negatives_BNK = draw_negatives(hidden.counts_B, hidden.most, self.negatives)
        quantised = self.quantiser(hidden.pick(y_BTC if targets_BTC is None else targets_BTC))
        hidden_BT = hidden_BT.to(y_BTC.device, non_blocking=True)
        encoded_BTD = self.encode_hidden(y_BTC, lengths_B, hidden_BT)
        predicted_MD = self.project_output(hidden.pick(encoded_BTD))
        return self._compare(quantised, predicted_MD, hidden, negatives_BNK)

    def encode_hidden(self, y_BTC: Tensor, lengths_B: Tensor, hidden_BT: Tensor) -> Tensor:
        """Encoder output (B, T, D) of the front end's output with frames hidden.

        The learned embedding takes the place of the encoder's input, after its projection and
        before positions are added, as in arXiv 2006.11477. With nothing hidden this is ``encode``.

        Args:
            y_BTC: of the front end.
            lengths_B: its real frames.
            hidden_BT: True = hidden.
        """
        x_BTD = self.transformer.custom_src_module(y_BTC)
        x_BTD = torch.where(hidden_BT[..., None], self.mask_embedding.to(x_BTD.dtype), x_BTD)
        length, features = x_BTD.shape[1:]
        if self.transformer.absolute_positions:
            x_BTD = x_BTD + sine_positions(length, features, 0, x_BTD.device).to(x_BTD.dtype)
        padding_BT = lengths_to_padding(lengths_B, length)
        return self.transformer.encoder(src=x_BTD, src_key_padding_mask=padding_BT)[0]

    def _compare(
        self,
        quantised: Quantised,
        predicted_MD: Tensor,
        hidden: HiddenFrames,
        negatives_BNK: Tensor,
    ) -> Wav2Vec2Output:
        """The loss, from what hidden frames were and what the encoder makes of them."""
        codes_BN = hidden.by_utterance(self._combination(quantised.codes_MG))
        logits_BNK = contrastive_logits(
            hidden.by_utterance(predicted_MD),
            hidden.by_utterance(self.project_target(quantised.vectors_MD)),
            codes_BN,
            negatives_BNK,
            self.logit_temperature,
        )
        logits_MK = hidden.in_a_row(logits_BNK)
        # The target comes first.
        losses_M = cross_entropy(
            logits_MK, logits_MK.new_zeros(len(logits_MK), dtype=torch.long), reduction="none"
        )
        losses_B = hidden.sum(losses_M)
        diversity = 1 - quantised.perplexity_G.mean() / self.quantiser.codes
        frames = len(losses_M)
        loss = losses_B.sum() + self.diversity_weight * frames * diversity
        if self.loss_reduction == "mean":
            loss = loss / max(frames, 1)
        choices_M = hidden.in_a_row(distinct_candidates(codes_BN, negatives_BNK))
        correct_M = (logits_MK.argmax(-1) == 0) & (choices_M > 1)
        return Wav2Vec2Output(
            loss, losses_B, diversity, quantised.codes_MG, correct_M, 1 / choices_M
        )

    def _combination(self, codes_MG: Tensor) -> Tensor:
        """One number for the codes of all codebooks."""
        weights_G = self.quantiser.codes ** torch.arange(codes_MG.shape[1], device=codes_MG.device)
        return (codes_MG * weights_G).sum(-1)


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    """The same values with gradients multiplied by ``scale``."""
    return x if scale == 1 else x.detach() + scale * (x - x.detach())


def _check_settings(
    mask_length: int, negatives: int, logit_temperature: float, loss_reduction: str
) -> None:
    """Raises InputError for what cannot be trained with."""
    if mask_length < 2:
        raise InputError(
            f"mask_length={mask_length} must be at least 2: one frame has no negative."
        )
    if negatives < 1:
        raise InputError(f"negatives={negatives} must be at least 1.")
    if logit_temperature <= 0:
        raise InputError(f"logit_temperature={logit_temperature} must be above 0.")
    if loss_reduction not in REDUCTIONS:
        raise InputError(f"unknown loss_reduction {loss_reduction!r}: give sum or mean.")
