"""``summarymixing transcribe`` and ``classify``: from files or a microphone to text or classes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from summarymixing_modules.bundles import load_classifier, load_model
from summarymixing_modules.data.files import printable, write_atomically
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference.audio import find_audio
from summarymixing_modules.inference.classifier import Classification, Classifier
from summarymixing_modules.inference.decoding import Transcript
from summarymixing_modules.inference.progress import run_over_files
from summarymixing_modules.inference.recognizer import BATCH_SECONDS, Recognizer
from summarymixing_modules.inference.stream import StreamTranscriber, open_microphone
from summarymixing_modules.inference.writers import CLASS_WRITERS, SUFFIXES, WRITERS

CHUNK_SIZE = 16  # encoder frames, 640 ms in the recipes

OFFLINE_FLAGS = ("batch_seconds", "window_seconds")
STREAMING_FLAGS = ("chunk_size", "left_context_size")


def run_transcribe(arguments: argparse.Namespace) -> int:
    """Runs ``summarymixing transcribe``; returns 1 if a file could not be read, and 0 otherwise.

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

    def write(transcript: Transcript) -> None:
        text = WRITERS[arguments.format](transcript)
        if arguments.output is None:
            text = _labelled(text, transcript, arguments.format, len(found))
            sys.stdout.write(printable(text))
        else:
            write_atomically(targets[transcript.path], text)

    where = "" if arguments.output is None else f" to {arguments.output}"
    files = [file for file, _ in found]
    return run_over_files(
        files, transcriber.transcribe, write, f"transcribed{where} on {transcriber.device}"
    )


def run_classify(arguments: argparse.Namespace) -> int:
    """Runs ``summarymixing classify``; returns 1 if a file could not be read, and 0 otherwise.

    Raises:
        InputError: no files, a model that cannot be used or is no classifier, a flag without sense.
    """
    if arguments.top < 1:
        raise InputError(f"--top={arguments.top} must be at least 1.")
    files = [file for file, _ in find_audio(arguments.files)]
    bundle = load_classifier(arguments.model, arguments.trust_run)
    batch = BATCH_SECONDS if arguments.batch_seconds is None else arguments.batch_seconds
    classifier = Classifier(bundle, arguments.device, batch, arguments.max_seconds)

    def write(found: Classification) -> None:
        sys.stdout.write(printable(CLASS_WRITERS[arguments.format](found, arguments.top)))

    return run_over_files(files, classifier.classify, write, f"classified on {classifier.device}")


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


def _transcriber(arguments: argparse.Namespace) -> Recognizer | StreamTranscriber:
    bundle = load_model(arguments.model, arguments.trust_run)
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
