"""What a training run left behind, as the content of a bundle.

A run's ``hyperparams.yaml`` is code, and its checkpoints are pickles: this is for runs of one's
own. Only the model and its features are built from the file; the rest of it (optimizer, loggers,
augmentation, seeds) is left out.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

import summarymixing_modules
from summarymixing_modules.bundles.assemble import (
    MODEL_PREFIX,
    NORMALIZE_PREFIX,
    LoadedBundle,
    LoadedClassifier,
    assemble,
    assemble_classifier,
)
from summarymixing_modules.bundles.features import (
    NORMALIZE_SETTINGS,
    assemble_features,
    feature_settings,
    statistics_of,
)
from summarymixing_modules.bundles.kinds import (
    CLASSIFIER,
    ENCODER,
    RECOGNISER,
    describe_encoder,
    encoder_weights,
    require_kind,
)
from summarymixing_modules.data.labels import LABELS_FILE
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.subset import subset_path
from summarymixing_modules.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from summarymixing_modules.data.text.tokenizers import (
    LIBRISPEECH_CHARACTERS,
    CharTokenizer,
    Tokenizer,
)
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import architecture_of
from summarymixing_modules.models.describe import build, describe
from summarymixing_modules.models.slu.classifier import ClassifierModel
from summarymixing_modules.training.recipe.yaml_checks import parse_yaml
from summarymixing_modules.training.run.averaging import load_best, ranking_of
from summarymixing_modules.training.run.checkpoint_files import while_they_last
from summarymixing_modules.training.run.checkpoints import (
    AtomicCheckpointer,
    NoCheckpointError,
)
from summarymixing_modules.training.run.report import RESOLVED_YAML, RESULT

TRAIN_MANIFEST = "train.csv"  # where recipes keep it, in save_folder
#: In the save_folder of a run whose model is described there and not in its YAML file.
MODEL_FILE = "model.json"
#: Keys of hyperparams.yaml that are built; of the others only numbers, texts and lists are kept.
BUILT_KEYS = ("model", "normalize", "compute_features")


@dataclass(frozen=True)
class RunContent:
    """A trained model as plain data.

    Attributes:
        config: content of ``config.json``.
        tensors: weights and statistics.
        tokenizer: of the model; an encoder has none.
        result: content of the run's ``result.json``; empty if there is none.
        path: of the run.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer | None
    result: dict[str, Any]
    path: Path = Path()

    def load(self) -> LoadedBundle:
        """The recogniser, as from the bundle that would be exported.

        Raises:
            InputError: a classifier or a pre-trained encoder.
        """
        require_kind(self.config, RECOGNISER, self.path)
        assert self.tokenizer is not None
        return assemble(self.config, self.tensors, self.tokenizer)

    def load_classifier(self) -> LoadedClassifier:
        """The classifier, as from the bundle that would be exported.

        Raises:
            InputError: a recogniser or a pre-trained encoder.
        """
        require_kind(self.config, CLASSIFIER, self.path)
        return assemble_classifier(self.config, self.tensors)


@dataclass(frozen=True)
class _Parts:
    """The objects of a run.

    Attributes:
        hparams: plain values of its YAML file.
        model: with the best weights, once they are loaded.
        normalize: likewise.
        features: settings of the features, as in ``config.json``.
    """

    hparams: dict[str, Any]
    model: nn.Module
    normalize: InputNormalization
    features: dict[str, Any]

    @property
    def kind(self) -> str:
        """What has tokens is a recogniser."""
        if "token_type" in self.hparams:
            return RECOGNISER
        return CLASSIFIER if isinstance(self.model, ClassifierModel) else ENCODER


def read_run(folder: str | os.PathLike[str]) -> RunContent:
    """Reads a run: its best checkpoints, chosen and averaged as its evaluation does.

    Of a run of pre-training only the encoder is read.

    Args:
        folder: output folder of a recipe for recognition, classification or pre-training; may have
            been moved or copied.

    Raises:
        InputError: no run, no checkpoint, or something that cannot be exported.
    """
    run = Path(folder)
    if not (run / RESOLVED_YAML).is_file():
        raise InputError(
            f"{run} is no output folder of a recipe: it has no {RESOLVED_YAML}. Give the "
            "--output_folder of a training."
        )
    tree = parse_yaml(run / RESOLVED_YAML)
    parts = _build(run, tree)
    result_file = run / RESULT
    result = json.loads(result_file.read_text(encoding="utf-8")) if result_file.exists() else {}
    config: dict[str, Any] = {
        "kind": parts.kind,
        "summarymixing_modules": summarymixing_modules.__version__,
        "sample_rate": int(parts.hparams["sample_rate"]),
        "averaged_checkpoints": _load_best(run, tree, parts),
        "window_seconds": _longest_utterance(_save_folder(run, tree), parts.hparams),
        "features": parts.features,
        "normalize": {name: getattr(parts.normalize, name) for name in NORMALIZE_SETTINGS},
    }
    tensors = saved_tensors(NORMALIZE_PREFIX, statistics_of(parts.normalize))
    weights, tokenizer = dict(parts.model.state_dict()), None
    if parts.kind == ENCODER:
        config |= {"model": describe_encoder(parts.model)}
        config |= {"trained_as": type(parts.model).__name__}
        weights = encoder_weights(config["model"], weights)
    else:
        config |= {"model": describe(parts.model)}
        config |= {"streaming": bool(parts.hparams.get("streaming", False))}  # trained with chunks
    if parts.kind == RECOGNISER:
        tokenizer = _find_tokenizer(run, tree, parts.hparams)
        sentencepiece = isinstance(tokenizer, SentencePieceTokenizer)
        config |= {"tokenizer": "sentencepiece" if sentencepiece else "characters"}
    if parts.kind == CLASSIFIER:
        config |= {"labels": _read_labels(_save_folder(run, tree))}
    config |= mixer_of(config["model"])
    return RunContent(
        config, tensors | saved_tensors(MODEL_PREFIX, weights), tokenizer, result, run
    )


