"""From samples to text: streams equal the chunk-masked forward pass over whole utterances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    Mixer,
    UnsupportedByMixer,
    mixer_forms,
)
from summarymixing_modules.models import (
    ConvFrontEnd1d,
    ConvFrontEnd2d,
    CTCModel,
    TransducerModel,
    TransformerASR,
)
from summarymixing_modules.models.asr.ctc import feature_lengths
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.streaming import (
    LocalFbank,
    StreamingEncoder,
    StreamingRecognizer,
    state_bytes,
)

TOKENIZER = CharTokenizer()
ALL_FORMS = mixer_forms(also_none=True)
FORMS = {form.name: (form.attention_type, dict(form.options)) for form in ALL_FORMS}
CAPABILITIES = {form.name: form.capabilities for form in ALL_FORMS}
STREAMING = [form for form in FORMS if CAPABILITIES[form].streaming]
FEW = ["SummaryMixing", "RoPEMHA", "hypermixing", "mamba"]
SAMPLES = (13_613, 9_000, 4_999)  # the longest makes 22 encoder frames: no whole chunks
CHUNK = 4


def make_features() -> tuple[LocalFbank, InputNormalization]:
    fbank = LocalFbank(n_fft=512, win_length=32, n_mels=20)
    normalize = InputNormalization(norm_type="global", avoid_padding_norm=True)
    normalize(fbank(make_audio((16_000,))), torch.ones(1))
    return fbank, normalize.eval()


def make_audio(lengths: Sequence[int]) -> Tensor:
    """Noise whose loudness goes up and down, zero past the ends."""
    generator = torch.Generator().manual_seed(3)
    samples_BL = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    samples_BL *= 1.01 + torch.sin(torch.arange(max(lengths)) / 1500)
    return samples_BL.masked_fill(lengths_to_padding(torch.tensor(lengths), max(lengths)), 0.0)


def make_model(
    kind: str = "ctc",
    attention_type: str = "SummaryMixing",
    options: dict[str, Any] | None = None,
    frontend: nn.Module | None = None,
    encoder_module: str = "conformer",
    causal: bool = False,
) -> CTCModel | TransducerModel:
    torch.manual_seed(0)
    frontend = frontend or ConvFrontEnd1d(20, (24, 24))
    transformer = TransformerASR(
        29,
        frontend.output_size,
        d_model=32,
        nhead=4,
        num_encoder_layers=2,
        num_decoder_layers=0,
        d_ffn=64,
        kernel_size=7,
        csgu_linear_units=64,
        encoder_module=encoder_module,
        attention_type=attention_type,
        mixer_options=options,
        causal=causal,
    )
    if kind == "ctc":
        return CTCModel(frontend, transformer, 29).eval()
    model = TransducerModel(frontend, transformer, 29, 16, 24).eval()
    with torch.no_grad():  # so that blanks and tokens alternate
        model.joint.output.weight *= 6
        model.joint.output.bias[BLANK_INDEX] += 1.5
    return model


@torch.no_grad()
def encode_offline(
    model: CTCModel | TransducerModel, samples_BL: Tensor, lengths: Sequence[int], left: int | None
) -> tuple[Tensor, Tensor]:
    """What the recipes compute: encoder output and its lengths; of a causal one without chunks."""
    fbank, normalize = make_features()
    features_BTF = fbank(samples_BL)
    lengths_B = feature_lengths(torch.tensor(lengths), 160, features_BTF.shape[1])
    features_BTF = normalize(features_BTF, lengths_B / features_BTF.shape[1])
    x_BTD, lengths_B = model.frontend(features_BTF, lengths_B)
    share_B = lengths_B / x_BTD.shape[1]
    causal = any(module.causal for module in model.modules() if isinstance(module, Mixer))
    config = None if causal else DynChunkTrainConfig(CHUNK, left)
    encoded = model.transformer.encode(x_BTD, share_B, dynchunktrain_config=config)
    assert isinstance(encoded, Tensor)
    return encoded, lengths_B


def cut(samples_BL: Tensor, lengths: Sequence[int], piece: int) -> list[tuple[Tensor, Tensor]]:
    """Pieces of a batch and how much of each is real."""
    starts = range(0, samples_BL.shape[1], piece)
    real = [torch.tensor([min(max(n - i, 0), piece) for n in lengths]) for i in starts]
    pieces = [samples_BL[:, i : i + piece] for i in starts]
    return [(x, r.clamp(max=x.shape[1])) for x, r in zip(pieces, real, strict=True)]


def encode_stream(
    encoder: StreamingEncoder, samples_BL: Tensor, lengths: Sequence[int], piece: int
) -> tuple[Tensor, Tensor]:
    """Encoder output of all pieces and its padding."""
    state, found = encoder.start(len(lengths)), []
    for samples, real_B in cut(samples_BL, lengths, piece):
        chunks, state = encoder.accept(samples, state, real_B)
        found += chunks
    chunks, _ = encoder.accept(torch.zeros(len(lengths), 0), state, final=True)
    found += chunks
    return torch.cat([c.encoded_BTD for c in found], 1), torch.cat([c.padding_BT for c in found], 1)


def assert_equals_offline(
    model: CTCModel | TransducerModel,
    left: int | None,
    piece: int = 3_001,
    lengths: tuple[int, ...] = SAMPLES,
) -> None:
    samples_BL = make_audio(lengths)
    want_BTD, lengths_B = encode_offline(model, samples_BL, lengths, left)
    encoder = StreamingEncoder(model, *make_features(), CHUNK, left)
    got_BTD, padding_BT = encode_stream(encoder, samples_BL, lengths, piece)
    assert torch.equal(padding_BT, lengths_to_padding(lengths_B, want_BTD.shape[1]))
    assert (got_BTD - want_BTD)[~padding_BT].abs().max() < 1e-4
    assert got_BTD.isfinite().all()


@pytest.mark.parametrize("form", STREAMING)
def test_encoder_output_equals_offline(form: str) -> None:
    """Every mixer that declares streaming, ragged last chunk, three streams of other lengths."""
    assert_equals_offline(make_model("ctc", *FORMS[form]), 2)


@pytest.mark.parametrize("left", [None, 3])
@pytest.mark.parametrize("form", FEW)
def test_long_streams_equal_offline(form: str, left: int | None) -> None:
    """Six seconds, 150 encoder frames."""
    assert_equals_offline(make_model("ctc", *FORMS[form]), left, 8_000, (96_000, 40_001))


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer"])
@pytest.mark.parametrize("form", ["SummaryMixing", "RoPEMHA", "mamba"])
def test_causal_models_stream_what_they_compute_without_chunks(
    form: str, encoder_module: str
) -> None:
    model = make_model("ctc", *FORMS[form], encoder_module=encoder_module, causal=True)
    assert_equals_offline(model, None)
    with pytest.raises(InputError, match="left_context_size=2 of a causal encoder"):
        StreamingEncoder(model, *make_features(), CHUNK, 2)


@pytest.mark.parametrize("form", sorted(FORMS.keys() - set(STREAMING)))
def test_mixers_that_do_not_stream_say_so(form: str) -> None:
    with pytest.raises(UnsupportedByMixer, match="is not streaming.* Mixers that can: .+"):
        StreamingEncoder(make_model("ctc", *FORMS[form]), *make_features())


@pytest.mark.parametrize("piece", [1, 159, 160, 2_560, 40_000])
def test_pieces_of_any_size(piece: int) -> None:
    if piece == 1:
        lengths, samples_BL = (1_400,), make_audio((1_400,))
        model = make_model()
        want_BTD, _ = encode_offline(model, samples_BL, lengths, 1)
        encoder = StreamingEncoder(model, *make_features(), CHUNK, 1)
        got_BTD, _ = encode_stream(encoder, samples_BL, lengths, 1)
        assert (got_BTD - want_BTD).abs().max() < 1e-4
    else:
        for left in (0, 1):
            assert_equals_offline(make_model(), left, piece)


@pytest.mark.parametrize(
    "frontend",
    [
        ConvFrontEnd2d(20, (4, 4)),
        ConvFrontEnd1d(20, (12,), kernel_size=3),
        ConvFrontEnd2d(20, (4, 3, 2), kernel_size=5),
        ConvFrontEnd1d(20, (12, 12), kernel_size=3, stride=3),
        ConvFrontEnd1d(20, (12, 12), kernel_size=1, stride=2),
    ],
    ids=["2d", "one block", "three blocks", "stride 3", "kernel 1"],
)
def test_front_ends(frontend: nn.Module) -> None:
    assert_equals_offline(make_model(frontend=frontend.eval()), 1)


@pytest.mark.parametrize("encoder_module", ["branchformer", "transformer"])
def test_other_encoders(encoder_module: str) -> None:
    assert_equals_offline(make_model(encoder_module=encoder_module), 1)


@pytest.mark.parametrize("samples", [1, 100, 160, 2_559, 2_560, 2_561])
def test_short_and_whole_utterances(samples: int) -> None:
    """Fewer samples than a window, and lengths around a whole chunk (4 frames of 640 samples)."""
    model, samples_BL = make_model(), make_audio((samples,))
    want_BTD, _ = encode_offline(model, samples_BL, (samples,), 1)
    encoder = StreamingEncoder(model, *make_features(), CHUNK, 1)
    got_BTD, padding_BT = encode_stream(encoder, samples_BL, (samples,), 700)
    assert not padding_BT.any()
    assert (got_BTD - want_BTD).abs().max() < 1e-4


@pytest.mark.parametrize(("left", "causal"), [(None, False), (2, False), (None, True)])
@pytest.mark.parametrize("kind", ["ctc", "transducer"])
def test_tokens_and_text_equal_offline(kind: str, left: int | None, causal: bool) -> None:
    model, samples_BL = make_model(kind, causal=causal), make_audio(SAMPLES)
    encoded_BTD, lengths_B = encode_offline(model, samples_BL, SAMPLES, left)
    if isinstance(model, TransducerModel):
        want = model.greedy(encoded_BTD, lengths_B)
    else:
        scores_BTV = model.output(encoded_BTD).log_softmax(-1)
        want = ctc_greedy_decode(scores_BTV, lengths_B / scores_BTV.shape[1], BLANK_INDEX)
    assert all(len(row) > 3 for row in want)
    recognizer = StreamingRecognizer(model, *make_features(), TOKENIZER, CHUNK, left)
    state = recognizer.start(3)
    other = recognizer.start(3)
    texts = [""] * 3
    tokens: list[list[int]] = [[], [], []]
    pieces = cut(samples_BL, SAMPLES, 2_000)
    for index, (samples, real_B) in enumerate(pieces):
        final = index == len(pieces) - 1
        new, state = recognizer.accept(samples, state, real_B, final)
        texts = [text + more for text, more in zip(texts, new, strict=True)]
        rows, other = recognizer.accept_tokens(samples, other, real_B, final)
        tokens = [row + more for row, more in zip(tokens, rows, strict=True)]
    assert tokens == want
    assert texts == [TOKENIZER.decode(row).strip() for row in want]


def test_latency_is_exactly_as_stated() -> None:
    """A chunk is out with the last sample of chunk + look-ahead, and does not depend on more."""
    for frontend, look_ahead in ((ConvFrontEnd2d(20, (4, 4)), 96), (None, 576)):
        encoder = StreamingEncoder(make_model(frontend=frontend), *make_features(), CHUNK)
        assert encoder.look_ahead_samples == look_ahead
        assert encoder.chunk_samples == CHUNK * 640
        assert math.isclose(encoder.latency, (CHUNK * 640 + look_ahead) / 16_000)
        samples_BL, needed = make_audio((30_000,)), CHUNK * 640 + look_ahead
        early, state = encoder.accept(samples_BL[:, : needed - 1], encoder.start())
        assert early == []
        first, state = encoder.accept(samples_BL[:, needed - 1 : needed], state)
        assert len(first) == 1
        second, _ = encoder.accept(samples_BL[:, needed : needed + CHUNK * 640], state)
        assert len(second) == 1


@pytest.mark.parametrize("form", FEW)
def test_state_does_not_grow(form: str) -> None:
    """With limited left context no mixer's state grows; that of a linear one never does."""
    for left in (2, None):
        linear = CAPABILITIES[form].linear_time
        model = make_model("ctc", *FORMS[form])
        recognizer = StreamingRecognizer(model, *make_features(), TOKENIZER, CHUNK, left)
        state, sizes = recognizer.start(2), []
        for _ in range(9):
            _, state = recognizer.accept(torch.randn(2, CHUNK * 640), state)
            sizes.append(state_bytes(state))
        settled = sizes[5:]
        assert sizes[0] > 0
        if left is not None or linear:
            assert len(set(settled)) == 1, sizes
        else:
            assert settled == sorted(set(settled)), "the state of attention over all the past grows"


