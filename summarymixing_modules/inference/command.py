"""``summarymixing transcribe``: from files or a microphone to transcripts on the disk or screen."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from summarymixing_modules.bundles import LoadedBundle, load_model
from summarymixing_modules.bundles.manifest import MANIFEST
from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.data.files import write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.audio import find_audio, total_seconds
from summarymixing_modules.inference.recognizer import BATCH_SECONDS, Recognizer
from summarymixing_modules.inference.stream import StreamTranscriber, open_microphone
from summarymixing_modules.inference.transcript import Transcript
from summarymixing_modules.inference.writers import SUFFIXES, WRITERS

CHUNK_SIZE = 16  # encoder frames, 640 ms in the recipes

OFFLINE_FLAGS = ("batch_seconds", "window_seconds")
STREAMING_FLAGS = ("chunk_size", "left_context_size")
BAR = "{desc}: {percentage:3.0f} %|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


def run_transcribe(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns 1 if a file could not be read, and 0 otherwise.

    Raises:
        InputError: flags that do not go together, no files, a model or a place for the results that
            cannot be used.
    """
    _check_flags(arguments)
    if arguments.microphone:
        return _run_microphone(arguments)
    found = find_audio(arguments.files)
    targets = _targets(arguments, found)
    transcriber = _transcriber(arguments)
    files = [file for file, _ in found]
    bad: list[AudioError] = []
    audio_seconds, started = 0.0, time.perf_counter()
    with tqdm(total=total_seconds(files), bar_format=BAR, desc="transcribing") as bar:
        # Headers of compressed files estimate their length.
        progress = lambda seconds: bar.update(min(seconds, bar.total - bar.n))  # noqa: E731
        transcripts = transcriber.transcribe(files, lambda _, error: bad.append(error), progress)
        for transcript in transcripts:
            audio_seconds += transcript.duration
            text = WRITERS[arguments.format](transcript)
            if arguments.output is None:
                with bar.external_write_mode(sys.stdout):
                    sys.stdout.write(_labelled(text, transcript, arguments.format, len(files)))
                    sys.stdout.flush()
            else:
                write_atomically(targets[transcript.path], text)
    seconds = time.perf_counter() - started
    _report(len(files) - len(bad), audio_seconds, seconds, arguments)
    for error in bad:
        print(f"error: {error}", file=sys.stderr)
    return 1 if bad else 0


def _check_flags(arguments: argparse.Namespace) -> None:
    """Refuses flags that would have no effect."""
    mode, useless = "with", OFFLINE_FLAGS
    if not arguments.streaming:
        mode, useless = "without", STREAMING_FLAGS
    for flag in useless:
        if getattr(arguments, flag) is not None:
            raise InputError(f"--{flag} has no effect {mode} --streaming: leave it out.")
    if arguments.microphone and not arguments.streaming:
        raise InputError("--microphone needs --streaming, and a model that was trained for it.")
    if arguments.microphone and (arguments.files or arguments.format != "text"):
        raise InputError("--microphone takes no files, and writes --format=text only.")
    if arguments.microphone and arguments.output is not None:
        raise InputError("--microphone writes to the screen: leave --output out, or redirect it.")
    if not arguments.microphone and not arguments.files:
        raise InputError("give audio files, folders or patterns, or --microphone.")
    if arguments.overwrite and arguments.output is None:
        raise InputError("--overwrite has no effect without --output: leave it out.")


def _targets(arguments: argparse.Namespace, found: Sequence[tuple[Path, Path]]) -> dict[Path, Path]:
    """The file for each transcript; none without ``--output``."""
    if arguments.output is None:
        if arguments.format == "srt" and len(found) > 1:
            raise InputError("--format=srt makes a file for each recording: give --output=FOLDER.")
        return {}
    folder, suffix = Path(arguments.output), SUFFIXES[arguments.format]
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output={folder} is a file: give a folder.")
    targets = {file: folder / name.with_suffix(suffix) for file, name in found}
    source_of: dict[Path, Path] = {}
    for file, target in targets.items():
        if target in source_of:
            raise InputError(
                f"{source_of[target]} and {file} would both be written to {target}: give the "
                "folder that holds both instead, or transcribe them one after the other."
            )
        source_of[target] = file
        if target.exists() and not arguments.overwrite:
            raise InputError(f"{target} exists: give --overwrite, or another --output.")
    return targets


def _load(arguments: argparse.Namespace) -> LoadedBundle:
    folder = Path(arguments.model)
    if not (folder / MANIFEST).exists() and (folder / "hyperparams.yaml").exists():
        print(f"{folder} is a training run: its hyperparams.yaml is run as code.", file=sys.stderr)
    return load_model(folder)


def _transcriber(arguments: argparse.Namespace) -> Recognizer | StreamTranscriber:
    bundle = _load(arguments)
    if not arguments.streaming:
        batch = arguments.batch_seconds
        batch = BATCH_SECONDS if batch is None else batch
        return Recognizer(bundle, arguments.device, batch, arguments.window_seconds)
    chunk = CHUNK_SIZE if arguments.chunk_size is None else arguments.chunk_size
    if not bundle.config.get("streaming"):
        print(
            "warning: this model was trained with full context only; as a stream it will make "
            "more errors. Train it with --streaming=True.",
            file=sys.stderr,
        )
    return StreamTranscriber(bundle, arguments.device, chunk, arguments.left_context_size)


def _run_microphone(arguments: argparse.Namespace) -> int:
    transcriber = _transcriber(arguments)
    assert isinstance(transcriber, StreamTranscriber)
    microphone = open_microphone(transcriber.bundle.sample_rate)
    print(
        f"listening, text comes {transcriber.recognizer.latency:.2f} s after a chunk begins; "
        "Ctrl-C ends",
        file=sys.stderr,
    )
    _print_pieces(transcriber.listen(microphone))
    return 0


def _print_pieces(pieces: Iterable[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _labelled(text: str, transcript: Transcript, form: str, files: int) -> str:
    """Several texts on a screen say whose they are; the other formats do so by themselves."""
    return f"{transcript.path}\t{text}" if form == "text" and files > 1 else text


def _report(files: int, audio: float, seconds: float, arguments: argparse.Namespace) -> None:
    factor = seconds / audio if audio else float("nan")
    where = f" to {arguments.output}" if arguments.output is not None else ""
    print(
        f"{files} file(s), {audio:.1f} s of audio, transcribed{where} in {seconds:.1f} s: "
        f"real-time factor {factor:.4f} on {arguments.device}",
        file=sys.stderr,
    )
