"""From the data keys of a recipe to datasets and loaders of audio without transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechbrain.utils.distributed import run_on_main

from summarymixing_modules.data.librilight import prepare_librilight
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.training.asr_data import AUDIO_KEYS, AudioData, build_data

LIBRILIGHT_KEYS = AUDIO_KEYS | {"max_pause", "valid_hours"}


def load_librilight_audio(hparams: Mapping[str, Any]) -> AudioData:
    """Prepares Libri-Light and builds everything that reads it.

    Its recordings are cut into utterances between ``avoid_if_shorter_than`` and
    ``avoid_if_longer_than`` seconds; there is a validation set of speakers held out, and no test.

    Args:
        hparams: with the ``LIBRILIGHT_KEYS``.

    Raises:
        InputError: see ``prepare_librilight`` and ``make_datasets``; or a key that is missing, or
            that asks for other splits.
    """
    for key in ("dev_splits", "test_splits"):
        if hparams[key]:
            raise ManifestError(
                f"--{key} {list(hparams[key])}: Libri-Light has only unlabelled training speech. "
                f"Leave it at []; speakers of --valid_hours are held out for validation"
            )
    if missing := sorted(LIBRILIGHT_KEYS - hparams.keys()):
        raise ManifestError(
            f"the YAML file lacks {', '.join(missing)}: use one of recipes/Libri-Light"
        )
    arguments = {
        "data_folder": hparams["data_folder"],
        "save_folder": hparams["save_folder"],
        "train_splits": hparams["train_splits"],
        "shortest": hparams["avoid_if_shorter_than"],
        "longest": hparams["avoid_if_longer_than"],
        "max_pause": hparams["max_pause"],
        "valid_hours": hparams["valid_hours"],
        "workers": hparams["prep_workers"],
        "verify": hparams["verify_audio"],
        "max_bad_fraction": hparams["max_bad_audio"],
    }
    run_on_main(prepare_librilight, kwargs={**arguments, "skip_prep": hparams["skip_prep"]})
    manifests = prepare_librilight(**arguments, skip_prep=True)
    return build_data(hparams, manifests.train, manifests.valid, {})
