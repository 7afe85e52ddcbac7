"""Training of language models over the tokens of a recogniser.

Shape suffixes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, Tokenizer
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.lm_folder import save_language_model

logger = get_logger(__name__)


class LanguageModelBrain(SafeBrain):
    """Brain of the LM recipe; ``modules.model`` is a ``LanguageModel``.

    The loss is the mean negative log-likelihood of a token, end mark included, in nats; PPL is its
    exponential over a whole set.
    """

    ranking: ClassVar[dict[str, str]] = {"min_key": "PPL"}

    frame_unit: ClassVar[str] = "tokens"
    known_keys: ClassVar[frozenset[str]] = SafeBrain.known_keys | {"epoch_counter"}
    architecture_keys = ("d_model", "nhead", "num_layers", "d_ffn", "output_neurons")

    def batch_frames(self, batch: Any) -> float:
        """Tokens to predict, end marks included."""
        tokens_BU, share_B = batch.tokens_eos
        return float((share_B * tokens_BU.shape[1]).sum())

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Tensor:
        """Scores (B, U, V) of the tokens that follow."""
        batch = batch.to(self.device)
        return self.modules.model(batch.tokens_bos.data)

    def compute_objectives(self, predictions: Tensor, batch: Any, stage: sb.Stage) -> Tensor:
        """Mean negative log-likelihood of the batch's tokens; evaluation also sums it up."""
        targets_BU = batch.tokens_eos.data
        nats = F.cross_entropy(
            predictions.float().transpose(1, 2),
            targets_BU,
            ignore_index=BLANK_INDEX,
            reduction="sum",
        )
        tokens = (targets_BU != BLANK_INDEX).sum()
        if stage != sb.Stage.TRAIN:
            self._nats += float(nats)
            self._tokens += int(tokens)
        return nats / tokens

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh sums for every evaluation."""
        self._nats, self._tokens = 0.0, 0

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Reports the stage; after validation closes the epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        loss = self._nats / max(self._tokens, 1)
        stats = {"loss": loss, "PPL": math.exp(min(loss, 700.0))}
        if stage == sb.Stage.VALID:
            assert epoch is not None
            self.end_epoch(epoch, {"loss": self.train_loss}, stats)
        else:
            self.test_stats = stats

    def export(self, tokenizer: Tokenizer) -> Path:
        """Writes the model as it is to ``lm`` in the output folder; call it on every rank.

        Returns:
            the folder, for ``--lm_folder`` of recognisers.
        """
        assert self.output_folder is not None
        folder = self.output_folder / "lm"
        if if_main_process():
            save_language_model(self.model, tokenizer, folder)
            logger.info(f"Language model: {folder}")
        ddp_barrier()
        return folder