def _read_labels(save: Path) -> dict[str, list[str]]:
    """Task → names of its classes, as the training wrote them down."""
    file = save / LABELS_FILE
    try:
        labels: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} with the names of the classes cannot be read: {error}") from None
    return labels


def mixer_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """Name and form of the mixer of a described model."""
    architecture = architecture_of(description["arguments"]["transformer"])
    return {key: architecture.get(key) for key in ("attention_type", "mode")}


def _build(run: Path, tree: Mapping[str, Any]) -> _Parts:
    """The model and its features, from the YAML file or from the description beside it."""
    described = _save_folder(run, tree) / MODEL_FILE
    keys = () if described.is_file() else BUILT_KEYS
    for key in keys:
        if key not in tree:
            raise InputError(
                f"{run / RESOLVED_YAML} has no key '{key}': only runs of recipes for speech "
                "recognition, classification and pre-training can be exported."
            )
    wanted = {key: value for key, value in tree.items() if key in keys or _is_plain(value)}
    stream = io.StringIO()
    YAML().dump(wanted, stream)
    hparams: dict[str, Any] = load_hyperpyyaml(stream.getvalue())
    if described.is_file():
        config = json.loads(described.read_text(encoding="utf-8"))
        _, normalize = assemble_features(config)
        return _Parts(hparams, build(config["model"]), normalize, config["features"])
    given = next(_fbank_arguments(tree["compute_features"]), {})
    features = feature_settings(hparams["compute_features"], given)
    return _Parts(hparams, hparams["model"], hparams["normalize"], features)


def _fbank_arguments(node: Any) -> Iterator[dict[str, Any]]:
    """Mappings that hold nothing but arguments of filterbanks, in a node of the YAML file."""
    if not isinstance(node, Mapping):
        return
    if set(node) <= set(inspect.signature(Fbank).parameters):
        yield dict(node)
    for child in node.values():
        yield from _fbank_arguments(child)


def _is_plain(value: Any) -> bool:
    if getattr(getattr(value, "tag", None), "value", None):
        return False
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _load_best(run: Path, tree: Mapping[str, Any], parts: _Parts) -> int:
    """Loads the checkpoints that an evaluation would; returns how many were averaged."""
    folder = _save_folder(run, tree)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} with the checkpoints of {run}.")
    modules = {"model": parts.model, "normalize": parts.normalize}
    checkpointer = AtomicCheckpointer(folder, modules, read_only=True)
    count = max(1, int(parts.hparams.get("avg_checkpoints", 1)))

    def read() -> int:
        ranking = ranking_of(checkpointer)
        return load_best(checkpointer, ranking.get("max_key"), ranking.get("min_key"), count, {})

    if not (loaded := while_they_last(read)):
        raise NoCheckpointError(
            f"There is no checkpoint of a whole epoch in {folder}: train first, or give the folder "
            "of a trained model."
        )
    return loaded


def _save_folder(run: Path, tree: Mapping[str, Any]) -> Path:
    """Where checkpoints and tokenizers lie, in a run that may have been moved since."""
    given = tree.get("save_folder", "save")
    inside = os.path.relpath(given, tree.get("output_folder", run))
    return Path(given) if inside.startswith(os.pardir) else run / inside


def _longest_utterance(save: Path, hparams: Mapping[str, Any]) -> float | None:
    """Seconds of the longest utterance that the model was trained on, if that is known."""
    limit = hparams.get("avoid_if_longer_than") or math.inf
    manifest = subset_path(save / TRAIN_MANIFEST, hparams.get("train_hours"))
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


def saved_tensors(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, since safetensors refuses tensors that share their memory."""
    copies = {f"{prefix}{n}": t.detach().cpu().clone().contiguous() for n, t in tensors.items()}
    broken = [n for n, t in copies.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise InputError(f"the trained weights are not finite ({broken[0]}): train again.")
    return copies