def test_state_bytes_counts_storages_once_and_views_whole() -> None:
    tensor = torch.zeros(100)
    assert state_bytes({"a": [tensor, tensor[:1]], "b": (tensor[5:], 3, "text")}) == 400


def test_what_needs_the_whole_utterance_is_refused() -> None:
    fbank, normalize = make_features()
    model = make_model()
    sentence = InputNormalization(norm_type="sentence")
    with pytest.raises(InputError, match="norm_type: global"):
        StreamingRecognizer(model, fbank, sentence, TOKENIZER)
    with pytest.raises(InputError, match="no statistics"):
        StreamingRecognizer(model, fbank, InputNormalization(), TOKENIZER)
    with pytest.raises(InputError, match="LocalFbank"):
        StreamingRecognizer(model, Fbank(n_mels=20), normalize, TOKENIZER)
    with pytest.raises(InputError, match="deltas"):
        StreamingRecognizer(model, LocalFbank(n_mels=20, deltas=True), normalize, TOKENIZER)
    with pytest.raises(InputError, match="chunk_size"):
        StreamingRecognizer(model, fbank, normalize, TOKENIZER, 0)
    with pytest.raises(InputError, match="left_context_size"):
        StreamingRecognizer(model, fbank, normalize, TOKENIZER, 8, -1)
    with pytest.raises(InputError, match="CTCModel or a TransducerModel"):
        StreamingRecognizer(nn.Linear(2, 2), fbank, normalize, TOKENIZER)
    reflecting = make_model(frontend=ConvFrontEnd1d(20, (24, 24), padding_mode="reflect"))
    with pytest.raises(InputError, match="padding_mode=zeros"):
        StreamingRecognizer(reflecting, fbank, normalize, TOKENIZER)
    contextnet = make_model(attention_type="cnnonly", encoder_module="contextnet")
    with pytest.raises(InputError, match="encoder_module"):
        StreamingRecognizer(contextnet, fbank, normalize, TOKENIZER)


