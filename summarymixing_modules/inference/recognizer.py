"""Offline transcription: files of any length, in batches of similar lengths.

Shape suffixes: B batch, L samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from summarymixing_modules.bundles import LoadedBundle, load_model
from summarymixing_modules.bundles.assemble import LoadedModel
from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.audio import read_blocks, resample_blocks
from summarymixing_modules.inference.decoders import decoder_of
from summarymixing_modules.inference.decoding import Token, Transcript, words_of
from summarymixing_modules.inference.windows import Window, cut_windows

WINDOW_SECONDS = 30.0
BATCH_SECONDS = 120.0
#: Batches' worth of windows among which those of similar lengths are put together.
_POOL_BATCHES = 4


@dataclass
class _Recording:
    """A file whose windows are being transcribed."""

    path: Path
    samples: int = 0
    windows: int = 0
    complete: bool = False
    tokens: dict[int, tuple[float, float, list[Token]]] = field(default_factory=dict)


class Recognizer:
    """Transcribes with a trained model.

    Recordings longer than ``window_seconds`` are cut at the quietest moment of the second half of
    each window, and the windows' texts are joined: memory is that of one batch, however long a file
    is. A word that is said at a cut can be lost.

    Args:
        bundle: from ``load_bundle`` or ``load_model``. Its modules are moved to the device.
        device: "cpu", "cuda", …; None = a GPU where there is one.
        batch_seconds: audio in a batch, padding included.
        window_seconds: longest piece that the model sees at once; None = the longest utterance of
            its training, or `WINDOW_SECONDS` where that is unknown. Models make more errors on
            longer ones.

    Raises:
        InputError: a model that cannot be decoded, an unknown device, or lengths that are not
            positive.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        device: str | None = None,
        batch_seconds: float = BATCH_SECONDS,
        window_seconds: float | None = None,
    ) -> None:
        if window_seconds is None:
            window_seconds = max(1.0, bundle.window_seconds or WINDOW_SECONDS)
        for flag, value in (("batch_seconds", batch_seconds), ("window_seconds", window_seconds)):
            if not value >= 1:
                raise InputError(f"--{flag}={value:g} must be at least 1 second.")
        self.bundle = bundle
        self.device = use_device(bundle, device)
        self.batch_seconds = max(batch_seconds, window_seconds)
        self.window_seconds = window_seconds
        self.decoder = decoder_of(bundle.model)
        self.frame_seconds = frame_seconds(bundle)

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        device: str | None = None,
        batch_seconds: float = BATCH_SECONDS,
        window_seconds: float | None = None,
    ) -> Recognizer:
        """A recogniser from a bundle; nothing that is in it is run."""
        return cls(load_model(path), device, batch_seconds, window_seconds)

    @classmethod
    def from_run(
        cls,
        path: str | os.PathLike[str],
        device: str | None = None,
        batch_seconds: float = BATCH_SECONDS,
        window_seconds: float | None = None,
    ) -> Recognizer:
        """A recogniser from a training run of one's own: its hyperparams.yaml is run as code."""
        return cls(load_model(path, trust_run=True), device, batch_seconds, window_seconds)

    def transcribe(
        self,
        files: Iterable[str | os.PathLike[str]],
        on_error: Callable[[Path, AudioError], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript]:
        """Transcribes files, in their order.

        Args:
            files: audio of any rate and number of channels (see ``inference.audio``).
            on_error: told of a file that cannot be read, which is then left out; None = raise.
            on_progress: told of seconds of audio when they are done.

        Raises:
            AudioError: a file cannot be read, and there is no ``on_error``.
        """
        waiting: list[_Recording] = []
        pool: list[tuple[_Recording, int, Window]] = []
        for file in files:
            recording = _Recording(Path(file))
            waiting.append(recording)
            try:
                for window in self._windows(recording):
                    pool.append((recording, recording.windows, window))
                    recording.windows += 1
                    recording.samples += len(window.samples_L)
                    if self._seconds(pool) > _POOL_BATCHES * self.batch_seconds:
                        self._run_pool(pool, on_progress)
                recording.complete = True
            except AudioError as error:
                if on_error is None:
                    raise
                waiting.pop()
                pool = [entry for entry in pool if entry[0] is not recording]
                on_error(recording.path, error)
            while waiting and self._is_done(waiting[0]):
                yield self._transcript(waiting.pop(0))
        self._run_pool(pool, on_progress)
        yield from map(self._transcript, waiting)

    def transcribe_samples(self, samples_L: Tensor, sample_rate: int) -> Transcript:
        """Transcribes audio that is in memory.

        Args:
            samples_L: mono, in [-1, 1].
            sample_rate: Hz.

        Raises:
            InputError: not one channel of finite numbers.
        """
        if samples_L.dim() != 1 or not bool(samples_L.isfinite().all()):
            raise InputError("transcribe_samples takes one channel (L,) of finite numbers.")
        recording = _Recording(Path())
        blocks = resample_blocks([samples_L.float().cpu()], sample_rate, self.bundle.sample_rate)
        pool: list[tuple[_Recording, int, Window]] = []
        for window in cut_windows(blocks, self.bundle.sample_rate, self.window_seconds):
            pool.append((recording, len(pool), window))
            recording.samples += len(window.samples_L)
        self._run_pool(pool, None)
        return self._transcript(recording)

    def _windows(self, recording: _Recording) -> Iterator[Window]:
        rate = self.bundle.sample_rate
        return cut_windows(read_blocks(recording.path, rate), rate, self.window_seconds)

    def _seconds(self, pool: Sequence[tuple[_Recording, int, Window]]) -> float:
        return sum(len(window.samples_L) for _, _, window in pool) / self.bundle.sample_rate

    def _is_done(self, recording: _Recording) -> bool:
        return recording.complete and len(recording.tokens) == recording.windows

    def _run_pool(
        self,
        pool: list[tuple[_Recording, int, Window]],
        on_progress: Callable[[float], None] | None,
    ) -> None:
        """Transcribes and empties the pool, windows of similar lengths together."""
        pool.sort(key=lambda entry: len(entry[2].samples_L))
        rate = self.bundle.sample_rate
        while pool:
            size = 1
            while (
                size < len(pool)
                and (size + 1) * len(pool[-1][2].samples_L) <= self.batch_seconds * rate
            ):
                size += 1
            batch = pool[-size:]
            del pool[-size:]
            decoded = self._decode([window.samples_L for _, _, window in batch])
            for (recording, index, window), tokens in zip(batch, decoded, strict=True):
                start, length = window.start / rate, len(window.samples_L) / rate
                recording.tokens[index] = (start, length, tokens)
            if on_progress is not None:
                on_progress(self._seconds(batch))

    @torch.inference_mode()
    def _decode(self, samples: Sequence[Tensor]) -> list[list[Token]]:
        lengths_B = torch.tensor([len(samples_L) for samples_L in samples], device=self.device)
        samples_BL = pad_sequence(list(samples), batch_first=True).to(self.device)
        features_BTF, frames_B = self.bundle.acoustic_features(samples_BL, lengths_B)
        return self.decoder(self.bundle.model, features_BTF, frames_B)

    def _transcript(self, recording: _Recording) -> Transcript:
        texts, words, rate = [], [], self.bundle.sample_rate
        tokenizer = self.bundle.tokenizer
        for _, (start, length, tokens) in sorted(recording.tokens.items()):
            texts.append(tokenizer.decode([token.index for token in tokens]).strip())
            words += words_of(tokens, tokenizer, self.frame_seconds, start, length)
        text = " ".join(filter(None, texts))
        return Transcript(recording.path, recording.samples / rate, text, words)


def frame_seconds(bundle: LoadedModel) -> float:
    """Seconds between two frames of a model's output."""
    subsampling = int(bundle.model.frontend.subsampling)  # type: ignore[union-attr, arg-type]
    return subsampling * bundle.hop_length / bundle.sample_rate


def use_device(bundle: LoadedModel, name: str | None) -> torch.device:
    """Moves a model to a device; None = a GPU where there is one.

    Raises:
        InputError: unknown, or not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        bundle.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device={name} cannot be used ({reason}): try --device=cpu.") from None
    return device
