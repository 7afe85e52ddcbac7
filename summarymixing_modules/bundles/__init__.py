"""Trained models as folders that others can load without running their code."""

from __future__ import annotations

import os
from pathlib import Path

from summarymixing_modules.bundles.assemble import LoadedBundle, LoadedClassifier
from summarymixing_modules.bundles.load import load_bundle, load_classifier_bundle
from summarymixing_modules.bundles.manifest import BundleError, is_trusted_run
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder

__all__ = [
    "BundleError",
    "LoadedBundle",
    "LoadedClassifier",
    "SSLEncoder",
    "export_bundle",
    "load_bundle",
    "load_classifier",
    "load_model",
]


def export_bundle(
    run_folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    overwrite: bool = False,
    speechbrain: bool = False,
) -> Path:
    """See ``bundles.export.export_bundle``, imported here only: it needs the training code."""
    from summarymixing_modules.bundles import export

    return export.export_bundle(run_folder, target, overwrite, speechbrain)


def load_model(path: str | os.PathLike[str], trust_run: bool = False) -> LoadedBundle:
    """A recogniser: a bundle, or the best checkpoints of a training run.

    A folder with a manifest.json is a bundle, whatever else it holds, and nothing in it is run.

    Args:
        path: of the folder.
        trust_run: it may be a run, whose hyperparams.yaml is run as code.

    Raises:
        InputError: neither, or one that cannot be loaded or is no recogniser; a run that nobody
            said is to be trusted.
    """
    if not is_trusted_run(Path(path), trust_run):
        return load_bundle(path)
    from summarymixing_modules.bundles.run import read_run  # imports the training code

    return read_run(path).load()


def load_classifier(path: str | os.PathLike[str], trust_run: bool = False) -> LoadedClassifier:
    """A classifier of utterances; arguments and errors as in ``load_model``."""
    if not is_trusted_run(Path(path), trust_run):
        return load_classifier_bundle(path)
    from summarymixing_modules.bundles.run import read_run  # imports the training code

    return read_run(path).load_classifier()
