"""What a training run left behind, as the content of a bundle.

A run's ``hyperparams.yaml`` is code, and its checkpoints are pickles: this is for runs of one's
own. Only the model and its features are built from the file; the rest of it (optimizer, loggers,
augmentation, seeds) is left out.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

import summarymixing_modules
from summarymixing_modules.bundles.assemble import (
    MODEL_PREFIX,
    NORMALIZE_PREFIX,
    NORMALIZE_SETTINGS,
    LoadedBundle,
    assemble,
    feature_settings,
    statistics_of,
)
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.tokenizers import LIBRISPEECH_CHARACTERS, CharTokenizer, Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models import AttentionCTCModel
from summarymixing_modules.models.describe import describe
from summarymixing_modules.training.asr import RecognitionBrain
from summarymixing_modules.training.attention_ctc import AttentionCTCBrain
from summarymixing_modules.training.checkpoints import AtomicCheckpointer
from summarymixing_modules.training.report import RESOLVED_YAML, RESULT
from summarymixing_modules.training.yaml_checks import parse_yaml

#: Brains that rank checkpoints by something else than the error rate.
BRAINS: dict[type[nn.Module], type[RecognitionBrain]] = {AttentionCTCModel: AttentionCTCBrain}
TRAIN_MANIFEST = "train.csv"  # where recipes keep it, in save_folder
#: Keys of hyperparams.yaml that are built; of the others only numbers, texts and lists are kept.
BUILT_KEYS = ("modules", "compute_features")


@dataclass(frozen=True)
class RunContent:
    """A trained model as plain data.

    Attributes:
        config: content of ``config.json``.
        tensors: weights and statistics.
        tokenizer: of the model.
        result: content of the run's ``result.json``; empty if there is none.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer
    result: dict[str, Any]

    def load(self) -> LoadedBundle:
        """The model, as from the bundle that would be exported."""
        return assemble(self.config, self.tensors, self.tokenizer)


def is_run(folder: Path) -> bool:
    """Whether a folder looks like the output folder of a recipe."""
    return (folder / RESOLVED_YAML).is_file()


def read_run(folder: str | os.PathLike[str]) -> RunContent:
    """Reads a run: its best checkpoints, chosen and averaged as its evaluation does.

    Args:
        folder: output folder of a speech recognition recipe; may have been moved or copied.

    Raises:
        InputError: no run, no checkpoint, or something that cannot be exported.
    """
    run = Path(folder)
    if not is_run(run):
        raise InputError(
            f"{run} is no output folder of a recipe: it has no {RESOLVED_YAML}. Give the "
            "--output_folder of a training."
        )
    tree = parse_yaml(run / RESOLVED_YAML)
    hparams = _build(run, tree)
    averaged = _load_best(run, tree, hparams)
    model, normalize = hparams["modules"]["model"], hparams["modules"]["normalize"]
    tokenizer = _find_tokenizer(run, tree, hparams)
    tensors = _tensors(MODEL_PREFIX, model.state_dict())
    tensors |= _tensors(NORMALIZE_PREFIX, statistics_of(normalize))
    result_file = run / RESULT
    result = json.loads(result_file.read_text(encoding="utf-8")) if result_file.exists() else {}
    longest = _longest_utterance(_save_folder(run, tree), hparams)
    config = _config(tree, hparams, model, normalize, tokenizer, averaged, longest)
    return RunContent(config, tensors, tokenizer, result)


def _config(
    tree: Mapping[str, Any],
    hparams: Mapping[str, Any],
    model: nn.Module,
    normalize: InputNormalization,
    tokenizer: Tokenizer,
    averaged: int,
    window_seconds: float | None,
) -> dict[str, Any]:
    sentencepiece = isinstance(tokenizer, SentencePieceTokenizer)
    return {
        "summarymixing_modules": summarymixing_modules.__version__,
        "sample_rate": int(hparams["sample_rate"]),
        "attention_type": hparams.get("attention_type"),
        "mode": hparams.get("mode"),
        "streaming": bool(hparams.get("streaming", False)),  # trained with chunks
        "averaged_checkpoints": averaged,
        "window_seconds": window_seconds,
        "tokenizer": "sentencepiece" if sentencepiece else "characters",
        "features": feature_settings(hparams["compute_features"], dict(tree["compute_features"])),
        "normalize": {name: getattr(normalize, name) for name in NORMALIZE_SETTINGS},
        "model": describe(model),
    }


