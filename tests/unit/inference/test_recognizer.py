"""Recognisers on audio in memory and on files, offline and as streams; the microphone."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import Tensor, nn

from summarymixing_modules.bundles import LoadedBundle
from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference import Recognizer, decoders
from summarymixing_modules.inference.stream import StreamTranscriber, open_microphone
from summarymixing_modules.models import (
    AttentionCTCModel,
    ConvFrontEnd1d,
    CTCModel,
    TransducerModel,
    TransformerASR,
)
from summarymixing_modules.streaming import LocalFbank

RATE = 16000


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(3)
    frontend = ConvFrontEnd1d(input_size=20, channels=(8, 8))
    tokens = 31 if kind == "attention" else 29
    transformer = TransformerASR(
        tokens, 8, 8, 2, 1, int(kind == "attention"), 16, kernel_size=3, dropout=0.0
    )
    if kind == "ctc":
        model: nn.Module = CTCModel(frontend, transformer, tokens)
        nn.init.normal_(model.output.weight, std=3.0)  # says something
    elif kind == "attention":
        model = AttentionCTCModel(frontend, transformer, tokens)
    else:
        model = TransducerModel(frontend, transformer, tokens, 8, 8)
        nn.init.normal_(model.joint.output.weight, std=3.0)
    return model.eval()


def make_bundle(kind: str = "ctc", norm_type: str = "sentence") -> LoadedBundle:
    local = norm_type == "global"
    features = (LocalFbank if local else Fbank)(n_mels=20, n_fft=400).eval()
    normalize = InputNormalization(norm_type=norm_type, avoid_padding_norm=True)
    if local:
        normalize(torch.randn(2, 50, 20) * 10 - 30, torch.ones(2), epoch=0)
    tokenizer = CharTokenizer(bos_eos=kind == "attention")
    config = {"sample_rate": RATE, "window_seconds": 5.0, "streaming": local}
    return LoadedBundle(make_model(kind), features, normalize.eval(), config, tokenizer)


def noise(seconds: float, seed: int) -> Tensor:
    torch.manual_seed(seed)
    length = int(seconds * RATE)
    envelope_L = torch.sin(torch.arange(length) / RATE * 9 + seed).abs()
    return torch.randn(length) * envelope_L / 5


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for seed, seconds in enumerate((1.3, 0.4, 7.0, 2.2, 0.02)):
        paths.append(tmp_path / f"{seed}.wav")
        soundfile.write(paths[-1], noise(seconds, seed).numpy(), RATE, subtype="FLOAT")
    return paths


@pytest.mark.parametrize("kind", ["ctc", "attention", "transducer"])
def test_files_together_are_as_each_alone(
    kind: str, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "BEAM_SIZE", 2)
    recognizer = Recognizer(make_bundle(kind), batch_seconds=5)
    seconds: list[float] = []
    together = list(recognizer.transcribe(files, on_progress=seconds.append))
    assert [transcript.path for transcript in together] == files
    assert sum(seconds) == pytest.approx(10.92)
    for transcript in together:
        (alone,) = recognizer.transcribe([transcript.path])
        # SpeechBrain limits the tokens of a search by the longest utterance of the batch.
        assert alone.text == transcript.text or (kind == "attention" and transcript.duration < 0.1)
        assert [w.text for w in transcript.words] == transcript.text.split()
        times = [time for word in transcript.words for time in (word.start, word.end)]
        assert times == sorted(times) and all(0 <= t <= transcript.duration for t in times)
    assert kind == "attention" or any(transcript.text for transcript in together)


def test_a_transcript_is_the_greedy_decoding_of_the_model() -> None:
    bundle, samples_L = make_bundle(), noise(3, 1)
    features = bundle.acoustic_features(samples_L[None], torch.tensor([len(samples_L)]))
    with torch.inference_mode():
        best = bundle.model(*features)[0][0].argmax(-1).unique_consecutive().tolist()
    text = bundle.tokenizer.decode(best).strip()
    assert text and Recognizer(bundle).transcribe_samples(samples_L, RATE).text == text


def test_long_audio_is_the_sum_of_its_windows() -> None:
    recognizer = Recognizer(make_bundle(), window_seconds=3)
    samples_L = noise(8, 2)
    samples_L[int(2.5 * RATE) : int(2.8 * RATE)] = 0
    samples_L[int(5 * RATE) : int(5.3 * RATE)] = 0
    cuts = [0, int(2.65 * RATE), int(5.15 * RATE), len(samples_L)]
    parts = [
        recognizer.transcribe_samples(samples_L[a:b], RATE)
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    whole = recognizer.transcribe_samples(samples_L, RATE)
    assert whole.duration == 8 and whole.words[-1].end > 5.15
    assert abs(len(whole.text) - len(" ".join(part.text for part in parts))) < 10


def test_the_window_is_that_of_the_training() -> None:
    assert Recognizer(make_bundle()).window_seconds == 5.0
    assert Recognizer(make_bundle(), window_seconds=7.0).window_seconds == 7.0


def test_bad_files_are_raised_or_told(files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    recognizer = Recognizer(make_bundle())
    with pytest.raises(AudioError, match="bad.wav"):
        list(recognizer.transcribe([bad, *files]))
    told: list[Path] = []
    found = list(
        recognizer.transcribe([files[0], bad, files[1]], lambda path, _: told.append(path))
    )
    assert told == [bad] and [transcript.path for transcript in found] == files[:2]


def test_settings_that_mean_nothing_are_refused() -> None:
    for options, message in (
        ({"batch_seconds": 0.0}, "--batch_seconds=0"),
        ({"window_seconds": -1.0}, "--window_seconds=-1"),
        ({"device": "gpu"}, "--device=gpu"),
    ):
        with pytest.raises(InputError, match=message):
            Recognizer(make_bundle(), **options)
    with pytest.raises(InputError, match="one channel"):
        Recognizer(make_bundle()).transcribe_samples(torch.zeros(2, 100), RATE)


@pytest.mark.parametrize("kind", ["ctc", "transducer"])
def test_streams_give_the_words_of_their_chunks(kind: str, files: list[Path]) -> None:
    streamer = StreamTranscriber(make_bundle(kind, "global"), chunk_size=8, left_context_size=2)
    seconds: list[float] = []
    found = list(streamer.transcribe(files, on_progress=seconds.append))
    assert sum(seconds) == pytest.approx(10.92) and any(transcript.text for transcript in found)
    for transcript in found:
        assert [word.text for word in transcript.words] == transcript.text.split()
        times = [time for word in transcript.words for time in (word.start, word.end)]
        assert times == sorted(times) and all(0 <= t <= transcript.duration for t in times)


def test_a_model_that_cannot_stream_is_refused() -> None:
    with pytest.raises(InputError, match="LocalFbank|norm_type"):
        StreamTranscriber(make_bundle())


def test_the_microphone_says_what_a_file_says(files: list[Path]) -> None:
    streamer = StreamTranscriber(make_bundle("ctc", "global"), chunk_size=8)
    (expected,) = streamer.transcribe(files[2:3])

    def microphone() -> Iterator[Tensor]:
        yield from noise(7.0, 2).split(1600)
        raise KeyboardInterrupt

    assert "".join(streamer.listen(microphone())) == expected.text


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for the package, with a microphone that hears ones."""

    class Stream:
        def __init__(self, callback: Callable[..., None], **settings: Any) -> None:
            self.callback, self.settings = callback, settings

        def __enter__(self) -> None:
            self.callback(torch.ones(self.settings["blocksize"], 1).numpy(), 0, None, None)

        def __exit__(self, *_: object) -> None:
            module.closed = True

    module: Any = types.ModuleType("sounddevice")
    module.InputStream, module.PortAudioError = Stream, type("PortAudioError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_a_microphone_is_opened_and_closed(sounddevice: Any) -> None:
    recording = open_microphone(RATE)
    torch.testing.assert_close(next(recording), torch.ones(1600))
    recording.close()
    assert sounddevice.closed


def test_no_microphone_is_told(sounddevice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise sounddevice.PortAudioError("no device")

    monkeypatch.setattr(sounddevice, "InputStream", refuse)
    with pytest.raises(InputError, match="no microphone.*no device"):
        open_microphone(RATE)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(InputError, match="pip install sounddevice"):
        open_microphone(RATE)