def test_misuse_of_a_stream_is_told() -> None:
    encoder = StreamingEncoder(make_model(), *make_features(), CHUNK)
    with pytest.raises(ValueError, match=r"shape \(2, L\)"):
        encoder.accept(torch.zeros(3, 100), encoder.start(2))
    with pytest.raises(ValueError, match="0 to 100"):
        encoder.accept(torch.zeros(2, 100), encoder.start(2), torch.tensor([100, 101]))
    _, state = encoder.accept(torch.zeros(2, 100), encoder.start(2), torch.tensor([100, 99]))
    with pytest.raises(ValueError, match="has ended"):
        encoder.accept(torch.zeros(2, 100), state, torch.tensor([100, 1]))
    _, state = encoder.accept(torch.zeros(2, 100), state, final=True)
    with pytest.raises(ValueError, match="final=True"):
        encoder.accept(torch.zeros(2, 100), state)


def test_a_stream_without_samples_says_nothing() -> None:
    recognizer = StreamingRecognizer(make_model("transducer"), *make_features(), TOKENIZER, CHUNK)
    texts, _ = recognizer.accept(torch.zeros(1, 0), recognizer.start(), final=True)
    assert texts == [""]
    texts, _ = recognizer.accept(
        make_audio((9_000, 1)), recognizer.start(2), torch.tensor([9_000, 0]), final=True
    )
    assert texts[0] and not texts[1]


