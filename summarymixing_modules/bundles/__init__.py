"""Trained models as folders that others can load without running their code."""

from __future__ import annotations

import os
from pathlib import Path

from summarymixing_modules.bundles.assemble import LoadedBundle
from summarymixing_modules.bundles.load import load_bundle
from summarymixing_modules.bundles.manifest import BundleError, is_own_run
from summarymixing_modules.bundles.ssl_encoder import SSLEncoder

__all__ = [
    "BundleError",
    "LoadedBundle",
    "SSLEncoder",
    "export_bundle",
    "load_bundle",
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


def load_model(path: str | os.PathLike[str]) -> LoadedBundle:
    """A recogniser: a bundle, or the best checkpoints of a training run.

    A folder with a manifest.json is a bundle, whatever else it holds. Any other is taken for a run
    of one's own, whose hyperparams.yaml is run as code.

    Raises:
        InputError: neither, or one that cannot be loaded; a pre-trained encoder.
    """
    if not is_own_run(Path(path)):
        return load_bundle(path)
    from summarymixing_modules.bundles.run import read_run

    return read_run(path).load()
