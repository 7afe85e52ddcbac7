"""Datasets for speech recognition, built from manifests, that survive broken audio files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from summarymixing_modules.data.audio import AudioError, read_audio
from summarymixing_modules.data.bad_audio import TEST_FLAG, BadAudioLog
from summarymixing_modules.data.manifest import Manifest, ManifestError, read_manifest
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.preparation import left_out
from summarymixing_modules.data.shards.members import file_of
from summarymixing_modules.data.text.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]
Sorting = Literal["ascending", "descending", "random"]


@dataclass(frozen=True)
class SpeechDatasets:
    """The datasets of one recipe.

    Attributes:
        train: in the order asked for.
        valid: by ascending duration.
        test: by ascending duration, one for each test manifest.
        bad_audio: where files that break while they are read are noted.
    """

    train: ManifestDataset
    valid: ManifestDataset
    test: dict[str, ManifestDataset]
    bad_audio: BadAudioLog


class _Reader:
    """Produces ``sig`` from a path and a range; ``None`` for a broken file, which is noted."""

    def __init__(self, bad_audio: BadAudioLog, sample_rate: int) -> None:
        self.bad_audio = bad_audio
        self.sample_rate = sample_rate

    def __call__(
        self, wav: str, utterance: str, start: int, stop: int | None
    ) -> torch.Tensor | None:
        try:
            return read_audio(wav, self.sample_rate, start, stop)
        except AudioError as err:
            self.bad_audio.record(wav, utterance, str(err))
            return None


class _Encoder:
    """Produces the token tensors of a transcript."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokens(self, wrd: str, utterance: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer.encode(wrd, utterance), dtype=torch.long)

    def tokens_bos(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens.new_tensor([self.tokenizer.bos_index]), tokens])

    def tokens_eos(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens, tokens.new_tensor([self.tokenizer.eos_index])])


def make_datasets(
    train_csv: StrPath,
    valid_csv: StrPath,
    test_csvs: Mapping[str, StrPath],
    data_root: StrPath,
    tokenizer: Tokenizer | None,
    bad_audio_csv: StrPath,
    sample_rate: int = 16000,
    sorting: Sorting = "ascending",
    avoid_if_longer_than: float | None = None,
    avoid_if_shorter_than: float | None = None,
    max_bad_fraction: float = 0.01,
    test_max_bad_fraction: float = 0.0,
) -> SpeechDatasets:
    """Build the datasets of a recipe.

    Every example has ``id``, ``sig`` (L,) float32, ``wrd``, ``tokens`` (U,) int64 and ``duration``
    (seconds); and ``tokens_bos`` and ``tokens_eos`` (U+1,) if the tokenizer has these marks.
    ``sig`` is ``None`` where the file is broken: load batches with `batching.collate`.

    Args:
        train_csv: training manifest.
        valid_csv: validation manifest.
        test_csvs: name -> test manifest.
        data_root: what ``$data_root`` in the manifests stands for (``--data_folder``).
        tokenizer: encodes the transcripts; None for audio alone, without ``wrd`` and ``tokens``.
        bad_audio_csv: where broken files are noted, see `BadAudioLog`.
        sample_rate: of ``sig``, Hz.
        sorting: order of the training set by duration; ``"random"`` keeps the manifest's order and
            leaves shuffling to the loader (``shuffle=True`` or `batching.make_batch_sampler`).
        avoid_if_longer_than: leave training utterances out that last longer, s.
        avoid_if_shorter_than: leave training utterances out that are shorter, s.
        max_bad_fraction: part of the training and validation utterances that may be broken, see
            `BadAudioLog`.
        test_max_bad_fraction: part of the test utterances that may be, likewise; they are noted in
            ``bad_test_audio.csv`` beside ``bad_audio_csv``.

    Raises:
        ManifestError: a manifest is missing, malformed or empty, the audio is not under
            ``data_root``, or no training utterance has an allowed length.
        TextError: a transcript holds a character that the tokenizer cannot express.
    """
    if sorting not in get_args(Sorting):
        raise ManifestError(f"--sorting {sorting!r}: use {', '.join(get_args(Sorting))}")
    if taken := {"train", "valid"} & set(test_csvs):
        raise ManifestError(f"a test set cannot be called {taken.pop()!r}: choose another name")
    paths = {"train": train_csv, "valid": valid_csv, **test_csvs}
    datasets = {name: _read(path, data_root, tokenizer) for name, path in paths.items()}
    heard = {name: datasets[name] for name in ("train", "valid")}
    tested = {name: datasets[name] for name in test_csvs}
    bad_audio = BadAudioLog(bad_audio_csv, _total(heard), max_bad_fraction)
    bad_test_audio = BadAudioLog(
        Path(bad_audio_csv).with_name("bad_test_audio.csv"),
        _total(tested),
        test_max_bad_fraction,
        TEST_FLAG,
    )
    for sets, log in ((heard, bad_audio), (tested, bad_test_audio)):
        for dataset in sets.values():
            _add_items(dataset, _Reader(log, sample_rate), tokenizer)
    train = _limit_length(datasets.pop("train"), avoid_if_shorter_than, avoid_if_longer_than)
    if sorting != "random":
        train = train.filtered_sorted(sort_key="duration", reverse=sorting == "descending")
    # Neighbours of one length need little padding; the order does not matter for scores.
    by_length = {name: data.filtered_sorted(sort_key="duration") for name, data in datasets.items()}
    return SpeechDatasets(train, by_length.pop("valid"), by_length, bad_audio)