def test_features_depend_on_their_own_samples_only() -> None:
    """SpeechBrain's floor relative to the loudest band is gone, and that is the only difference."""
    options = {"n_fft": 512, "win_length": 32, "n_mels": 20}
    local, stock = LocalFbank(**options), Fbank(**options)
    samples_BL = make_audio((16_000,))
    assert torch.equal(local(samples_BL), stock(samples_BL))
    samples_BL[:, :8_000] *= 1e-5
    assert not torch.equal(local(samples_BL), stock(samples_BL))
    torch.testing.assert_close(local(samples_BL)[:, :45], local(samples_BL[:, :8_000])[:, :45])


def test_words_keep_their_spaces() -> None:
    recognizer = StreamingRecognizer(make_model(), *make_features(), TOKENIZER, CHUNK)
    space, text = None, ""
    for part in (" ", " HE", "LLO ", "", " ", "YOU", " "):
        new, space = recognizer._text(TOKENIZER.encode(part), space)
        text += new
    assert text == "HELLO  YOU"


def test_state_of_the_transducer_does_not_grow() -> None:
    recognizer = StreamingRecognizer(make_model("transducer"), *make_features(), TOKENIZER, CHUNK)
    state, sizes, said = recognizer.start(), [], ""
    for samples in make_audio((30_000,)).split(3_000, dim=1):
        texts, state = recognizer.accept(samples, state)
        said += texts[0]
        sizes.append(state_bytes(state.decoder))
    assert said and len(set(sizes)) == 1
