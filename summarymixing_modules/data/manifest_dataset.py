"""SpeechBrain's dataset over a manifest that stays in its file; `Manifest` says why."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, overload

import numpy as np
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import DataPipeline

from summarymixing_modules.data.manifest import DATA_ROOT, Manifest, Row

_ITEMS = ("duration", "wav", "spk_id", "wrd", "start", "stop")
_IN_MEMORY = {"duration"}


class ManifestDataset(DynamicItemDataset):
    """A `DynamicItemDataset` of which no utterance is in memory.

    ``data`` and ``data_ids`` are what they are there, but read from the file. Filtering and sorting
    by ``duration`` look at arrays alone.

    Args:
        manifest: the utterances; their items are those of a `Row`.
        data_root: what ``$data_root`` stands for in it.
        left_out: utterances of the corpus that it lacks because they cannot be used.

    Attributes:
        manifest: as given.
        left_out: likewise.
        places: where the utterances are in it (N,), in their order here.
    """

    def __init__(
        self, manifest: Manifest, data_root: str | os.PathLike[str], left_out: int = 0
    ) -> None:
        # Not SpeechBrain's, which makes a list of all IDs.
        self.manifest, self.left_out = manifest, left_out
        self.data = _Utterances(manifest, data_root)
        self.pipeline = DataPipeline([*_ITEMS, "id"], [])
        self._choose(np.arange(len(manifest)))

    def _choose(self, places: np.ndarray) -> None:
        self.places = places
        self.data_ids = _Names(self.manifest, places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.manifest[int(self.places[index])]
        return self.pipeline.compute_outputs({"id": row.id, **self.data.items_of(row)})

    @property
    def durations(self) -> np.ndarray:
        """Of the utterances (N,), seconds."""
        return self.manifest.durations[self.places]

    def subset(self, places: np.ndarray) -> Self:
        """A dataset of some rows of the manifest, with dynamic items and output keys of its own."""
        other = copy.copy(self)
        other.pipeline = copy.deepcopy(self.pipeline)
        other._choose(places)
        return other

    def filtered_sorted(
        self,
        key_min_value: Mapping[str, Any] | None = None,
        key_max_value: Mapping[str, Any] | None = None,
        key_test: Mapping[str, Any] | None = None,
        sort_key: str | None = None,
        reverse: bool = False,
        select_n: int | None = None,
    ) -> Self:
        """As SpeechBrain's."""
        least, most, test = key_min_value or {}, key_max_value or {}, key_test or {}
        if {*least, *most, *test, sort_key} - {None} - _IN_MEMORY or test:
            names = self._filtered_sorted_ids(least, most, test, sort_key, reverse, select_n)
            return self.subset(np.array([self.manifest.find(name) for name in names], dtype=int))
        kept_N = self.durations >= least.get("duration", -np.inf)
        kept_N &= self.durations <= most.get("duration", np.inf)
        places = self.places[np.flatnonzero(kept_N)[:select_n]]
        if sort_key is not None:
            order = np.argsort(self.manifest.durations[places], kind="stable")
            places = places[order[::-1] if reverse else order]
        return self.subset(places)


class _Utterances(Mapping[str, dict[str, Any]]):
    """The items of every utterance by its ID."""

    def __init__(self, manifest: Manifest, data_root: str | os.PathLike[str]) -> None:
        self.manifest, self.data_root = manifest, str(data_root)

    def __len__(self) -> int:
        return len(self.manifest)

    def __iter__(self) -> Iterator[str]:
        return (row.id for row in self.manifest)

    def __getitem__(self, name: str) -> dict[str, Any]:
        place = self.manifest.find(name)
        if place is None:
            raise KeyError(name)
        return self.items_of(self.manifest[place])

    def items_of(self, row: Row) -> dict[str, Any]:
        items = {key: getattr(row, key) for key in _ITEMS}
        return items | {"wav": row.wav.replace(DATA_ROOT, self.data_root, 1)}


class _Names(Sequence[str]):
    """The IDs of chosen rows."""

    def __init__(self, manifest: Manifest, places: np.ndarray) -> None:
        self.manifest, self.places = manifest, places

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        names = [row.id for row in self.manifest]  # in the order of the file, which is fast
        return (names[place] for place in self.places)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.manifest[place].id for place in self.places[index].tolist()]
        return self.manifest[int(self.places[index])].id