def _total(datasets: Mapping[str, ManifestDataset]) -> int:
    return sum(map(len, datasets.values()))


def _read(path: StrPath, data_root: StrPath, tokenizer: Tokenizer | None) -> ManifestDataset:
    """A manifest whose audio is where it says and whose transcripts can be encoded."""
    manifest = read_manifest(path)
    if not manifest:
        raise ManifestError(f"{path}: has no utterances: prepare the corpus again")
    dataset = ManifestDataset(manifest, data_root, len(left_out(Path(path))))
    first = dataset.data.items_of(manifest[0])["wav"]
    if not Path(file_of(first)).exists():
        raise ManifestError(
            f"--data_folder {data_root}: {first}, the first file of {path}, is not there. If the "
            "corpus has moved, prepare it again (--skip_prep False)"
        )
    if tokenizer is not None:
        _check_texts(manifest, tokenizer)
    return dataset


def _check_texts(manifest: Manifest, tokenizer: Tokenizer) -> None:
    characters = set[str]()
    for row in manifest:
        if not row.wrd:
            raise ManifestError(f"{manifest.path}: the utterance {row.id} has an empty transcript")
        characters.update(row.wrd)
    unknown = set(tokenizer.unknown_characters("".join(characters)))
    if unknown:
        row = next(row for row in manifest if not unknown.isdisjoint(row.wrd))
        tokenizer.encode(row.wrd, row.id)


def _add_items(dataset: ManifestDataset, reader: _Reader, tokenizer: Tokenizer | None) -> None:
    dataset.add_dynamic_item(reader, takes=["wav", "id", "start", "stop"], provides="sig")
    if tokenizer is None:
        dataset.set_output_keys(["id", "sig", "duration"])
        return
    encoder = _Encoder(tokenizer)
    dataset.add_dynamic_item(encoder.tokens, takes=["wrd", "id"], provides="tokens")
    keys = ["id", "sig", "wrd", "tokens", "duration"]
    if tokenizer.bos_index is not None and tokenizer.eos_index is not None:
        dataset.add_dynamic_item(encoder.tokens_bos, takes=["tokens"], provides="tokens_bos")
        dataset.add_dynamic_item(encoder.tokens_eos, takes=["tokens"], provides="tokens_eos")
        keys += ["tokens_bos", "tokens_eos"]
    dataset.set_output_keys(keys)


def _limit_length(
    dataset: ManifestDataset, shortest: float | None, longest: float | None
) -> ManifestDataset:
    """Leave out what is too short or too long, and say how much that is."""
    if shortest is None and longest is None:
        return dataset
    minimum = {} if shortest is None else {"duration": shortest}
    maximum = {} if longest is None else {"duration": longest}
    kept = dataset.filtered_sorted(key_min_value=minimum, key_max_value=maximum)
    flags = f"--avoid_if_shorter_than {shortest} --avoid_if_longer_than {longest}"
    if len(kept) == 0:
        durations = dataset.durations
        raise ManifestError(
            f"{flags} leave no training utterance: they last {durations.min():.2f} to "
            f"{durations.max():.2f} s. Allow more"
        )
    hours = (dataset.durations.sum() - kept.durations.sum()) / 3600
    logger.info(
        "%s: %d of %d training utterances left out (%.2f h)",
        flags,
        len(dataset) - len(kept),
        len(dataset),
        hours,
    )
    return kept
