"""Does recognition of a running stream stay as fast and as small as it began?

    python -m summarymixing_modules.bench.streaming --minutes 60
    python -m summarymixing_modules.bench.streaming --attention_type RoPEMHA --left_context_size -1

Streams synthetic audio through an untrained transducer, one chunk at a time, and prints for every
minute of audio the bytes of the state, the time and the CPU time of a chunk, and the process's peak
memory; at the end, the ratios of the last minute to the first. Over a few seconds the stream must
equal the chunk-masked forward pass first; otherwise nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor
from tqdm import tqdm

from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.mixers import mixer_spec
from summarymixing_modules.models import ConvFrontEnd2d, TransducerModel, TransformerASR
from summarymixing_modules.streaming import LocalFbank, StreamingRecognizer, state_bytes
from summarymixing_modules.text_tables import aligned
from summarymixing_modules.training.memory import peak_memory_mb

SAMPLE_RATE = 16_000
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"d_model": 64, "num_encoder_layers": 2, "d_ffn": 128, "nhead": 4, "kernel_size": 15},
    "small": {"d_model": 144, "num_encoder_layers": 6, "d_ffn": 576, "nhead": 4, "kernel_size": 15},
    "base": {"d_model": 512, "num_encoder_layers": 12, "d_ffn": 2048, "nhead": 8},
}


@dataclass(frozen=True)
class Minute:
    """One minute of a stream.

    Attributes:
        minute: its number, from 1.
        state_bytes: what the state holds at its end.
        chunk_ms: median time of a chunk.
        cpu_ms: median CPU time of a chunk, which other processes disturb less.
        slowest_ms: the longest time.
        peak_mb: peak memory of the process, or of the GPU, so far.
    """

    minute: int
    state_bytes: int
    chunk_ms: float
    cpu_ms: float
    slowest_ms: float
    peak_mb: float


def make_recognizer(
    attention_type: str,
    mode: str | None,
    size: str,
    chunk_size: int,
    left_context_size: int | None,
    device: str = "cpu",
) -> StreamingRecognizer:
    """An untrained transducer of characters that takes at most a token from a frame.

    Args:
        attention_type: the mixer.
        mode: of SummaryMixing; None where the mixer has none.
        size: one of ``SIZES``.
        chunk_size: encoder frames of 40 ms.
        left_context_size: chunks; None = all the past.
        device: where it runs.
    """
    options = {"mode": mode} if mode and "mode" in mixer_spec(attention_type).options else {}
    frontend, vocabulary = ConvFrontEnd2d(channels=(16, 8)), CharTokenizer().vocab_size
    transformer = TransformerASR(
        vocabulary,
        frontend.output_size,
        num_decoder_layers=0,
        attention_type=attention_type,
        mixer_options=options,
        **SIZES[size],
    )
    width = SIZES[size]["d_model"]
    model = TransducerModel(frontend, transformer, vocabulary, width, width, max_symbols=1)
    fbank = LocalFbank(sample_rate=SAMPLE_RATE, n_fft=512, win_length=32, n_mels=80)
    normalize = InputNormalization(norm_type="global")
    normalize(fbank(synthetic_audio(0, SAMPLE_RATE)), torch.ones(1))
    return StreamingRecognizer(
        model.to(device), fbank, normalize, CharTokenizer(), chunk_size, left_context_size
    )


def synthetic_audio(start: int, samples: int) -> Tensor:
    """Noise (1, samples) that swells and fades four times a second: a piece of a signal."""
    generator = torch.Generator().manual_seed(start)
    time_L = torch.arange(start, start + samples) / SAMPLE_RATE
    loudness_L = 0.05 + 0.05 * torch.sin(2 * torch.pi * 4 * time_L)
    return (loudness_L * torch.randn(samples, generator=generator))[None]


@torch.no_grad()
def check_equal(recognizer: StreamingRecognizer, seconds: float = 3.3) -> float:
    """Largest difference between a stream and the chunk-masked forward pass over all of it.

    Args:
        recognizer: what is to be timed.
        seconds: of audio.
    """
    encoder = recognizer.encoder
    samples_BL = synthetic_audio(0, int(seconds * SAMPLE_RATE))
    chunks, _ = encoder.accept(samples_BL, encoder.start(), final=True)
    got_BTD = torch.cat([chunk.encoded_BTD for chunk in chunks], dim=1)
    features = encoder.features
    samples_BL = samples_BL.to(got_BTD.device)
    features_BTF = features.step(samples_BL, features.initial_state(1, got_BTD.device), True)[0]
    lengths_B = torch.tensor([features_BTF.shape[1]], device=got_BTD.device)
    x_BTD, _ = encoder.frontend(features_BTF, lengths_B)
    want_BTD = encoder.transformer.encode(
        x_BTD, dynchunktrain_config=DynChunkTrainConfig(**asdict(encoder.config))
    )
    assert isinstance(want_BTD, Tensor)  # no hidden states were asked for
    return float((got_BTD - want_BTD).abs().max())


def stream(recognizer: StreamingRecognizer, minutes: int, progress: bool = True) -> list[Minute]:
    """Streams audio chunk by chunk and measures every minute of it.

    Args:
        recognizer: what is measured.
        minutes: of audio.
        progress: show a bar.
    """
    length = recognizer.encoder.chunk_samples
    state, found, position = recognizer.start(), [], 0
    for minute in tqdm(range(1, minutes + 1), "minutes of audio", disable=not progress):
        seconds, cpu_seconds = [], []
        while position < minute * 60 * SAMPLE_RATE:
            samples_BL = synthetic_audio(position, length)
            started, cpu_started = time.perf_counter(), time.process_time()
            _, state = recognizer.accept(samples_BL, state)  # ends with tokens on the CPU
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
            position += length
        found.append(
            Minute(
                minute,
                state_bytes(state),
                1e3 * statistics.median(seconds),
                1e3 * statistics.median(cpu_seconds),
                1e3 * max(seconds),
                peak_memory_mb(str(state.encoder.samples_B.device)),
            )
        )
    return found


def report(minutes: Sequence[Minute], chunk_ms: float) -> str:
    """A table of at most a dozen of the minutes, the first and the last among them, and ratios."""
    step = -(-len(minutes) // 11)
    shown = sorted({*range(0, len(minutes), step), len(minutes) - 1})
    rows = [["minute", "state", "chunk, median", "its CPU time", "slowest", "peak memory"]]
    for row in (minutes[index] for index in shown):
        times = [f"{row.chunk_ms:.2f} ms", f"{row.cpu_ms:.2f} ms", f"{row.slowest_ms:.1f} ms"]
        state, peak = f"{row.state_bytes:,} B", f"{row.peak_mb:.0f} MB"
        rows.append([str(row.minute), state, *times, peak])
    first, last = minutes[0], minutes[-1]
    ratios = {
        "state": last.state_bytes / first.state_bytes,
        "time of a chunk": last.chunk_ms / first.chunk_ms,
        "its CPU time": last.cpu_ms / first.cpu_ms,
        "peak memory": last.peak_mb / first.peak_mb,
    }
    grown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    told = f"last / first minute: {grown}; real-time factor {last.chunk_ms / chunk_ms:.4f}"
    return f"{aligned(rows, range(len(rows[0])), separator=' | ')}\n{told}"


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, streams, prints, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=60, help="of audio")
    parser.add_argument("--attention_type", default="SummaryMixing")
    parser.add_argument("--mode", default="SummaryMixing-fast", help="of SummaryMixing")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--chunk_size", type=int, default=16, help="encoder frames of 40 ms")
    parser.add_argument("--left_context_size", type=int, default=-1, help="chunks; -1: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file with every minute")
    arguments = parser.parse_args(argv)
    if arguments.minutes < 1:
        parser.error("--minutes must be at least 1")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    left = None if arguments.left_context_size < 0 else arguments.left_context_size
    recognizer = make_recognizer(
        arguments.attention_type,
        arguments.mode,
        arguments.size,
        arguments.chunk_size,
        left,
        arguments.device,
    )
    error = check_equal(recognizer)
    if not error < 1e-3:
        sys.exit(f"the stream differs from the chunk-masked forward pass by {error:.1e}: not timed")
    encoder = recognizer.encoder
    chunk_ms = 1e3 * encoder.chunk_samples / SAMPLE_RATE
    print(
        f"{arguments.attention_type}, {arguments.size}, chunks of {chunk_ms:.0f} ms, left context "
        f"{'all' if left is None else left}, latency {1e3 * encoder.latency:.0f} ms, "
        f"{arguments.device}, {arguments.threads} thread(s), torch {torch.__version__}; stream = "
        f"forward pass to {error:.1e}"
    )
    minutes = stream(recognizer, arguments.minutes)
    print(report(minutes, chunk_ms))
    if arguments.output:
        content = {"settings": {**vars(arguments), "output": str(arguments.output)}}
        rows = {"minutes": [asdict(minute) for minute in minutes]}
        write_atomically(arguments.output, json.dumps({**content, **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
