"""``summarymixing convert``: a folder with a checkpoint of SpeechBrain → a bundle.

Pickles are read with ``weights_only=True``, which makes tensors of them and nothing else, and
nothing of the YAML file is run: both may come from a stranger.
"""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor

import summarymixing_modules
from summarymixing_modules.bundles.assemble import MODEL_PREFIX, NORMALIZE_PREFIX
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.features import (
    NORMALIZE_SETTINGS,
    STATISTICS,
    feature_settings,
)
from summarymixing_modules.bundles.kinds import (
    ENCODER,
    RECOGNISER,
    describe_encoder,
    encoder_weights,
)
from summarymixing_modules.bundles.manifest import RUN_FILE
from summarymixing_modules.bundles.run import RunContent, mixer_of, saved_tensors
from summarymixing_modules.conversion.language_models import LANGUAGE_MODELS, language_model
from summarymixing_modules.conversion.models import MODELS, speech_model
from summarymixing_modules.conversion.parts import Converted, Part, parts_of
from summarymixing_modules.conversion.yaml_file import YamlFile
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, BOS_INDEX, EOS_INDEX
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import AttentionCTCModel
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.models.asr.recurrent_language_model import RecurrentLanguageModel
from summarymixing_modules.models.describe import describe
from summarymixing_modules.training.lm_folder import save_language_model

#: Keys of SpeechBrain's recipes → what our recognisers have; the marks, if they have a decoder.
_BLANK = {"blank_index": BLANK_INDEX}
_MARKS = {"bos_index": BOS_INDEX, "eos_index": EOS_INDEX}


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        bundle: the folder of the recogniser or the encoder; None where there is only a language
            model.
        language_model: its folder, for ``--lm_folder`` of recognisers; None = there was none.
        dropped: names of tensors that our models make themselves or do without, on purpose.
        left_out: files that hold no model, such as the optimizer's.
    """

    bundle: Path | None
    language_model: Path | None
    dropped: list[str]
    left_out: list[str]


def run_convert(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    found = convert(arguments.folder, arguments.output, arguments.yaml)
    for what, names in (("tensors", found.dropped), ("files", found.left_out)):
        if names:
            print(f"{what} that are left out on purpose: {', '.join(names)}")
    for path in (found.bundle, found.language_model):
        if path is not None:
            print(path)
    return 0


def convert(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    yaml: str | os.PathLike[str] | None = None,
) -> Conversion:
    """Converts a checkpoint as SpeechBrain saves it, or as it is published.

    The bundle of a recogniser that is published with a language model gets that model beside it,
    in ``OUTPUT-lm``.

    Args:
        folder: with the ``.ckpt`` files; or one that holds a single such folder, CKPT+….
        output: folder to make.
        yaml: the file that describes the model; None = hyperparams.yaml in the folder, or up to
            two folders above it.

    Raises:
        InputError: something that cannot be converted; nothing is written then.
    """
    folder, target = _checkpoint_folder(Path(folder)), Path(output)
    file = YamlFile(_yaml_above(folder) if yaml is None else Path(yaml))
    parts, left_out = _read_parts(folder, file)
    models = [part for part in parts if part.block.name not in LANGUAGE_MODELS]
    speech = speech_model(models, file.one("Transducer_joint")) if models else None
    language = [language_model(part) for part in parts if part.block.name in LANGUAGE_MODELS]
    tokenizer = None
    if language or (speech is not None and not speech.trained_as):
        made = [found.model for found in (speech, *language) if found is not None]
        decodes = any(isinstance(model, AttentionCTCModel | LanguageModel) for model in made)
        _check_indices(file, {**_BLANK, **(_MARKS if decodes else {})})
        tokenizer = _find_tokenizer(folder)
    dropped = [name for made in (speech, *language) if made is not None for name in made.dropped]
    lm_folder = None
    if language:
        lm_folder = target if speech is None else target.with_name(f"{target.name}-lm")
        if lm_folder.exists():
            raise InputError(f"{lm_folder} exists: give another --output.")
    if speech is not None:
        write_bundle(_content(folder, file, speech, tokenizer), target)
    if lm_folder is not None:
        model = language[0].model
        assert isinstance(model, LanguageModel | RecurrentLanguageModel) and tokenizer is not None
        save_language_model(model, tokenizer, lm_folder)
    return Conversion(target if speech is not None else None, lm_folder, dropped, left_out)


def _read_parts(folder: Path, file: YamlFile) -> tuple[list[Part], list[str]]:
    """The parts of all models in a folder, and the files that hold no model."""
    saved, parts, left_out = file.saved(), [], []
    for path in sorted(folder.glob("*.ckpt")):
        block = saved.get(path.stem)
        name = "" if block is None else block.name
        if block is not None and name in MODELS:
            parts += parts_of(block, _load(path))
        elif name not in ("InputNormalization", "SentencePieceProcessor"):
            left_out.append(path.name)
    if not parts:
        raise InputError(
            f"{folder} holds no model: {file.path} names none of its files "
            f"({', '.join(left_out) or 'none'}) in `recoverables` or `loadables`."
        )
    return parts, left_out


def _content(
    folder: Path, file: YamlFile, made: Converted, tokenizer: SentencePieceTokenizer | None
) -> RunContent:
    """The content of the bundle."""
    features, sample_rate = _features(file)
    settings, statistics = _normalization(folder, file)
    kind = RECOGNISER if tokenizer is not None and not made.trained_as else ENCODER
    config: dict[str, Any] = {
        "kind": kind,
        "summarymixing_modules": summarymixing_modules.__version__,
        "converted_from": folder.resolve().name,
        "sample_rate": sample_rate,
        "averaged_checkpoints": 1,
        "window_seconds": None,
        "features": features,
        "normalize": settings,
    }
    weights = dict(made.model.state_dict())
    if kind == ENCODER:
        config |= {"model": describe_encoder(made.model), "trained_as": made.trained_as}
        weights = encoder_weights(config["model"], weights)
        tokenizer = None
    else:
        config |= {"model": describe(made.model), "tokenizer": "sentencepiece"}
        config |= {"streaming": bool(file.get("streaming", False))}
    config |= mixer_of(config["model"])
    tensors = saved_tensors(NORMALIZE_PREFIX, statistics) | saved_tensors(MODEL_PREFIX, weights)
    return RunContent(config, tensors, tokenizer, {}, folder)


def _checkpoint_folder(folder: Path) -> Path:
    """A folder with ``.ckpt`` files: the one that is given, or the only CKPT+… in it."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}.")
    inside = sorted(path for path in folder.glob("CKPT+*") if path.is_dir())
    if not inside and any(folder.glob("*.ckpt")):
        return folder
    if len(inside) != 1:
        there = ", ".join(path.name for path in inside) or "no .ckpt file"
        raise InputError(f"{folder} holds {there}: give the folder of one checkpoint.")
    return inside[0]


