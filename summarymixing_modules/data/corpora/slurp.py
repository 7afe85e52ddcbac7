"""SLURP (Bastianelli et al., "SLURP: A Spoken Language Understanding Resource Package", EMNLP
2020): its annotation files and its recordings, into manifests with scenario, action and entities.

The layout is that of its repository with the audio archives unpacked into it:
``dataset/slurp/{train,devel,test,train_synthetic}.jsonl`` and ``audio/{slurp_real,slurp_synth}/``.
The annotation files and the audio folders may also lie in ``data_folder`` itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.corpora.registry import register_corpus
from summarymixing_modules.data.corpora.splits import check_splits
from summarymixing_modules.data.labelled import merge_labelled
from summarymixing_modules.data.manifest import ManifestError, Manifests
from summarymixing_modules.data.preparation import (
    Listing,
    Preparation,
    Utterance,
    file_state,
)
from summarymixing_modules.data.reading import read_lines
from summarymixing_modules.data.text.semantics import Entity, Semantics

SPLITS = ("train", "train_synthetic", "devel", "test")
#: train_real is the name that SpeechBrain's recipe gives it.
_FILES = {split: (split,) for split in SPLITS} | {"train": ("train", "train_real")}
_ROOTS = (".", "SLURP", "slurp")
_AUDIO_SOURCE = "https://zenodo.org/record/4274930"


@register_corpus("slurp", source="Bastianelli et al., EMNLP 2020")
def prepare_slurp(
    preparation: Preparation,
    *,
    train_splits: Sequence[str],
    dev_splits: Sequence[str],
    test_splits: Sequence[str],
) -> Manifests:
    """Write ``train.csv``, ``valid.csv`` and a CSV for each split.

    Every recording is an utterance; its ID is its file name without ending. The transcript is the
    prompt. Annotations have ``slurp_id``, ``scenario``, ``action``, ``intent`` (scenario_action,
    as SLURP's scoring has it; its own field is not always that) and ``entities`` (type and filler,
    in lower case).

    Lines that cannot be used (no JSON, a missing field, a span outside the tokens, no recording,
    a recording that another line has) and recordings that cannot (missing, broken, empty, not
    16 kHz mono) are left out and listed in ``bad_slurp_SPLIT.csv``.

    A call that was stopped continues after the splits that it had finished. A finished split is
    done again if the settings, its annotation file, the list of recordings or what was found bad
    has changed. In a distributed run, call it on the main process only (``run_on_main``).

    Args:
        preparation: its ``data_folder`` is the repository, or its parent.
        train_splits: one or more of `SPLITS`.
        dev_splits: one or more.
        test_splits: any number.

    Raises:
        ManifestError: no corpus, no such split, no usable utterance, or the same split in train
            and in evaluation.
        TooManyBadFiles: more of a split is unusable than is tolerated.
    """
    check_splits(SPLITS, train_splits=train_splits, dev_splits=dev_splits, test_splits=test_splits)
    folder, save = preparation.data_folder, preparation.save_folder
    paths = {s: save / f"slurp_{s}.csv" for s in (*train_splits, *dev_splits, *test_splits)}
    test = {split: paths[split] for split in test_splits}
    manifests = Manifests(save / "train.csv", save / "valid.csv", test)
    if preparation.skip_prep:
        return manifests.require()
    if not folder.is_dir():
        raise ManifestError(f"--data_folder {folder}: no such folder. Give SLURP's repository")
    for split in paths:
        _prepare_split(preparation, split, split in test_splits)
    merge_labelled([paths[split] for split in train_splits], manifests.train)
    merge_labelled([paths[split] for split in dev_splits], manifests.valid)
    return manifests


def _prepare_split(preparation: Preparation, split: str, test: bool) -> None:
    annotations = _annotation_file(preparation.data_folder, split)
    audio = _audio_folder(preparation.data_folder, split)
    fingerprint = {
        "annotations": [str(annotations), file_state(annotations)],
        "audio": [str(audio), file_state(audio)],  # a folder changes when files come or go
    }
    listing = partial(read_split, annotations, audio)
    preparation.prepare(f"slurp_{split}", fingerprint, listing, test)


def _annotation_file(data_folder: Path, split: str) -> Path:
    for root in _ROOTS:
        for folder in (data_folder / root / "dataset" / "slurp", data_folder / root):
            for name in _FILES[split]:
                if (folder / f"{name}.jsonl").is_file():
                    return folder / f"{name}.jsonl"
    raise ManifestError(
        f"--data_folder {data_folder}: found no dataset/slurp/{split}.jsonl in it, nor in SLURP or "
        "slurp below it. Give the folder of SLURP's repository"
    )


def _audio_folder(data_folder: Path, split: str) -> Path:
    name = "slurp_synth" if split == "train_synthetic" else "slurp_real"
    for root in _ROOTS:
        for folder in (data_folder / root / "audio" / name, data_folder / root / name):
            if folder.is_dir():
                return folder
    raise ManifestError(
        f"--data_folder {data_folder}: found no folder audio/{name} in it, nor in SLURP or slurp "
        f"below it. Unpack {name}.tar.gz ({_AUDIO_SOURCE}) there"
    )


def read_split(annotations: Path, audio: Path) -> Listing:
    """List the recordings of an annotation file; nothing here opens an audio file.

    Args:
        annotations: a ``.jsonl`` file of SLURP.
        audio: folder with its recordings.

    Raises:
        ManifestError: the file is not UTF-8 text.
    """
    listing = Listing()
    first_line: dict[str, int] = {}
    for number, line in enumerate(read_lines(annotations), start=1):
        where = f"{annotations}:{number}"
        if not line.strip():
            continue
        try:
            utterances = list(_read_line(line, audio))
        except ValueError as err:
            listing.bad.append(BadFile(where, f"line {number}", f"{where}: {err}"))
            continue
        for utterance in utterances:
            if utterance.id in first_line:
                reason = f"{where}: line {first_line[utterance.id]} has {utterance.id}, too"
                listing.bad.append(BadFile(f"{where}:{utterance.id}", utterance.id, reason))
                continue
            first_line[utterance.id] = number
            listing.utterances.append(utterance)
    return listing


def _read_line(line: str, audio: Path) -> Iterator[Utterance]:
    """The recordings of a line.

    Raises:
        ValueError: says what is wrong with the line.
    """
    try:
        record = json.loads(line)
    except ValueError as err:
        raise ValueError(f"is not JSON ({err})") from err
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    for key in ("scenario", "action"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise ValueError(f"has no {key!r}")
    meaning = Semantics(record["scenario"], record["action"], tuple(_entities(record)))
    annotation = {
        "slurp_id": record.get("slurp_id"),
        **meaning.to_json(),
        "intent": meaning.intent,
    }
    text = " ".join(str(record.get("sentence", "")).split())
    for file in _files(record):
        yield Utterance(Path(file).stem, audio / file, annotation, text)


def _entities(record: Mapping[str, Any]) -> Iterator[Entity]:
    tokens, entities = record.get("tokens"), record.get("entities")
    if not isinstance(tokens, list) or not isinstance(entities, list):
        raise ValueError("has no lists 'tokens' and 'entities'")
    try:
        for entity in entities:
            words = [tokens[index]["surface"] for index in entity["span"] if index >= 0]
            if not words or len(words) < len(entity["span"]):
                raise IndexError
            yield Entity(entity["type"], " ".join(" ".join(words).lower().split()))
    except (IndexError, KeyError, TypeError) as err:
        raise ValueError(
            f"has an entity that is not a type and a span of its {len(tokens)} tokens"
        ) from err


def _files(record: Mapping[str, Any]) -> list[str]:
    """Names of the recordings; a line without any is of no use."""
    recordings = record.get("recordings")
    try:
        files = [recording["file"] for recording in recordings or ()]
    except (KeyError, TypeError) as err:
        raise ValueError("has a recording without a 'file'") from err
    if not files:
        raise ValueError("has no recording")
    return files
