"""All hidden states of frozen encoders for the corpora of the layer probes, batch by batch.

Speaker and content share one part of LibriSpeech, encoded once; emotion takes IEMOCAP.

Shape suffixes: N hidden states, B batch, T frames, D features.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from summarymixing_modules.data.batching import collate, make_batch_sampler
from summarymixing_modules.data.corpora.iemocap import FOLDS, prepare_iemocap
from summarymixing_modules.data.corpora.librispeech import prepare_librispeech
from summarymixing_modules.data.dataset import make_datasets
from summarymixing_modules.data.labelled import annotations_of
from summarymixing_modules.data.manifest import read_manifest
from summarymixing_modules.data.manifest_dataset import ManifestDataset
from summarymixing_modules.data.preparation import Preparation
from summarymixing_modules.data.subset import subset_path, write_subset
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.encoder import FrozenEncoder, encode
from summarymixing_modules.probing.heads import mean_over_time
from summarymixing_modules.training.ctc_lengths import frames_needed

TRAIN_SET, TEST_SET = "train-clean-100", "test-clean"
#: 28 characters and the blank.
TOKENIZER = CharTokenizer()
#: Raise it whenever the same encoder, data and settings give other figures.
_VERSION = 1
_BUCKETS = 50

#: Datasets, by what progress bars call them.
Corpus = Mapping[str, ManifestDataset]


def prepare_corpora(settings: argparse.Namespace) -> dict[str, Corpus]:
    """Task → its corpus, for the tasks asked for and those that share a corpus with them.

    Args:
        settings: the flags of ``layer_probes.py``.

    Raises:
        InputError: there is no such corpus, or one that is damaged.
    """
    corpora: dict[str, Corpus] = {}
    for tasks, prepare in (("speaker", "content"), _librispeech), (("emotion",), _iemocap):
        if set(tasks).isdisjoint(settings.tasks):
            continue
        try:
            corpora |= dict.fromkeys(tasks, _datasets(settings, prepare(settings)))
        except InputError as error:  # told in the words of this script's flags
            told = str(error).replace("--data_folder ", "--corpora=")
            raise InputError(f"{told} (needed by --tasks {', '.join(tasks)})") from error
    return corpora


def _preparation(settings: argparse.Namespace, corpus: str) -> Preparation:
    save, bad = settings.output_folder / "save" / corpus, settings.max_bad_audio
    return Preparation(
        settings.corpora, save, settings.prep_workers, "header", bad, test_max_bad_fraction=bad
    )


def _librispeech(settings: argparse.Namespace) -> dict[str, Path]:
    """Parts of LibriSpeech that last ``max_hours``, in which all speakers speak about as long."""
    found = prepare_librispeech(
        _preparation(settings, "librispeech"),
        train_splits=[TRAIN_SET],
        dev_splits=[TEST_SET],
        test_splits=[],
    )
    parts = {TRAIN_SET: found.train, TEST_SET: found.valid}
    for name, manifest in parts.items():
        if sum(row.duration for row in read_manifest(manifest)) > 3600 * settings.max_hours:
            write_subset(manifest, settings.max_hours, settings.seed)
            parts[name] = subset_path(manifest, settings.max_hours)
    return parts


def _iemocap(settings: argparse.Namespace) -> dict[str, Path]:
    """IEMOCAP, every fold of which has the speakers and classes that it needs."""
    preparation = _preparation(settings, "iemocap")
    first, *_ = [prepare_iemocap(preparation, fold=fold) for fold in FOLDS]
    parts = [first.train, first.valid, *first.test.values()]  # of any fold: the whole corpus
    return {f"IEMOCAP {number}/{len(parts)}": path for number, path in enumerate(parts, start=1)}


def _datasets(settings: argparse.Namespace, parts: Mapping[str, Path]) -> Corpus:
    (first, train), (second, valid), *others = parts.items()
    datasets = make_datasets(
        train,
        valid,
        dict(others),
        settings.corpora,
        TOKENIZER if TRAIN_SET in parts else None,
        train.with_name("bad_audio.csv"),
        max_bad_fraction=settings.max_bad_audio,
        test_max_bad_fraction=settings.max_bad_audio,
    )
    return {first: datasets.train, second: datasets.valid, **datasets.test}


def depends_on(task: str, corpus: Corpus, settings: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on besides the encoder, as JSON gives it back.

    Args:
        task: of the layer probes.
        corpus: of the task.
        settings: the flags of ``layer_probes.py``.
    """
    files = [dataset.manifest.path for dataset in corpus.values()]
    if task == "emotion":
        files += [annotations_of(file) for file in files]
    content = b"".join(file.read_bytes() for file in files)
    found = {"version": _VERSION, "data": hashlib.sha256(content).hexdigest()[:16]}
    if task != "emotion":
        found |= {"seed": settings.seed, "max_hours": settings.max_hours}
    if task == "content":
        found |= {"epochs": settings.content_epochs, "batch_seconds": settings.batch_seconds}
    return found


