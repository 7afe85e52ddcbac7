"""Classes of recordings, told by a trained classifier of utterances.

Shape suffixes: B batch, L samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from summarymixing_modules.bundles import LoadedClassifier, load_classifier
from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.audio import read_blocks, resample_blocks
from summarymixing_modules.inference.recognizer import BATCH_SECONDS, WINDOW_SECONDS, use_device


@dataclass(frozen=True)
class ScoredClass:
    """A class and how likely it is.

    Attributes:
        label: its name.
        probability: from 0 to 1; those of a task add up to 1.
    """

    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """What a classifier says about a recording.

    Attributes:
        path: of the file; empty for samples.
        duration: seconds.
        tasks: task → its classes, the most likely first.
    """

    path: Path
    duration: float
    tasks: Mapping[str, Sequence[ScoredClass]]


class Classifier:
    """Tells the classes of recordings with a trained model::

        for found in Classifier.from_path("my-model").classify(["yes.wav"]):
            print(found.tasks["label"][0].label)

    A recording is one utterance: it is classified as a whole, and gives the same alone and beside
    others.

    Args:
        bundle: from ``load_classifier``. Its modules are moved to the device.
        device: "cpu", "cuda", …; None = a GPU where there is one.
        batch_seconds: audio in a batch, padding included.
        max_seconds: longer recordings are refused; None = the longest utterance of the training,
            or 30 s if that is less.

    Raises:
        InputError: an unknown device, or lengths that are not positive.
    """

    def __init__(
        self,
        bundle: LoadedClassifier,
        device: str | None = None,
        batch_seconds: float = BATCH_SECONDS,
        max_seconds: float | None = None,
    ) -> None:
        if max_seconds is None:
            max_seconds = max(WINDOW_SECONDS, bundle.window_seconds or 0.0)
        for flag, value in (("batch_seconds", batch_seconds), ("max_seconds", max_seconds)):
            if not value > 0:
                raise InputError(f"--{flag}={value:g} must be above 0.")
        self.bundle, self.device = bundle, use_device(bundle, device)
        self.batch_seconds, self.max_seconds = batch_seconds, max_seconds

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], device: str | None = None) -> Classifier:
        """A classifier from a bundle; nothing that is in it is run."""
        return cls(load_classifier(path), device)

    @classmethod
    def from_run(cls, path: str | os.PathLike[str], device: str | None = None) -> Classifier:
        """A classifier from a training run of one's own: its hyperparams.yaml is run as code."""
        return cls(load_classifier(path, trust_run=True), device)

    def classify(
        self,
        files: Iterable[str | os.PathLike[str]],
        on_error: Callable[[Path, AudioError], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[Classification]:
        """Classifies files, in their order.

        Args:
            files: audio of any rate and number of channels (see ``inference.audio``).
            on_error: told of a file that cannot be used, which is then left out; None = raise.
            on_progress: told of seconds of audio when they are done.

        Raises:
            AudioError: a file cannot be read or is too long, and there is no ``on_error``.
        """
        batch: list[tuple[Path, Tensor]] = []
        for file in map(Path, files):
            try:
                samples_L = self._read(file)
            except AudioError as error:
                if on_error is None:
                    raise
                on_error(file, error)
                continue
            longest = max(len(each_L) for each_L in (samples_L, *(each for _, each in batch)))
            if batch and (len(batch) + 1) * longest > self._samples(self.batch_seconds):
                yield from self._classify(batch, on_progress)
                batch = []
            batch.append((file, samples_L))
        yield from self._classify(batch, on_progress)

    def classify_samples(self, samples_L: Tensor, sample_rate: int) -> Classification:
        """Classifies audio that is in memory.

        Args:
            samples_L: mono, in [-1, 1].
            sample_rate: Hz.

        Raises:
            InputError: not one channel of finite numbers, or none.
        """
        if samples_L.dim() != 1 or not len(samples_L) or not bool(samples_L.isfinite().all()):
            raise InputError("classify_samples takes one channel (L,) of finite numbers.")
        blocks = resample_blocks([samples_L.float().cpu()], sample_rate, self.bundle.sample_rate)
        (found,) = self._classify([(Path(), torch.cat(list(blocks)))], None)
        return found

    def _samples(self, seconds: float) -> float:
        return seconds * self.bundle.sample_rate

    def _read(self, file: Path) -> Tensor:
        """The whole recording (L,), unless it is too long."""
        blocks, length = [], 0
        for block_L in read_blocks(file, self.bundle.sample_rate):
            blocks.append(block_L)
            length += len(block_L)
            if length > self._samples(self.max_seconds):
                trained = self.bundle.window_seconds
                known = "" if trained is None else f" (it was trained on up to {trained:g} s)"
                raise AudioError(
                    f"{file}: longer than the {self.max_seconds:g} s that this classifier takes"
                    f"{known}: cut it, or give --max_seconds"
                )
        return torch.cat(blocks)

    @torch.inference_mode()
    def _classify(
        self, batch: Sequence[tuple[Path, Tensor]], on_progress: Callable[[float], None] | None
    ) -> list[Classification]:
        if not batch:
            return []
        lengths = [len(samples_L) for _, samples_L in batch]
        samples_BL = pad_sequence([each_L for _, each_L in batch], batch_first=True)
        features_BTF, frames_B = self.bundle.acoustic_features(
            samples_BL.to(self.device), torch.tensor(lengths, device=self.device)
        )
        scores = [each_BN.exp().cpu() for each_BN in self.bundle.model(features_BTF, frames_B)]
        found = []
        for row, (path, _) in enumerate(batch):
            named = zip(self.bundle.labels.items(), scores, strict=True)
            tasks = {task: _ranked(labels, each_BN[row]) for (task, labels), each_BN in named}
            found.append(Classification(path, lengths[row] / self.bundle.sample_rate, tasks))
        if on_progress is not None:
            on_progress(sum(each.duration for each in found))
        return found


def _ranked(labels: Sequence[str], probabilities_N: Tensor) -> list[ScoredClass]:
    order = probabilities_N.argsort(descending=True, stable=True).tolist()
    return [ScoredClass(labels[index], float(probabilities_N[index])) for index in order]
