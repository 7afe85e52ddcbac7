"""From the data keys of a recipe to datasets and loaders of audio without transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from summarymixing_modules.data.corpora.librilight import prepare_librilight
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.training.asr_data import (
    AUDIO_KEYS,
    AudioData,
    build_data,
    prepare_corpus,
)

LIBRILIGHT_KEYS = (AUDIO_KEYS - {"test_max_bad_audio"}) | {"max_pause", "valid_hours"}


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
    manifests = prepare_corpus(
        prepare_librilight,
        hparams,
        train_splits=hparams["train_splits"],
        shortest=hparams["avoid_if_shorter_than"],
        longest=hparams["avoid_if_longer_than"],
        max_pause=hparams["max_pause"],
        valid_hours=hparams["valid_hours"],
        verify=hparams["verify_audio"],
    )
    return build_data(hparams, manifests.train, manifests.valid, {})