class StateBatch(NamedTuple):
    """Every hidden state of some utterances, and their transcripts, if there are any.

    State 0 is the input of the first layer; lengths count real frames.
    """

    ids: list[str]
    states_NBTD: Tensor
    lengths_B: Tensor
    texts: list[str]

    def pooled(self) -> dict[str, Tensor]:
        """Utterance → mean over the real frames of every state, (N, D), on the CPU."""
        means = [mean_over_time(state.float(), self.lengths_B) for state in self.states_NBTD]
        return dict(zip(self.ids, torch.stack(means, dim=1).cpu(), strict=True))

    def alignable(self) -> StateBatch:
        """The utterances with frames enough for CTC on characters, padded no further than needed.

        They are on the CPU in half precision; in full where a value is too large for that.
        """
        frames = self.lengths_B.tolist()
        keep = [n for n, text in enumerate(self.texts) if frames[n] >= frames_needed(text)]
        ids, texts = [self.ids[n] for n in keep], [self.texts[n] for n in keep]
        longest = max((frames[n] for n in keep), default=0)
        states_NBTD = self.states_NBTD[:, keep, :longest]
        half_NBTD = states_NBTD.half()
        kept_NBTD = half_NBTD if bool(half_NBTD.isfinite().all()) else states_NBTD
        return StateBatch(ids, kept_NBTD.cpu(), self.lengths_B[keep].cpu(), texts)


@dataclass
class EncodedCorpora:
    """An encoder, and what it makes of the corpora: every utterance goes through it once.

    Its name is for progress bars; ``keep_frames`` tells whether a task needs those of `TRAIN_SET`.
    """

    name: str
    encoder: FrozenEncoder
    corpora: Mapping[str, Corpus]
    settings: argparse.Namespace
    keep_frames: bool

    def batches(self, task: str, part: str) -> Iterator[StateBatch]:
        """A set's utterances, each beside others of about its length, with a progress bar.

        Those whose audio cannot be read are left out; the dataset has noted them.
        """
        dataset, settings = self.corpora[task][part], self.settings
        sampler = make_batch_sampler(
            dataset, settings.batch_seconds, _BUCKETS, shuffle=False, batch_ordering="ascending"
        )
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_sampler=sampler, collate_fn=collate, num_workers=settings.num_workers
        )
        with tqdm(total=len(dataset), desc=f"{self.name}, {part}", unit="utt", disable=None) as bar:
            for batch in loader:
                if len(batch):
                    hidden = encode(self.encoder, batch.to(settings.device))
                    states_NBTD, texts = torch.stack(hidden.states), getattr(batch, "wrd", [])
                    yield StateBatch(batch.id, states_NBTD, hidden.lengths_B, texts)
                bar.update(len(batch.id))

    @functools.cached_property
    def train_set(self) -> tuple[dict[str, Tensor], list[StateBatch]]:
        """Mean states (N, D) of the utterances of `TRAIN_SET`, and if kept those `alignable`."""
        pooled: dict[str, Tensor] = {}
        frames: list[StateBatch] = []
        for batch in self.batches("speaker", TRAIN_SET):
            pooled |= batch.pooled()
            frames += [batch.alignable()] if self.keep_frames else []
        return pooled, [batch for batch in frames if batch.ids]


def check_memory(name: str, encoder: FrozenEncoder, corpus: Corpus) -> None:
    """Check that the frames of `TRAIN_SET`, in half precision, fit into the machine's memory.

    Raises:
        InputError: they do not.
    """
    hours = hours_of(corpus[TRAIN_SET])
    frames = int(encoder.frames(torch.tensor([3600 * encoder.sample_rate]))[0])  # an hour
    needed = 2 * hours * frames * encoder.num_states * encoder.state_size
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"--tasks content: the hidden states of {name} for {hours:.1f} h take "
            f"{needed / 1e9:.1f} GB of this machine's {there / 1e9:.1f} GB: lower --max_hours."
        )


def hours_of(dataset: ManifestDataset) -> float:
    """How long all utterances of a set last."""
    return sum(dataset.manifest.durations.tolist()) / 3600
