"""Files and the microphone through a `StreamingRecognizer`: memory and delay do not grow with time.

Shape suffixes: L samples.
"""

from __future__ import annotations

import importlib
import queue
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from summarymixing_modules.bundles import LoadedBundle
from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.audio import read_blocks
from summarymixing_modules.inference.decoding import Token, Transcript, words_of
from summarymixing_modules.inference.recognizer import frame_seconds, use_device
from summarymixing_modules.streaming import StreamingRecognizer

#: Audio that is handed over at once, seconds.
BLOCK_SECONDS = 0.1


class StreamTranscriber:
    """Transcribes files as if they were spoken now, one after the other.

    Args:
        bundle: of a model that streams: trained with chunks, LocalFbank and global statistics.
        device: "cpu", "cuda", …; None = a GPU where there is one.
        chunk_size: encoder frames of a chunk.
        left_context_size: chunks that a chunk sees to its left; None = all.

    Raises:
        InputError: something of the model cannot stream; names it and the remedy.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        device: str | None = None,
        chunk_size: int = 16,
        left_context_size: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.device = use_device(bundle, device)
        self.recognizer = StreamingRecognizer(
            bundle.model,  # type: ignore[arg-type]  # refuses models that it does not know
            bundle.features,
            bundle.normalize,
            bundle.tokenizer,
            chunk_size,
            left_context_size,
        )
        self.frame_seconds = frame_seconds(bundle)

    def transcribe(
        self,
        files: Iterable[Path],
        on_error: Callable[[Path, AudioError], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript]:
        """Transcribes files, in their order; arguments as in ``Recognizer.transcribe``.

        Times of words are those of the chunks in which they were recognised.
        """
        rate = self.bundle.sample_rate
        for path in files:
            tokens: list[Token] = []
            samples = 0
            try:
                for block_L, final in _with_final(_pieces(read_blocks(path, rate), rate)):
                    if samples == 0:
                        state = self.recognizer.start()
                    before = state.encoder.frames
                    new, state = self.recognizer.accept_tokens(
                        block_L[None].to(self.device), state, final=final
                    )
                    after = state.encoder.frames
                    tokens += [Token(index, before, after, None) for index in new[0]]
                    samples += len(block_L)
                    if on_progress is not None:
                        on_progress(len(block_L) / rate)
            except AudioError as error:
                if on_error is None:
                    raise
                on_error(path, error)
                continue
            tokenizer = self.bundle.tokenizer
            text = tokenizer.decode([token.index for token in tokens]).strip()
            words = words_of(tokens, tokenizer, self.frame_seconds, 0.0, samples / rate)
            yield Transcript(path, samples / rate, text, words)

    def listen(self, microphone: Iterable[Tensor]) -> Iterator[str]:
        """New text, as soon as it is known, of audio (L,) that is being recorded."""
        state = self.recognizer.start()
        try:
            for block_L in microphone:
                texts, state = self.recognizer.accept(block_L[None].to(self.device), state)
                yield texts[0]
        except KeyboardInterrupt:
            nothing_BL = torch.zeros(1, 0, device=self.device)
            yield self.recognizer.accept(nothing_BL, state, final=True)[0][0]


def open_microphone(sample_rate: int) -> Iterator[Tensor]:
    """Audio (L,) of the default microphone, without end.

    Args:
        sample_rate: Hz.

    Raises:
        InputError: the package sounddevice or a microphone is missing.
    """
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: its PortAudio library is missing
        raise InputError(
            f"--microphone needs the package sounddevice and PortAudio ({error}): pip install "
            "sounddevice, and on Linux the system's libportaudio2."
        ) from None
    blocks: queue.Queue[Tensor] = queue.Queue()

    def keep(data: Any, frames: int, time: Any, status: Any) -> None:
        blocks.put(torch.from_numpy(data[:, 0].copy()))

    try:
        stream = sounddevice.InputStream(
            samplerate=sample_rate,
            channels=1,
            dtype="float32",
            blocksize=int(BLOCK_SECONDS * sample_rate),
            callback=keep,
        )
    except sounddevice.PortAudioError as error:
        raise InputError(
            f"--microphone: there is no microphone that records at {sample_rate} Hz ({error})."
        ) from None
    return _recorded(stream, blocks)


def _recorded(stream: Any, blocks: queue.Queue[Tensor]) -> Iterator[Tensor]:
    with stream:
        while True:
            yield blocks.get()


def _pieces(blocks_L: Iterable[Tensor], sample_rate: int) -> Iterator[Tensor]:
    for block_L in blocks_L:
        yield from block_L.split(max(1, int(BLOCK_SECONDS * sample_rate)))


def _with_final(blocks_L: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each block, and whether it is the last."""
    waiting: Tensor | None = None
    for block_L in blocks_L:
        if waiting is not None:
            yield waiting, False
        waiting = block_L
    if waiting is not None:
        yield waiting, True
