"""From a trained run to a bundle: a folder that others can load without running its code."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from summarymixing_modules.bundles.assemble import MODEL_PREFIX, NORMALIZE_PREFIX
from summarymixing_modules.bundles.card import model_card
from summarymixing_modules.bundles.features import statistics_of
from summarymixing_modules.bundles.kinds import (
    CLASSIFIER,
    ENCODER,
    RECOGNISER,
    kind_of,
    require_kind,
)
from summarymixing_modules.bundles.load import TOKENIZERS, load_bundle, load_classifier_bundle
from summarymixing_modules.bundles.manifest import (
    CARD,
    CONFIG,
    MANIFEST,
    WEIGHTS,
    BundleFiles,
    is_bundle,
    make_manifest,
    to_json,
)
from summarymixing_modules.bundles.run import RunContent, read_run, saved_tensors
from summarymixing_modules.bundles.speechbrain_files import speechbrain_files
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder
from summarymixing_modules.data.files import sync_to_disk
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import CharTokenizer, Tokenizer
from summarymixing_modules.errors import InputError


def export_bundle(
    run_folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    overwrite: bool = False,
    speechbrain: bool = False,
) -> Path:
    """Exports the best checkpoints of a run, ranked and averaged as in its evaluation.

    A recognition run becomes a recogniser, one of classification a classifier; of a pre-training
    run the encoder alone is exported, for ``SSLEncoder`` and the fine-tuning recipe. The bundle is
    written beside its place, loaded as a user would, and renamed: it is complete or absent. The run
    is not changed.

    Args:
        run_folder: output folder of a recipe for speech recognition, classification or
            pre-training. Its hyperparams.yaml is run as code: export runs of your own only.
        target: folder to make.
        overwrite: replace the bundle that is there. Anything but a bundle is never replaced.
        speechbrain: also write what SpeechBrain's ``EncoderASR``, ``EncoderDecoderASR`` and
            ``StreamingASR`` load, see ``speechbrain_files``; recognisers only.

    Returns:
        the folder.

    Raises:
        InputError: the target is taken, or the run cannot be exported.
    """
    target = Path(target)
    _check_target(target, overwrite)  # before the work
    write_bundle(read_run(run_folder), target, overwrite, speechbrain)
    return target


def write_bundle(
    content: RunContent, target: Path, overwrite: bool = False, speechbrain: bool = False
) -> None:
    """Writes a model as a bundle; arguments and errors as in ``export_bundle``."""
    _check_target(target, overwrite)
    files = _files(content, target.name)
    if speechbrain:
        require_kind(
            content.config, RECOGNISER, f"--speechbrain is for recognisers; {content.path}"
        )
        table = files[TOKENIZERS[content.config["tokenizer"]][1]]
        files |= speechbrain_files(content.config, table, files[WEIGHTS])
    with _staged(target) as staging:
        for name, data in {**files, MANIFEST: make_manifest(files)}.items():
            (staging / name).write_bytes(data)
            sync_to_disk(staging / name)
        # What cannot be loaded is not published.
        LOADERS[kind_of(content.config)](staging)


def export_tuned(encoder: SSLEncoder, target: Path, task: str, result: Mapping[str, Any]) -> None:
    """Writes an encoder that was trained further as a bundle; one that is there is replaced.

    Args:
        encoder: as it is now.
        target: folder of the bundle.
        task: that it was trained further on.
        result: content of result.json of that training.
    """
    config = dict(encoder.config)
    config["trained_as"] = f"{config.get('trained_as', config['model']['class'])}, tuned on {task}"
    config["averaged_checkpoints"] = result["averaged_checkpoints"]
    weights = saved_tensors(MODEL_PREFIX, encoder.encoder.state_dict())
    weights |= saved_tensors(NORMALIZE_PREFIX, statistics_of(encoder.normalize))
    write_bundle(RunContent(config, weights, None, dict(result)), target, overwrite=True)


#: kind → what loads a bundle of it
LOADERS: dict[str, Callable[[Path], object]] = {
    RECOGNISER: load_bundle,
    CLASSIFIER: load_classifier_bundle,
    ENCODER: SSLEncoder.from_bundle,
}


def _files(content: RunContent, name: str) -> dict[str, bytes]:
    files = {
        CARD: model_card(content, name).encode(),
        CONFIG: to_json(content.config),
        WEIGHTS: safetensors.torch.save(content.tensors, {"format": "pt"}),
    }
    if content.tokenizer is not None:
        files[TOKENIZERS[content.config["tokenizer"]][1]] = _tokenizer_bytes(content.tokenizer)
    return files


def _tokenizer_bytes(tokenizer: Tokenizer) -> bytes:
    if isinstance(tokenizer, SentencePieceTokenizer):
        return tokenizer.model_path.read_bytes()
    assert isinstance(tokenizer, CharTokenizer)
    marks = tokenizer.bos_index is not None
    return to_json({"characters": tokenizer.characters(), "bos_eos": marks})


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if target.is_symlink() or not is_bundle(target):
        raise InputError(
            f"{target} exists and is no bundle, so it is not replaced: give another folder."
        )
    if not overwrite:
        raise InputError(f"{target} holds a bundle: give --overwrite, or another folder.")
    known = {MANIFEST, *BundleFiles(target).entries}
    foreign = sorted(path.name for path in target.iterdir() if path.name not in known)
    if foreign:
        raise InputError(
            f"{target} also holds {', '.join(foreign[:3])}, which the bundle does not list and "
            "--overwrite would delete: move that away first."
        )


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place if nothing fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.exporting+{os.getpid()}")
    replaced = target.with_name(f".{target.name}.replaced+{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process of this number
    staging.mkdir()
    try:
        yield staging
        sync_to_disk(staging)
        if target.exists():
            os.rename(target, replaced)
        os.rename(staging, target)
        sync_to_disk(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
