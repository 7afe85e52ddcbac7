"""The text that a language model over the tokens of a recogniser is trained and tested on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.corpora.librispeech_tree import (
    corpus_root,
    read_split,
    split_folder,
)
from summarymixing_modules.data.text.lines import LineBatchSampler, LineDataset, build_line_store
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.lm_folder import load_tokenizer

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
