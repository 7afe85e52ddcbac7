"""BEST-RQ: self-supervised training with a random-projection quantiser (arXiv 2202.01855).

Features are hidden in blocks; from what is left the encoder predicts, for every hidden frame, the
code that a frozen random projection gives to the features that were there. Settings:
arXiv 2409.02596, §4.

Shape suffixes: B batch, T feature frames, F features, M hidden encoder frames, Q codebooks,
V codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, normalize

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.ssl.block_masks import draw_block_masks
from summarymixing_modules.models.ssl.hidden import HiddenFrames
from summarymixing_modules.models.ssl.random_projection import random_projection_codes
from summarymixing_modules.models.transformer_asr import TransformerASR

STRIDE = 4  # feature frames of an encoder frame


class RandomProjectionQuantiser(nn.Module):
    """A frozen projection and codebooks; nothing in it is trained, all of it is saved.

    They are drawn from the seed alone (``torch.manual_seed``), whatever was drawn since: models
    with different mixers and one seed have the same targets, and their accuracies can be compared.

    Args:
        input_size: features of a frame.
        codes: V.
        code_dim: features of a code.
        codebooks: Q, each with a projection of its own.
        layernorm: frames are normalised over their features first (arXiv 2202.01855); not in the
            study of arXiv 2409.02596.
    """

    projection: Tensor
    codebook: Tensor

    def __init__(
        self,
        input_size: int,
        codes: int = 8192,
        code_dim: int = 16,
        codebooks: int = 1,
        layernorm: bool = True,
    ) -> None:
        super().__init__()
        self.layernorm = layernorm
        # Not the seed itself: the weights of the first layers are drawn with that.
        generator = torch.Generator().manual_seed(torch.initial_seed() ^ 1)
        projection = torch.empty(codebooks, input_size, code_dim, device="cpu")
        for matrix in projection:
            nn.init.xavier_uniform_(matrix, generator=generator)
        codebook = torch.randn(codebooks, codes, code_dim, generator=generator, device="cpu")
        device = torch.get_default_device()
        self.register_buffer("projection", projection.to(device))
        self.register_buffer("codebook", normalize(codebook, dim=-1).to(device))

    @torch.no_grad()
    def forward(self, frames_MF: Tensor) -> Tensor:
        """Codes (M, Q) of frames."""
        if self.layernorm:
            frames_MF = layer_norm(frames_MF.float(), frames_MF.shape[-1:])
        return random_projection_codes(frames_MF, self.projection, self.codebook)


@dataclass(frozen=True)
class BestRQOutput:
    """Loss and monitors of a batch.

    Attributes:
        loss: mean over hidden frames and codebooks, as ``loss_mean`` says.
        losses_B: of each utterance; 0 where nothing is hidden.
        codes_MQ: targets.
        correct_MQ: whether they were predicted.
    """

    loss: Tensor
    losses_B: Tensor
    codes_MQ: Tensor
    correct_MQ: Tensor


class BestRQModel(AcousticEncoder):
    """Front end, encoder, one output layer per codebook, and the quantiser.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTD, lengths_B), one frame out of four.
        transformer: the encoder.
        n_mels: features F.
        codes, code_dim, codebooks: of the quantiser.
        mask_prob: hidden blocks per feature frame.
        mask_length: feature frames of a block, a multiple of 4.
        noise_std: hidden features are replaced by normal noise of this deviation.
        shared_mask: one mask for the batch, drawn from its shortest utterance, as in the study.
        quantiser_layernorm: see ``RandomProjectionQuantiser``.
        loss_mean: "utterances", all of which count alike, each with the mean over its hidden
            frames; or "frames", all of which count alike, as in the study.

    Raises:
        InputError: a ``mask_length`` that would hide parts of encoder frames, or no such
            ``loss_mean``.
    """

    def __init__(
        self,
        frontend: nn.Module,
        transformer: TransformerASR,
        n_mels: int = 80,
        codes: int = 8192,
        code_dim: int = 16,
        codebooks: int = 1,
        mask_prob: float = 0.15,
        mask_length: int = 4,
        noise_std: float = 0.1,
        shared_mask: bool = False,
        quantiser_layernorm: bool = True,
        loss_mean: str = "utterances",
    ) -> None:
        super().__init__(frontend, transformer)
        if mask_length % STRIDE:
            raise InputError(
                f"mask_length={mask_length} must be a multiple of {STRIDE}, the feature frames "
                "of one encoder frame."
            )
        if loss_mean not in ("utterances", "frames"):
            raise InputError(f"loss_mean={loss_mean!r} must be utterances or frames.")
        self.quantiser = RandomProjectionQuantiser(
            STRIDE * n_mels, codes, code_dim, codebooks, quantiser_layernorm
        )
        self.output = nn.Linear(self.encoder_size, codebooks * codes)
        self.codes, self.codebooks = codes, codebooks
        self.mask_prob, self.mask_length = mask_prob, mask_length
        self.noise_std, self.shared_mask, self.loss_mean = noise_std, shared_mask, loss_mean

    def forward(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        hidden_BT: Tensor | None = None,
        clean_BTF: Tensor | None = None,
    ) -> BestRQOutput:
        """Hides, encodes, predicts.

        Args:
            x_BTF: normalised features.
            lengths_B: real frames of each utterance.
            hidden_BT: which to hide, in whole groups of four, best on the CPU; None = drawn.
            clean_BTF: features that targets are of; None = those that are heard.
        """
        x_BTF = _whole_groups(x_BTF, lengths_B)
        target_BTF = x_BTF if clean_BTF is None else _whole_groups(clean_BTF, lengths_B)
        if hidden_BT is None:
            hidden_BT = draw_block_masks(
                lengths_B.cpu(), x_BTF.shape[1], self.mask_prob, self.mask_length, self.shared_mask
            )
        hidden = HiddenFrames.of(hidden_BT[:, ::STRIDE], x_BTF.device)
        codes_MQ = self.quantiser(hidden.pick(target_BTF.unflatten(1, (-1, STRIDE)).flatten(2)))
        noise_BTF = self.noise_std * torch.randn_like(x_BTF)
        hidden_BT = hidden_BT.to(x_BTF.device, non_blocking=True)
        x_BTF = torch.where(hidden_BT[..., None], noise_BTF, x_BTF)
        encoded_BGD, _ = self.encode(x_BTF, lengths_B)
        logits_MQV = self.output(hidden.pick(encoded_BGD)).unflatten(-1, (self.codebooks, -1))
        losses_M = (
            cross_entropy(logits_MQV.float().flatten(0, 1), codes_MQ.flatten(), reduction="none")
            .unflatten(0, codes_MQ.shape)
            .mean(-1)
        )
        losses_B = hidden.sum(losses_M) / hidden.counts_B.clamp(min=1)
        if self.loss_mean == "frames":
            loss = losses_M.sum() / max(1, len(losses_M))
        else:
            loss = losses_B.sum() / (hidden.counts_B > 0).sum().clamp(min=1)
        return BestRQOutput(loss, losses_B, codes_MQ, logits_MQV.argmax(-1) == codes_MQ)


def _whole_groups(x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """Padding as zeros, and as much of it as makes T a multiple of four."""
    x_BTF = nn.functional.pad(x_BTF, (0, 0, 0, -x_BTF.shape[1] % STRIDE))
    return x_BTF.masked_fill(lengths_to_padding(lengths_B, x_BTF.shape[1])[..., None], 0.0)
