"""The splits that a recipe asks a corpus for, checked and prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from summarymixing_modules.data.manifest import ManifestError, Manifests, merge_manifests
from summarymixing_modules.data.preparation import Listing, Preparation


def check_splits(known: Sequence[str], **flags: Sequence[str]) -> None:
    """Check ``train_splits``, ``dev_splits`` and ``test_splits``, or those of them that there are.

    Args:
        known: splits that the corpus has.
        **flags: flag → splits.

    Raises:
        ManifestError: no list, none where one is needed, one that the corpus does not have, one
            named twice, or one to train on and to evaluate on. Names the flag.
    """
    for flag, splits in flags.items():
        if isinstance(splits, str):
            raise ManifestError(f"--{flag} {splits!r}: give a list, [{splits}]")
        unknown = [split for split in splits if split not in known]
        if unknown or (not splits and flag != "test_splits"):
            named = f"{unknown[0]!r} is none of" if unknown else "name at least one of"
            raise ManifestError(f"--{flag}: {named} {', '.join(known)}")
        if len(set(splits)) < len(splits):
            raise ManifestError(f"--{flag} {list(splits)}: a split is named twice")
    evaluated = {*flags.get("dev_splits", ()), *flags.get("test_splits", ())}
    if leaked := sorted(evaluated.intersection(flags["train_splits"])):
        raise ManifestError(
            f"{', '.join(leaked)}: in --train_splits and also in --dev_splits or --test_splits; "
            "scores on training data mean nothing: take it out of one of them"
        )


#: (split) → JSON that changes when it does, and what lists it
Source = Callable[[str], tuple[Mapping[str, Any], Callable[[], Listing]]]


def prepare_splits(
    preparation: Preparation,
    known: Sequence[str],
    open_corpus: Callable[[], Source],
    train: Sequence[str],
    dev: Sequence[str],
    test: Sequence[str],
    prefix: str = "",
    overrun: float = 0.0,
) -> Manifests:
    """Check the splits, then write ``train.csv``, ``valid.csv`` and a CSV for each split.

    Args:
        preparation: of the corpus.
        known: splits that the corpus has.
        open_corpus: finds it in its folder; not called with ``skip_prep``.
        train: splits to train on.
        dev: to validate on.
        test: to test on.
        prefix: of the names of the splits' files.
        overrun: see `Preparation.prepare`.

    Raises:
        ManifestError: see `check_splits` and `Preparation.prepare`.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    check_splits(known, train_splits=train, dev_splits=dev, test_splits=test)
    save = preparation.save_folder
    names = {split: f"{prefix}{split}" for split in (*train, *dev, *test)}
    paths = {split: save / f"{name}.csv" for split, name in names.items()}
    tests = {split: paths[split] for split in test}
    manifests = Manifests(save / "train.csv", save / "valid.csv", tests)
    if preparation.skip_prep:
        return manifests.require()
    source = open_corpus()
    for split, name in names.items():
        fingerprint, listing = source(split)
        preparation.prepare(name, fingerprint, listing, split in test, overrun=overrun)
    merge_manifests([paths[split] for split in train], manifests.train)
    merge_manifests([paths[split] for split in dev], manifests.valid)
    return manifests
