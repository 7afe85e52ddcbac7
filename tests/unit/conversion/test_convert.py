"""What is converted says what SpeechBrain's own model says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from speechbrain.decoders import S2STransformerBeamSearcher, ctc_greedy_decode
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder, TransformerLMScorer
from speechbrain.decoders.transducer import TransducerBeamSearcher
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor

from summarymixing_modules.bundles import SSLEncoder, load_model
from summarymixing_modules.cli import main
from summarymixing_modules.conversion.command import convert
from summarymixing_modules.errors import InputError
from summarymixing_modules.inference import Recognizer
from summarymixing_modules.models.asr.attention_search import make_searcher
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.models.asr.recurrent_language_model import RecurrentLanguageModel
from summarymixing_modules.models.asr.transducer_search import BoundedBeamSearcher
from summarymixing_modules.ops.summary import masked
from summarymixing_modules.streaming import StreamingRecognizer
from summarymixing_modules.training.lm_folder import load_language_model
from tests.tensors import padding_of
from tests.unit.conversion.conftest import Stock

SAMPLES = 16000
CLOSE = 1e-5


def audio(*samples: int) -> tuple[Tensor, Tensor]:
    """Noise, padded with zeros, and the lengths."""
    torch.manual_seed(1)
    lengths_B = torch.tensor(samples)
    samples_BL = torch.randn(len(samples), max(samples))
    return masked(samples_BL[..., None], padding_of(*samples))[..., 0], lengths_B


def difference(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    assert want.std() > 1e-3  # it says something
    return float((got - want).abs().max())


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"attention_type": "RoPEMHA"},
        {"attention_type": "hypermixing"},
        {"attention_type": "regularMHA"},
        {"attention_type": "hypermixing", "encoder_module": "branchformer"},
        {"attention_type": "RelPosMHAXL", "encoder_module": "branchformer"},
        {"attention_type": "regularMHA", "encoder_module": "transformer"},
        {"causal": "True"},
        {"norm_type": "sentence"},
    ],
    ids=lambda keys: "-".join(keys.values()) or "conformer",
)
@torch.no_grad()
def test_attention_and_ctc(stock: Callable[..., Stock], tmp_path: Path, keys: Any) -> None:
    theirs = stock("attention", num_decoder_layers="2", **keys)
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert found.left_out == ["counter.ckpt"]
    ours = load_model(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    tokens_BU = torch.tensor([[1, 4, 5, 6]])
    x_BTD = theirs["CNN"](theirs.features(samples_BL))
    encoded_BTD, decoded_BUD = theirs["Transformer"](x_BTD, tokens_BU, torch.ones(1))
    output = ours.model(*ours.acoustic_features(samples_BL, lengths_B), tokens_BU)
    assert difference(output.encoded_BTD, encoded_BTD) < CLOSE
    ctc_BTV = theirs["ctc_lin"](encoded_BTD).log_softmax(-1)
    assert difference(output.ctc_BTV, ctc_BTV) < CLOSE
    assert difference(output.seq_BUV, theirs["seq_lin"](decoded_BUD).log_softmax(-1)) < CLOSE


@torch.no_grad()
def test_a_padded_batch_is_as_alone(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("ctc", encoder_module="branchformer")
    convert(theirs.folder / "save", tmp_path / "bundle")
    ours = load_model(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES // 2 + 77, SAMPLES)
    batch_BTV, frames_B = ours.model(*ours.acoustic_features(samples_BL, lengths_B))
    alone_BL = samples_BL[:1, : lengths_B[0]]
    alone_BTV, _ = ours.model(*ours.acoustic_features(alone_BL, lengths_B[:1]))
    assert difference(batch_BTV[:1, : frames_B[0]], alone_BTV) < CLOSE
    encoded_BTD = theirs["enc"](theirs["CNN"](theirs.features(alone_BL)))
    assert difference(alone_BTV, theirs["ctc_lin"](encoded_BTD).log_softmax(-1)) < CLOSE


@torch.no_grad()
def test_a_transducer(stock: Callable[..., Stock], tmp_path: Path) -> None:
    """With chunks, all scores of its lattice, its CTC head, and what its searches find."""
    theirs = stock("transducer")
    (saved,) = theirs.folder.glob("save/CKPT*")
    torch.save(theirs["lm_model"].state_dict(), saved / "lm.ckpt")
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert all(name.startswith("positional_encoding") for name in found.dropped)
    ours = load_model(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    features = ours.acoustic_features(samples_BL, lengths_B)
    tokens_BU = torch.tensor([[4, 5, 6, 4]])
    said_BUP, _ = theirs["dec"](theirs["emb"](torch.tensor([[0, 4, 5, 6, 4]])))
    for chunks in (None, DynChunkTrainConfig(4, 2), DynChunkTrainConfig(5)):
        x_BTD = theirs["CNN"](theirs.features(samples_BL))
        encoded_BTJ = theirs["proj_enc"](
            theirs["enc"](x_BTD, torch.ones(1), dynchunktrain_config=chunks)
        )
        joined = theirs["Tjoint"](encoded_BTJ[:, :, None], theirs["proj_dec"](said_BUP)[:, None])
        output = ours.model(*features, tokens_BU, chunks)
        assert difference(output.logits_BTUV, theirs["transducer_lin"](joined)) < CLOSE
        ctc_BTV = theirs["proj_ctc"](encoded_BTJ).log_softmax(-1)
        assert difference(output.ctc_log_probs_BTV, ctc_BTV) < CLOSE
    with pytest.raises(InputError, match="a stream does not know"):
        StreamingRecognizer(ours.model, ours.features, ours.normalize, ours.tokenizer, 4)
    lm = load_language_model(tmp_path / "bundle-lm", ours.tokenizer, RecurrentLanguageModel)
    parts = ([theirs["emb"], theirs["dec"], theirs["proj_dec"]], theirs["Tjoint"])
    search = TransducerBeamSearcher(
        *parts, [theirs["transducer_lin"]], 0, 3, 1, theirs["lm_model"].eval(), 0.5
    )
    searcher = BoundedBeamSearcher(ours.model, 3, 10_000, lm, 0.5)
    want = search(encoded_BTJ[:, :6])[0]
    assert searcher.search(output.encoded_BTD[:, :6], torch.tensor([6])) == want and want[0]


@torch.no_grad()
def test_of_half_a_transducer_the_encoder(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("transducer")
    path = theirs.folder / "hyperparams.yaml"
    path.write_text(path.read_text().replace(", !ref <transducer_lin>]", "]"))
    (model,) = theirs.folder.glob("save/CKPT*/model.ckpt")
    tensors = torch.load(model, weights_only=True)
    torch.save({name: t for name, t in tensors.items() if not name.startswith("7.")}, model)
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert {"dec.rnn.weight_hh_l0", "proj_enc.w.weight"} <= set(found.dropped)
    ours = SSLEncoder.from_bundle(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    want_BTD = theirs["enc"](theirs["CNN"](theirs.features(samples_BL)))
    assert difference(ours(samples_BL, lengths_B).output_BTD, want_BTD) < CLOSE


@torch.no_grad()
@pytest.mark.parametrize("kind", ["best-rq", "encoder"])
def test_an_encoder(stock: Callable[..., Stock], tmp_path: Path, kind: str) -> None:
    theirs = stock(kind)
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert ("Quantizer.CB" in found.dropped) == (kind == "best-rq")
    ours = SSLEncoder.from_bundle(tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    want_BTD = theirs["enc"](theirs["CNN"](theirs.features(samples_BL)))
    assert difference(ours(samples_BL, lengths_B).output_BTD, want_BTD) < CLOSE


@torch.no_grad()
def test_ctc_writes_the_same_text(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("ctc", attention_type="RoPEMHA")
    convert(theirs.folder / "save", tmp_path / "bundle")
    samples_BL, lengths_B = audio(SAMPLES)
    encoded_BTD = theirs["enc"](theirs["CNN"](theirs.features(samples_BL)))
    scores_BTV = theirs["ctc_lin"](encoded_BTD).log_softmax(-1)
    want = ctc_greedy_decode(scores_BTV, torch.ones(1), blank_id=0)
    recognizer = Recognizer.from_path(tmp_path / "bundle", device="cpu")
    tokens = recognizer.decoder(
        recognizer.bundle.model, *recognizer.bundle.acoustic_features(samples_BL, lengths_B)
    )
    assert [[token.index for token in row] for row in tokens] == want and want[0]
    assert recognizer.bundle.tokenizer.decode(want[0]) == theirs.tokenizer().decode(want[0])


@torch.no_grad()
def test_published_with_a_language_model(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("attention", num_decoder_layers="1")
    published = theirs.publish(tmp_path / "published")
    found = convert(published, tmp_path / "bundle")
    assert found.language_model == tmp_path / "bundle-lm"
    ours = load_model(tmp_path / "bundle")
    lm = load_language_model(tmp_path / "bundle-lm", ours.tokenizer, LanguageModel)
    tokens_BU = torch.tensor([[1, 4, 5, 6, 0], [1, 7, 8, 9, 3]])
    their_lm = theirs.language_model()
    assert difference(lm(tokens_BU), their_lm(tokens_BU)) < CLOSE
    samples_BL, lengths_B = audio(SAMPLES)
    ctc = CTCScorer(theirs["ctc_lin"], blank_index=0, eos_index=2)
    scorer = ScorerBuilder(
        {"ctc": 0.4, "transformerlm": 0.6},
        [TransformerLMScorer(their_lm)],
        [ctc],
        scorer_beam_scale=1.5,
    )
    search = S2STransformerBeamSearcher(
        modules=[theirs["Transformer"], theirs["seq_lin"]],
        bos_index=1,
        eos_index=2,
        min_decode_ratio=0.0,
        max_decode_ratio=1.0,
        beam_size=4,
        using_eos_threshold=False,
        length_normalization=True,
        scorer=scorer,
    )
    x_BTD = theirs["CNN"](theirs.features(samples_BL))
    want = search(theirs["Transformer"].encode(x_BTD, torch.ones(1)), torch.ones(1))[0]
    encoded_BTD, _ = ours.model.encode(*ours.acoustic_features(samples_BL, lengths_B))
    searcher = make_searcher(ours.model, 4, 0.4, lm, 0.6)
    assert searcher(encoded_BTD, torch.ones(1))[0] == want and want[0]
    text = theirs.tokenizer().decode([index for index in want[0] if index > 2])
    assert ours.tokenizer.decode(want[0]) == text


@torch.no_grad()
def test_a_language_model_alone(stock: Callable[..., Stock], tmp_path: Path) -> None:
    theirs = stock("attention", num_decoder_layers="1")
    published = theirs.publish(tmp_path / "published")
    (published / "asr.ckpt").unlink()
    found = convert(published, tmp_path / "lm")
    assert (found.bundle, found.language_model) == (None, tmp_path / "lm")
    with pytest.raises(InputError, match="exists"):
        convert(published, tmp_path / "lm")


Change = Callable[[Stock], None]


def _more_tensors(stock: Stock) -> None:
    path = next(stock.folder.glob("save/CKPT*/model.ckpt"))
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "1.encoder.extra.weight": torch.ones(1)}, path)


def _code(stock: Stock) -> None:
    torch.save(Path("a class"), next(stock.folder.glob("save/CKPT*/model.ckpt")))


def _text(old: str, new: str) -> Change:
    def change(stock: Stock) -> None:
        path = stock.folder / "hyperparams.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_more_tensors, r"no place for: transformer\.encoder\.extra\.weight"),
        (_code, "could run code"),
        (_text("    nhead: 2\n", "    nhead: !ref <d_model> // 8\n"), "nhead is `!ref"),
        (_text("    nhead: 2\n", "    nhead: 2\n    heads: 3\n"), "heads=3"),
        (_text("residuals: (False", "residuals: (True"), "residuals"),
        (_text("    causal: False\n", ""), "causal=None"),
        (_text("num_encoder_layers: 2", "num_encoder_layers: 3"), "lack transformer.encoder"),
        (_text("blank_index: 0", "blank_index: 11"), "blank_index is 11"),
        (_text("norm_type: global", "norm_type: speaker"), "normalize"),
        (_text("ctc_lin: !new", "other: !new"), "hyperparams"),
    ],
)
def test_what_is_refused(
    stock: Callable[..., Stock], tmp_path: Path, change: Change, words: str
) -> None:
    theirs = stock("ctc")
    change(theirs)
    with pytest.raises(InputError, match=words):
        convert(theirs.folder / "save", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_command(
    stock: Callable[..., Stock], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = stock("best-rq")
    bundle = str(tmp_path / "bundle")
    assert main(["convert", str(theirs.folder / "save"), f"--output={bundle}"]) == 0
    told = capsys.readouterr().out
    assert "Quantizer.P" in told and "counter.ckpt" in told and bundle in told
    assert "converted" in (tmp_path / "bundle" / "README.md").read_text()
