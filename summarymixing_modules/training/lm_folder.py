"""A trained language model as a folder: what the LM recipe writes and recognisers read.

``config.json`` (the model as plain data), ``model.safetensors`` (its weights) and the tokenizer.
Nothing in it is code.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from summarymixing_modules.data.files import sync_to_disk, write_atomically
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import CharTokenizer, Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.models.asr.recurrent_language_model import RecurrentLanguageModel
from summarymixing_modules.models.describe import build, describe

logger = get_logger(__name__)

#: What trains each kind.
_RECIPES: dict[type, str] = {
    LanguageModel: "hparams/transformer.yaml",
    RecurrentLanguageModel: "hparams/rnn.yaml",
}
_FORMAT = "summarymixing-language-model"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_NGRAMS = (".arpa", ".arpa.gz", ".bin", ".klm", ".binary")
_Model = TypeVar("_Model", LanguageModel, RecurrentLanguageModel)
_MAKE_ONE = "Give the folder `lm` that recipes/LibriSpeech/LM writes into its output_folder"


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Keeps a tokenizer as ``tokenizer.model`` (SentencePiece) or ``tokenizer.json`` (characters).

    Returns:
        the file, for `load_tokenizer`.

    Raises:
        TypeError: a tokenizer of another kind.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        path = folder / "tokenizer.model"
        write_atomically(path, tokenizer.model_path.read_bytes())
    elif isinstance(tokenizer, CharTokenizer):
        path = folder / "tokenizer.json"
        tokenizer.save(path)
    else:
        raise TypeError(f"cannot save a {type(tokenizer).__name__}")
    return path


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads what `save_tokenizer` wrote; ``.json`` holds characters, all else is SentencePiece's.

    Raises:
        InputError: the file is missing or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"--tokenizer_file {path}: no such file. Give tokenizer.model or tokenizer.json in "
            "the save_folder of a recogniser of recipes/LibriSpeech/ASR/transformer."
        )
    return CharTokenizer.load(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def save_language_model(
    model: LanguageModel | RecurrentLanguageModel, tokenizer: Tokenizer, folder: Path
) -> Path:
    """Writes a model and its tokenizer; the folder is replaced in one step.

    Returns:
        the folder.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    safetensors.torch.save_file(weights, partial / _WEIGHTS, {"format": "pt"})
    config = {
        "format": _FORMAT,
        "format_version": 1,
        "model": describe(model),
        "tokenizer": save_tokenizer(tokenizer, partial).name,
    }
    (partial / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in partial.iterdir():
        sync_to_disk(path)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return folder


def export_language_model(
    model: LanguageModel | RecurrentLanguageModel, tokenizer: Tokenizer, output_folder: Path
) -> Path:
    """Writes a model as it is to ``lm`` in an output folder; call it on every rank.

    Returns:
        the folder, for ``--lm_folder`` of recognisers.
    """
    folder = output_folder / "lm"
    if if_main_process():
        save_language_model(model, tokenizer, folder)
        logger.info(f"Language model: {folder}")
    ddp_barrier()
    return folder


def check_lm_folder(folder: str | os.PathLike[str]) -> Path:
    """Refuses what is no folder of a language model, before anything long begins.

    Raises:
        InputError: there is none, it holds something else, or it is an n-gram.
    """
    folder = Path(folder)
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in (folder, *inside):
        if path.name.endswith(_NGRAMS) and not path.is_dir():
            raise InputError(
                f"--lm_folder {folder}: {path.name} looks like an n-gram, which this search cannot "
                f"use. {_MAKE_ONE}, or null for no language model."
            )
    if not folder.is_dir():
        raise InputError(
            f"--lm_folder {folder}: no such folder. {_MAKE_ONE}, or null for no language model."
        )
    if not (folder / _CONFIG).is_file():
        nested = folder / "lm" / _CONFIG
        hint = f" Did you mean {nested.parent}?" if nested.is_file() else f" {_MAKE_ONE}."
        raise InputError(f"--lm_folder {folder}: it has no {_CONFIG}.{hint}")
    return folder


def load_language_model(
    folder: str | os.PathLike[str], tokenizer: Tokenizer, kind: type[_Model]
) -> _Model:
    """Loads a language model for the search of a recogniser, on the CPU, in evaluation mode.

    Args:
        folder: that `save_language_model` wrote.
        tokenizer: of the recogniser.
        kind: that the search asks; others are refused.

    Raises:
        InputError: see `check_lm_folder`; the files are damaged or do not fit together; or the
            model was trained with another tokenizer.
    """
    folder = check_lm_folder(folder)
    config = _read_config(folder)
    own = load_tokenizer(folder / str(config["tokenizer"]))
    if own.pieces() != tokenizer.pieces():
        raise InputError(
            f"--lm_folder {folder}: this language model has another tokenizer ({_say(own)}) than "
            f"the recogniser ({_say(tokenizer)}). Train one with --tokenizer_file set to the "
            "recogniser's, or give --lm_folder=null."
        )
    model = build(config["model"])
    if not isinstance(model, kind):
        raise InputError(
            f"--lm_folder {folder}: holds a {type(model).__name__}, and this search asks a "
            f"{kind.__name__}: train one with {_RECIPES[kind]} of recipes/LibriSpeech/LM."
        )
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / _WEIGHTS))
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"--lm_folder {folder}: {_WEIGHTS} is missing or damaged ({error}). Copy it again."
        ) from None
    except RuntimeError as error:
        first = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(
            f"--lm_folder {folder}: the weights have another size than {_CONFIG} says ({first}). "
            "The files come from different trainings; copy the folder again."
        ) from None
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if config["format"] == _FORMAT and {"model", "tokenizer"} <= set(config):
            return dict(config)
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"--lm_folder {folder}: its {_CONFIG} is of something else. {_MAKE_ONE}.")


def _say(tokenizer: Tokenizer) -> str:
    kind = "characters" if isinstance(tokenizer, CharTokenizer) else "SentencePiece"
    return f"{tokenizer.vocab_size} tokens, {kind}"
