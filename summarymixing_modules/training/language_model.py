"""Training of language models over the tokens of a recogniser.

Shape suffixes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import speechbrain as sb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from torch import Tensor
from torch.nn import functional as F

from summarymixing_modules.data.corpora.librispeech_tree import (
    corpus_root,
    read_split,
    split_folder,
)
from summarymixing_modules.data.text.lines import LineBatchSampler, LineDataset, build_line_store
from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.lm_folder import load_tokenizer, save_language_model

logger = get_logger(__name__)

TEXT_KEYS = frozenset(
    {
        "data_folder",
        "save_folder",
        "lm_text",
        "train_splits",
        "dev_splits",
        "test_splits",
        "tokenizer_file",
        "max_line_length",
        "batch_size",
        "test_batch_size",
        "num_workers",
        "seed",
    }
)


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


class TextData:
    """What the LM recipe trains and tests on.

    Args:
        hparams: with the ``TEXT_KEYS``.

    Attributes:
        tokenizer: of the recogniser.
        train: lines of ``lm_text`` and transcripts of ``train_splits``.
        valid: transcripts of ``dev_splits``.
        test: transcripts of each of ``test_splits``.
        train_loader: keyword arguments of the training DataLoader.
        eval_loader: those of the others.

    Raises:
        InputError: a file or split that is missing or cannot be used, the tokenizer included.
    """

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        self._hparams = hparams
        self.tokenizer = load_tokenizer(hparams["tokenizer_file"])
        if self.tokenizer.vocab_size != hparams["output_neurons"]:
            raise InputError(
                f"--output_neurons={hparams['output_neurons']}, but --tokenizer_file "
                f"{hparams['tokenizer_file']} has {self.tokenizer.vocab_size} tokens: set it to "
                "that."
            )
        text = _as_list(hparams["lm_text"])
        if not text and not hparams["train_splits"]:
            raise InputError("--lm_text is null and --train_splits is []: give text to train on.")
        self.train = self._dataset("train", hparams["train_splits"], text)
        self.valid = self._dataset("valid", hparams["dev_splits"])
        self.test = {split: self._dataset(split, [split]) for split in hparams["test_splits"]}
        sampler = LineBatchSampler(
            self.train.lines.lengths, hparams["batch_size"], int(hparams["seed"])
        )
        loader = {"collate_fn": PaddedBatch, "num_workers": hparams["num_workers"]}
        self.train_loader: dict[str, Any] = {"batch_sampler": sampler, **loader}
        self.eval_loader: dict[str, Any] = {"batch_size": hparams["test_batch_size"], **loader}

    def _dataset(self, name: str, splits: list[str], text: list[str] | None = None) -> LineDataset:
        folder = Path(self._hparams["save_folder"]) / "text" / name
        transcripts: list[str] = []
        if splits:
            root = corpus_root(Path(self._hparams["data_folder"]))
            for split in splits:
                transcripts += [t.text for t in read_split(split_folder(root, split)).transcripts]
        lines = run_on_main(
            build_line_store,
            kwargs={
                "folder": folder,
                "files": text or [],
                "lines": transcripts,
                "max_line_length": self._hparams["max_line_length"],
            },
        )
        return LineDataset(lines, self.tokenizer, name)


def _as_list(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
