"""Start from trained weights: the same model on another corpus, or its encoder in another task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import CKPT_PREFIX
from speechbrain.utils.logger import get_logger
from torch import Tensor, nn

from summarymixing_modules.bundles.assemble import check_tensors
from summarymixing_modules.bundles.features import load_statistics, statistics_of
from summarymixing_modules.bundles.kinds import (
    RECOGNISER,
    describe_encoder,
    encoder_weights,
    kind_of,
)
from summarymixing_modules.bundles.load import load_bundle
from summarymixing_modules.bundles.manifest import CONFIG, BundleFiles, is_bundle
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder, check_architecture
from summarymixing_modules.data.text.tokenizers import Tokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.training.run.averaging import load_best, ranking_of
from summarymixing_modules.training.run.checkpoint_files import while_they_last
from summarymixing_modules.training.run.checkpoints import (
    ArchitectureMismatchError,
    AtomicCheckpointer,
)

logger = get_logger(__name__)


def initialise_from(
    path: str | Path,
    recoverables: Mapping[str, Any],
    architecture: Mapping[str, Any],
    averaged: int = 1,
    features: Any = None,
    trust_run: bool = False,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Loads trained weights into modules: of the same model all, else the encoder's.

    The rest of the other run (schedule, optimizer, position) is left behind. The encoder comes from
    a bundle, or from the best checkpoints of a run of another task; what is not in it keeps the
    weights that were drawn for it. Statistics of the features come along. All comes from a run of
    the same model, and from a bundle of the same model with the same tokens.

    Args:
        path: ``output_folder`` of a run, finished or not, its folder of checkpoints, or a bundle.
        recoverables: name → object, as for a checkpointer; those that are modules are loaded.
        architecture: of the modules; see ``AtomicCheckpointer``.
        averaged: mean of this many checkpoints of the same model, the best first, as that run
            ranked them.
        features: samples → features of this recipe; a warning tells that the encoder heard others.
        trust_run: a run of another task may be loaded, whose hyperparams.yaml is run as code.
            (Nothing is run of one of the same model: its checkpoints are read as plain tensors.)
        tokenizer: of this recipe, if it has one.

    Raises:
        InputError: neither a run nor a bundle there, a run of another task that is not trusted,
            another encoder, or one whose features were normalised in another way.
    """
    modules = {name: part for name, part in recoverables.items() if isinstance(part, nn.Module)}
    path, model = Path(path), modules.get("model")
    checkpoints = _checkpoints_of(path)
    if checkpoints is None and not is_bundle(path):
        raise InputError(
            f"--init_from={path}: there is no checkpoint in {path / 'save'} or {path}, nor is it a "
            "bundle. Give the output_folder of a run that has finished an epoch."
        )
    if checkpoints is not None and while_they_last(
        lambda: _load_same_model(checkpoints, modules, architecture, averaged)
    ):
        return
    try:
        _load_encoder(path, model, modules.get("normalize"), features, trust_run, tokenizer)
    except InputError as error:
        raise InputError(f"--init_from={path}: {error} Or give another --init_from.") from None


def _load_same_model(
    checkpoints: Path,
    modules: Mapping[str, nn.Module],
    architecture: Mapping[str, Any],
    averaged: int,
) -> bool:
    """Loads all of a run of the same model; False if it is of another."""
    source = AtomicCheckpointer(
        checkpoints, modules, architecture=architecture, allow_partial_load=True, read_only=True
    )
    source.otherwise = "another --init_from"
    if not _is_same_model(source, modules.get("model")):
        return False
    ranking = ranking_of(source)
    loaded = load_best(source, ranking.get("max_key"), ranking.get("min_key"), averaged, {})
    if not loaded:  # no epoch is over yet
        source.load_checkpoint(source.find_checkpoint())
    logger.info(f"Starting from the weights in {checkpoints} (mean of {max(1, loaded)})")
    return True


