"""Reading a bundle. Nothing in it is executed: JSON, safetensors and a table of tokens are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from summarymixing_modules.bundles.assemble import (
    LoadedBundle,
    LoadedClassifier,
    assemble,
    assemble_classifier,
)
from summarymixing_modules.bundles.kinds import CLASSIFIER, RECOGNISER, require_kind
from summarymixing_modules.bundles.manifest import CONFIG, WEIGHTS, BundleError, BundleFiles
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import CharTokenizer, Tokenizer

#: kind of tokenizer → (what reads its file, the file in a bundle)
TOKENIZERS: dict[str, tuple[Callable[[Path], Tokenizer], str]] = {
    "characters": (CharTokenizer.load, "tokenizer.json"),
    "sentencepiece": (SentencePieceTokenizer, "tokenizer.model"),
}


def load_bundle(path: str | os.PathLike[str]) -> LoadedBundle:
    """Loads a recogniser that ``export_bundle`` wrote, on the CPU, in eval mode.

    The folder may come from a stranger: no code, pickle or YAML in it is looked at, files are
    compared with their SHA-256 before they are read, names are looked up in lists of this
    package (classes, activations, mixers that are registered or installed), and what the
    description asks for is no larger than the weights.

    Args:
        path: folder of the bundle.

    Raises:
        BundleError: files that are missing, damaged, truncated, links out of the folder or no JSON
            or safetensors; a newer format; a bundle of another kind.
        InputError: unknown classes, activations or mixers; weights that do not fit or hold NaN.
    """
    config, tensors, files = read_bundle(path)
    require_kind(config, RECOGNISER, path)
    return assemble(config, tensors, _load_tokenizer(files, config.get("tokenizer")))


def load_classifier_bundle(path: str | os.PathLike[str]) -> LoadedClassifier:
    """Loads a classifier that ``export_bundle`` wrote, as safely as ``load_bundle`` does.

    Raises:
        InputError: see ``load_bundle``; a recogniser or an encoder.
    """
    config, tensors, _ = read_bundle(path)
    require_kind(config, CLASSIFIER, path)
    return assemble_classifier(config, tensors)


def read_bundle(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, Tensor], BundleFiles]:
    """Configuration and tensors of a bundle of any kind, and its files; nothing is built.

    Raises:
        BundleError: see ``load_bundle``.
    """
    files = BundleFiles(Path(path))
    config = files.read_json(CONFIG)
    return config, read_tensors(files.folder / WEIGHTS, files.read(WEIGHTS)), files


def read_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: for the message.
        content: of the file.

    Raises:
        BundleError: it is something else.
    """
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        pickled = content.startswith((b"PK\x03\x04", b"\x80"))
        kind = " but a pickle, which could run code when it is read" if pickled else ""
        raise BundleError(
            f"{path} is no safetensors file{kind} ({error}). Export or download it again."
        ) from None


def _load_tokenizer(files: BundleFiles, kind: object) -> Tokenizer:
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise BundleError(
            f"the bundle's tokenizer is {kind!r}. Known kinds: {', '.join(TOKENIZERS)}."
        )
    read, name = TOKENIZERS[kind]
    files.read(name)  # compares its hash
    return read(files.folder / name)
