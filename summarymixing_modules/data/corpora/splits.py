"""The splits that a recipe asks a corpus for."""

from __future__ import annotations

from collections.abc import Sequence

from summarymixing_modules.data.manifest import ManifestError


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