def _load_encoder(
    path: Path,
    model: nn.Module | None,
    normalize: nn.Module | None,
    features: Any,
    trust_run: bool,
    tokenizer: Tokenizer | None,
) -> None:
    """Loads front end, encoder and the statistics of features, and all else that fits."""
    if not isinstance(model, AcousticEncoder):
        raise InputError(f"this recipe's {type(model).__name__} has no encoder of speech to load.")
    source = SSLEncoder.from_path(path, trust_run)
    check_architecture(source.architecture, model.architecture(), str(path))
    _compare_features(features, source.features, path)
    trained, own = source.encoder.state_dict(), model.state_dict()
    check_tensors(encoder_weights(describe_encoder(model), own), trained)
    if isinstance(normalize, InputNormalization):
        _load_normalization(normalize, source.normalize)
    trained |= _same_recogniser(path, own, tokenizer)
    model.load_state_dict(trained, strict=False)
    new = ", ".join(_parts_without(trained, own)) or "nothing"
    logger.info(f"Starting from the encoder of {path}; drawn anew: {new}")


def _same_recogniser(
    path: Path, own: Mapping[str, Tensor], tokenizer: Tokenizer | None
) -> dict[str, Tensor]:
    """The weights of a bundle of the same model with the same tokens; none of any other."""
    if tokenizer is None or not is_bundle(path):
        return {}
    if kind_of(BundleFiles(path).read_json(CONFIG)) != RECOGNISER:
        return {}
    bundle = load_bundle(path)
    weights = bundle.model.state_dict()
    if _shapes(weights) != _shapes(own):
        return {}
    if bundle.tokenizer.pieces() != tokenizer.pieces():
        logger.warning(f"The tokens of {path} are others than this recipe's: its encoder is taken.")
        return {}
    return weights


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _parts_without(trained: Iterable[str], own: Iterable[str]) -> list[str]:
    """The largest parts of a model of which nothing is trained, by the names of its tensors."""
    begun = {prefix for name in trained for prefix in _prefixes(name)}
    firsts = (next((p for p in _prefixes(name) if p not in begun), None) for name in own)
    return sorted({part for part in firsts if part is not None})


def _prefixes(name: str) -> list[str]:
    """Of ``a.b.c``: ``a``, ``a.b`` and ``a.b.c``."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _compare_features(own: Any, trained: Any, path: Path) -> None:
    """Warns of an encoder that heard other spectrograms; how many bands the weights tell."""
    if not hasattr(own, "compute_STFT") or not hasattr(trained, "compute_STFT"):
        return
    for name in ("sample_rate", "n_fft", "win_length", "hop_length"):
        here, there = (getattr(features.compute_STFT, name) for features in (own, trained))
        if here != there:
            logger.warning(
                f"The features that the encoder of {path} was trained on have {name} {there}, this "
                f"recipe's have {here}: training has to make up for it."
            )


def _load_normalization(own: InputNormalization, trained: InputNormalization) -> None:
    if own.norm_type != trained.norm_type:
        raise InputError(
            f"its features were normalised by norm_type {trained.norm_type}, this recipe's are by "
            f"{own.norm_type}: give --norm_type={trained.norm_type}."
        )
    load_statistics(own, statistics_of(trained))


def _is_same_model(source: AtomicCheckpointer, model: nn.Module | None) -> bool:
    """Whether checkpoints hold a model of the same architecture, names and shapes.

    Only models with an encoder are asked: of any other all is loaded, or an error says why not.
    """
    if not isinstance(model, AcousticEncoder):
        return True
    latest = source.find_checkpoint()
    try:
        source.check_architecture(latest)
    except ArchitectureMismatchError:
        return False
    source.verify(latest, "model")
    weights = torch.load(latest.paramfiles["model"], map_location="meta", weights_only=True)
    return _shapes(weights) == _shapes(model.state_dict())


def _checkpoints_of(run: Path) -> Path | None:
    """The folder with the checkpoints of a run, or a folder that is one; None if there is none."""
    folders = (run / "save", run)
    return next((f for f in folders if any(f.glob(f"{CKPT_PREFIX}+*"))), None)
