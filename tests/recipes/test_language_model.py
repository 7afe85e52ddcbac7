"""The recipe of language models, and a recogniser that decodes with one."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from summarymixing_modules.data.text.tokenizers import CharTokenizer
from summarymixing_modules.errors import InputError
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.training.lm_folder import save_language_model
from tests.ranks import run_on_two_ranks
from tests.recipes.tiny import built

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "LM"
YAMLS = sorted((RECIPE / "hparams").glob("*.yaml"))
TRANSFORMER, RNN = (RECIPE / "hparams" / name for name in ("transformer.yaml", "rnn.yaml"))
RECOGNISER = ROOT / "recipes" / "LibriSpeech" / "ASR" / "transformer" / "hparams"
TRANSDUCER = ROOT / "recipes" / "LibriSpeech" / "ASR" / "transducer" / "hparams"
RunRecipe = Callable[..., dict[str, Any]]

TEXT = [
    "--batch_size=4",
    "--num_workers=0",
    "--lr=0.01",
    "--warmup_steps=5",
    "--train_splits=[train-clean-100]",
    "--dev_splits=[dev-clean]",
    "--test_splits=[test-clean]",
]


TINY_MODEL = ["--d_model=16", "--nhead=2", "--num_layers=1", "--d_ffn=32"]
TINY = [*TEXT, *TINY_MODEL, "--output_neurons=31"]
TINY_RNN = [*TEXT, "--d_embedding=8", "--hidden_size=16", "--d_output=8"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """The flag for a tokenizer of characters."""
    path = tmp_path / "tokenizer.json"
    CharTokenizer(bos_eos=True).save(path)
    return f"--tokenizer_file={path}"


@pytest.mark.parametrize("hparams", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_trains_and_exports(
    hparams: Path, run_recipe: RunRecipe, tokenizer: str, tmp_path: Path
) -> None:
    result = run_recipe(
        hparams,
        *(TINY if hparams == TRANSFORMER else [*TINY_RNN, "--output_neurons=31"]),
        tokenizer,
    )
    assert result["optimizer_steps"] > 0 and result["metrics"]["test-clean_ppl"] > 1
    assert result["lm_folder"] == str(tmp_path / "run" / "lm")
    written = {path.name for path in (tmp_path / "run" / "lm").iterdir()}
    assert written == {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize(("hparams", "millions"), [(TRANSFORMER, 93.3), (RNN, 53.1)])
def test_it_has_its_stated_size(hparams: Path, millions: float, tmp_path: Path) -> None:
    given = f"data_folder: x\ntokenizer_file: x\noutput_folder: {tmp_path}"
    model = built(hparams, given)["model"]
    assert abs(sum(p.numel() for p in model.parameters()) / (1e6 * millions) - 1) < 0.005
    assert f"{millions}M" in hparams.read_text()


def test_learns_its_text(run_recipe: RunRecipe, tokenizer: str, tmp_path: Path) -> None:
    """From a compressed file alone; uniform guesses have a perplexity of 31."""
    text = tmp_path / "text.txt.gz"
    with gzip.open(text, "wt") as file:
        file.write("TURN ON THE LIGHT\nTURN OFF THE LIGHT\n\n" * 40)
    options = [option for option in TINY if "train_splits" not in option]
    options += [f"--lm_text={text}", "--train_splits=[]", "--number_of_epochs=6"]
    result = run_recipe(TRANSFORMER, *options, tokenizer, "--normalize_before=True")
    assert result["train_lines"] == 80 and result["optimizer_steps"] == 120
    log = (tmp_path / "run" / "train_log.txt").read_text().splitlines()
    assert float(log[-1].split("train loss: ")[1].split(" ")[0]) < 0.3


def test_bfloat16_accumulation_and_resuming(run_recipe: RunRecipe, tokenizer: str) -> None:
    options = [*TINY, tokenizer, "--precision=bf16", "--grad_accumulation_factor=2"]
    first = run_recipe(TRANSFORMER, *options, "--number_of_epochs=1")
    assert first["precision"] == "bf16" and first["optimizer_steps"] == 3
    again = run_recipe(TRANSFORMER, *options, "--number_of_epochs=1")
    assert again["metrics"] == first["metrics"]
    more = run_recipe(TRANSFORMER, *options, "--number_of_epochs=2")
    assert more["optimizer_steps"] == 6


def test_two_processes(corpus: Path, tokenizer: str, tmp_path: Path) -> None:
    options = [*TINY, tokenizer, f"--data_folder={corpus}", "--number_of_epochs=1"]
    assert run_on_two_ranks(TRANSFORMER, tmp_path / "run", *options)["optimizer_steps"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lm_text=/nowhere.txt.gz"], "/nowhere.txt.gz: no such file"),
        (["--train_splits=[]"], "--lm_text is null and --train_splits is \\[\\]"),
        (["--train_splits=[train-clean-360]"], "no split train-clean-360"),
        (["--output_neurons=30"], "--output_neurons=30.*31 tokens"),
        (["--tokenizer_file=/nowhere.model"], "--tokenizer_file /nowhere.model: no such file"),
        (["--data_folder=/nowhere"], "--data_folder /nowhere"),
    ],
)
def test_bad_flags_are_told(
    options: list[str], message: str, run_recipe: RunRecipe, tokenizer: str
) -> None:
    named = {option.split("=")[0] for option in options}
    rest = [option for option in [*TINY, tokenizer] if option.split("=")[0] not in named]
    with pytest.raises(InputError, match=f"(?s){message}"):
        run_recipe(TRANSFORMER, *rest, *options, "--debug")


# ---- a recogniser with a language model ---------------------------------------------------------

RECOGNISE = [
    "--num_encoder_layers=1",
    "--num_decoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--max_batch_length=20",
    "--num_buckets=2",
    "--test_beam_size=3",
    "--max_decode_ratio=0.2",
    "--training_steps=1",
]
CHARACTERS = ["--token_type=librispeech_char", "--output_neurons=31"]


def test_from_the_recognisers_tokenizer_to_its_search(
    run_recipe: RunRecipe, tmp_path: Path
) -> None:
    """Train a recogniser, a language model for it, and decode with it."""
    recogniser = [*RECOGNISE, *CHARACTERS, f"--output_folder={tmp_path / 'asr'}"]
    alone = run_recipe(RECOGNISER / "small_conformer.yaml", *recogniser)
    named = f"--tokenizer_file={tmp_path / 'asr' / 'save' / 'tokenizer.json'}"
    options = [*TINY, named, f"--output_folder={tmp_path / 'lm'}"]
    folder = run_recipe(TRANSFORMER, *options, "--number_of_epochs=1")["lm_folder"]
    with_lm = [*recogniser, f"--lm_folder={folder}", "--lm_weight=5.0", "--test_only"]
    result = run_recipe(RECOGNISER / "small_conformer.yaml", *with_lm)
    assert result["parameters"] == alone["parameters"], "it is no part of the model"
    before, after = alone["metrics"], result["metrics"]
    assert after["test-clean_loss"] == pytest.approx(before["test-clean_loss"])
    assert after["test-clean_cer"] != before["test-clean_cer"]


def test_a_language_model_of_another_tokenizer_is_told(
    run_recipe: RunRecipe, tmp_path: Path
) -> None:
    tokenizer = CharTokenizer("ABC", bos_eos=True)
    model = LanguageModel(tokenizer.vocab_size, 16, 2, 1, 32)
    folder = save_language_model(model, tokenizer, tmp_path / "lm")
    small = RECOGNISER / "small_conformer.yaml"
    with pytest.raises(InputError, match="another tokenizer \\(6 tokens.*31 tokens.*--tokenizer_f"):
        run_recipe(small, *RECOGNISE, *CHARACTERS, f"--lm_folder={folder}")
    with pytest.raises(InputError, match=f"no config.json. Did you mean {folder}"):
        run_recipe(small, *RECOGNISE, *CHARACTERS, f"--lm_folder={tmp_path}")


# ---- a transducer with a recurrent one ----------------------------------------------------------


def test_from_the_transducers_tokenizer_to_its_search(
    run_recipe: RunRecipe, tokenizer: str, tmp_path: Path
) -> None:
    small = TRANSDUCER / "small_conformer.yaml"
    transducer = [flag for flag in RECOGNISE if "decod" not in flag]
    transducer += ["--predictor_size=8", "--joint_size=12", "--max_expansions=4"]
    transducer += [f"--output_folder={tmp_path / 'asr'}"]
    alone = run_recipe(small, *transducer)["metrics"]
    named = f"--tokenizer_file={tmp_path / 'asr' / 'save' / 'tokenizer.json'}"
    with pytest.raises(InputError, match="no begin and end marks.*hparams/rnn.yaml"):
        run_recipe(TRANSFORMER, *TEXT, *TINY_MODEL, "--output_neurons=29", named)
    options = [*TINY_RNN, "--output_neurons=29", named, f"--output_folder={tmp_path / 'lm'}"]
    folder = run_recipe(RNN, *options, "--number_of_epochs=1")["lm_folder"]
    with_lm = [*transducer, f"--lm_folder={folder}", "--lm_weight=5.0", "--test_only"]
    result = run_recipe(small, *with_lm)["metrics"]
    assert result["test-clean_loss"] == pytest.approx(alone["test-clean_loss"])
    assert result["test-clean_cer"] != alone["test-clean_cer"]
    tiny = [*TINY, tokenizer, f"--output_folder={tmp_path / 'other'}", "--number_of_epochs=1"]
    other = run_recipe(TRANSFORMER, *tiny)["lm_folder"]
    with pytest.raises(InputError, match="has another tokenizer"):
        run_recipe(small, *transducer, f"--lm_folder={other}", "--test_only")
