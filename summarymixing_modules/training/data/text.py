"""From the keys of a recipe to lines of text, for language models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.corpora import corpus_spec
from summarymixing_modules.data.text.lines import LineBatchSampler, LineDataset, build_line_store
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.data.manifests import data_folder
from summarymixing_modules.training.lm_folder import load_tokenizer


class TextData:
    """What the LM recipe trains and tests on.

    Args:
        hparams: of the recipe.

    Attributes:
        tokenizer: of the recogniser.
        train: lines of ``lm_text`` and transcripts of ``train_splits``.
        valid: transcripts of ``dev_splits``.
        test: transcripts of each of ``test_splits``.
        train_loader: keyword arguments of the training DataLoader.
        eval_loader: those of the others.

    Raises:
        InputError: a file or split that is missing or cannot be used, the tokenizer included; or
            a corpus whose transcripts cannot be read without its audio.
    """

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        self.tokenizer = _tokenizer(hparams)
        text = _as_list(hparams["lm_text"])
        if not text and not hparams["train_splits"]:
            raise InputError("--lm_text is null and --train_splits is []: give text to train on.")
        self.train = self._dataset(hparams, "train", hparams["train_splits"], text)
        self.valid = self._dataset(hparams, "valid", hparams["dev_splits"])
        tests = hparams["test_splits"]
        self.test = {split: self._dataset(hparams, split, [split]) for split in tests}
        sampler = LineBatchSampler(
            self.train.lines.lengths, hparams["batch_size"], int(hparams["seed"])
        )
        loader = {"collate_fn": PaddedBatch, "num_workers": hparams["num_workers"]}
        self.train_loader: dict[str, Any] = {"batch_sampler": sampler, **loader}
        self.eval_loader: dict[str, Any] = {"batch_size": hparams["test_batch_size"], **loader}

    def _dataset(
        self,
        hparams: Mapping[str, Any],
        name: str,
        splits: list[str],
        text: list[str] | None = None,
    ) -> LineDataset:
        lines = run_on_main(
            build_line_store,
            kwargs={
                "folder": Path(hparams["save_folder"]) / "text" / name,
                "files": text or [],
                "lines": _transcripts(hparams, splits),
                "max_line_length": hparams["max_line_length"],
            },
        )
        return LineDataset(lines, self.tokenizer, name)


def _tokenizer(hparams: Mapping[str, Any]) -> Tokenizer:
    tokenizer = load_tokenizer(hparams["tokenizer_file"])
    if tokenizer.vocab_size != hparams["output_neurons"]:
        raise InputError(
            f"--output_neurons={hparams['output_neurons']}, but --tokenizer_file "
            f"{hparams['tokenizer_file']} has {tokenizer.vocab_size} tokens: set it to that."
        )
    if tokenizer.bos_index is None and hparams["model"].needs_marks:
        raise InputError(
            f"--tokenizer_file {hparams['tokenizer_file']}: has no begin and end marks, which this "
            "language model needs: take that of a recogniser with a decoder, or train the "
            "recurrent one of hparams/rnn.yaml for a transducer."
        )
    return tokenizer


def _transcripts(hparams: Mapping[str, Any], splits: list[str]) -> list[str]:
    if not splits:
        return []
    corpus = corpus_spec(hparams["corpus"])
    if corpus.transcripts is None:
        raise InputError(
            f"--corpus={corpus.name}: its transcripts cannot be read without its audio. Leave the "
            "splits at [], and give text by --lm_text."
        )
    return corpus.transcripts(data_folder(hparams), splits)


def _as_list(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