def _yaml_above(folder: Path) -> Path:
    places = [folder, *folder.resolve().parents[:2]]
    for place in places:
        if (place / RUN_FILE).is_file():
            return place / RUN_FILE
    raise InputError(
        f"neither {folder} nor the two folders above it hold a {RUN_FILE}: give the file that "
        "describes the model, --yaml=FILE."
    )


def _load(path: Path) -> dict[str, Any]:
    """What a pickle holds, if it is tensors and plain values only."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is damaged, or holds more than tensors, which could run code when it is read "
            f"({reason}): it is not loaded."
        ) from None
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}, no weights by their names.")
    return dict(found)


def _features(file: YamlFile) -> tuple[dict[str, Any], int]:
    """Settings of the filterbanks, and the sample rate."""
    block = file.one("Fbank")
    if block is None:
        raise InputError(f"{file.path} makes no Fbank: only models of filterbanks are converted.")
    given = block.bind(Fbank)
    return feature_settings(Fbank(**given), given), int(given["sample_rate"])


def _normalization(folder: Path, file: YamlFile) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings of the normalisation of features, and its statistics."""
    block = file.one("InputNormalization")
    if block is None:
        raise InputError(f"{file.path} makes no InputNormalization, which our models have.")
    given = block.bind(InputNormalization)
    settings = {name: given[name] for name in NORMALIZE_SETTINGS}
    if settings["norm_type"] != "global":
        return settings, {}
    names = [name for name, other in file.saved().items() if other.key == block.key]
    paths = [folder / f"{name}.ckpt" for name in names if (folder / f"{name}.ckpt").is_file()]
    if not paths:
        raise InputError(
            f"{folder} has no statistics of the features ({' or '.join(names)}.ckpt), which "
            f"norm_type=global needs."
        )
    found = _load(paths[0])
    return settings, {
        name: torch.as_tensor(found[name], dtype=torch.float64 if name == "count" else None)
        for name in STATISTICS
    }


def _check_indices(file: YamlFile, wanted: Mapping[str, int]) -> None:
    for key, index in wanted.items():
        if file.get(key, index) != index:
            raise InputError(
                f"{file.path}: {key} is {file.get(key)}, and our recognisers have {index}."
            )


def _find_tokenizer(folder: Path) -> SentencePieceTokenizer:
    """The SentencePiece model beside the weights, or in the folder above them."""
    for place in (folder, folder.resolve().parent):
        found = [place / "tokenizer.ckpt"] if (place / "tokenizer.ckpt").is_file() else []
        found = found or sorted(place.glob("*.model"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{place} holds {names}: leave the model's own tokenizer there.")
        if found:
            return SentencePieceTokenizer(found[0])
    raise InputError(
        f"neither {folder} nor the folder above it holds a tokenizer: put its SentencePiece model "
        "there, as tokenizer.ckpt."
    )