def _build(run: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The model and its features, built from the YAML file; plain values of the other keys."""
    for key in BUILT_KEYS:
        if key not in tree:
            raise InputError(
                f"{run / RESOLVED_YAML} has no key '{key}': only runs of speech recognition "
                "recipes can be exported."
            )
    wanted = {key: value for key, value in tree.items() if key in BUILT_KEYS or _is_plain(value)}
    stream = io.StringIO()
    YAML().dump(wanted, stream)
    hparams: dict[str, Any] = load_hyperpyyaml(stream.getvalue())
    for name in ("model", "normalize"):
        if name not in hparams["modules"]:
            raise InputError(f"'modules' of {run / RESOLVED_YAML} has no '{name}' to export.")
    return hparams


def _is_plain(value: Any) -> bool:
    if getattr(getattr(value, "tag", None), "value", None):
        return False
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _load_best(run: Path, tree: Mapping[str, Any], hparams: Mapping[str, Any]) -> int:
    """Loads the checkpoints that an evaluation would; returns how many were averaged."""
    folder = _save_folder(run, tree)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} with the checkpoints of {run}.")
    modules = hparams["modules"]
    recoverables = {name: modules[name] for name in ("model", "normalize")}
    brain_class = BRAINS.get(type(modules["model"]), RecognitionBrain)
    brain = brain_class(
        modules,
        hparams=hparams,
        run_opts={"device": "cpu", "test_only": True},
        checkpointer=AtomicCheckpointer(folder, recoverables),
    )
    try:
        brain.on_evaluate_start(**brain.ranking)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
    return brain.averaged_checkpoints


def _save_folder(run: Path, tree: Mapping[str, Any]) -> Path:
    """Where checkpoints and tokenizers lie, in a run that may have been moved since."""
    given = tree.get("save_folder", "save")
    inside = os.path.relpath(given, tree.get("output_folder", run))
    return Path(given) if inside.startswith(os.pardir) else run / inside


def _longest_utterance(save: Path, hparams: Mapping[str, Any]) -> float | None:
    """Seconds of the longest utterance that the model was trained on, if that is known."""
    limit = hparams.get("avoid_if_longer_than") or math.inf
    manifest = save / TRAIN_MANIFEST
    rows = read_manifest(manifest) if manifest.is_file() else []
    longest = max((row.duration for row in rows if row.duration <= limit), default=limit)
    return math.ceil(longest * 100) / 100 if math.isfinite(longest) else None


def _find_tokenizer(run: Path, tree: Mapping[str, Any], hparams: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a run, without its corpus."""
    kind, outputs = hparams["token_type"], hparams["output_neurons"]
    if kind == "librispeech_char":
        return CharTokenizer(bos_eos=outputs > len(LIBRISPEECH_CHARACTERS) + 1)
    name = "char.json" if kind == "char" else f"{kind}_{outputs}_*.model"
    save = _save_folder(run, tree)
    found = sorted(save.glob(name))
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{save} should hold one tokenizer {name}, and holds {there}: leave the one of this "
            "training there, and move others away."
        )
    return CharTokenizer.load(found[0]) if kind == "char" else SentencePieceTokenizer(found[0])


def _tensors(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, since safetensors refuses tensors that share their memory."""
    copies = {f"{prefix}{n}": t.detach().cpu().clone().contiguous() for n, t in tensors.items()}
    broken = [n for n, t in copies.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise InputError(f"the trained weights are not finite ({broken[0]}): train again.")
    return copies
