"""A corpus of one's own: a table of recordings, or a layout of its own that is registered."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.corpora import corpus_spec, register_corpus, unregister_corpus
from summarymixing_modules.data.manifest import Manifests, read_manifest
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance
from summarymixing_modules.data.tables import COLUMNS
from summarymixing_modules.errors import InputError
from tests.ranks import load_script

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "recipes" / "LibriSpeech" / "ASR" / "CTC" / "hparams" / "small_conformer.yaml"
OPTIONS = [
    "--num_encoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--num_buckets=2",
    "--debug",
]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder of recordings named after what is said in them."""

    @register_corpus("mine", source="a test")
    def prepare_mine(
        preparation: Preparation,
        *,
        train_splits: list[str],
        test_splits: list[str],
        held_out: str = "heldout",
    ) -> Manifests:
        save = preparation.save_folder
        test = {name: save / f"{name}.csv" for name in test_splits}
        if not preparation.skip_prep:
            for split in (*train_splits, held_out, *test_splits):
                files = sorted((preparation.data_folder / split).glob("*.wav"))
                said = [Utterance(f"{split}-{f.stem}", f, text=f.stem.upper()) for f in files]
                preparation.prepare(split, {}, partial(Listing, said))
        return Manifests(save / f"{train_splits[0]}.csv", save / f"{held_out}.csv", test)

    draw = np.random.default_rng(0)
    for split in ("studio", "heldout", "street"):
        (tmp_path / "words" / split).mkdir(parents=True)
        for word in ("yes", "no", "maybe"):
            file = tmp_path / "words" / split / f"{word}.wav"
            soundfile.write(file, 0.1 * draw.standard_normal(16000), 16000)
    yield tmp_path / "words"
    unregister_corpus("mine")


def test_a_corpus_of_ones_own(
    mine: Path, tmp_path: Path, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    splits = ["--train_splits=[studio]", "--test_splits=[street]"]
    result = run_recipe(SMALL, f"--data_folder={mine}", "--corpus=mine", *splits, *OPTIONS)
    assert result["optimizer_steps"] > 0 and result["test_utterances"] == {"street": 3}
    assert "MAYBE" in (tmp_path / "run" / "save" / "street.csv").read_text()
    with pytest.raises(InputError, match="--corpus=mein: .*did you mean 'mine'"):
        run_recipe(SMALL, "--corpus=mein", f"--output_folder={tmp_path / 'other'}", *OPTIONS)


def test_options_of_ones_own_are_keys_and_flags(
    mine: Path, tmp_path: Path, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "train.py").symlink_to(SMALL.parents[1] / "train.py")
    own = tmp_path / "hparams" / "mine.yaml"
    own.parent.mkdir()
    splits = "train_splits: [studio]\ntest_splits: []\n"
    own.write_text(f"base: {SMALL}\ncorpus: mine\nheld_out: street\n{splits}")
    with pytest.raises(InputError, match="--held_out means nothing to --corpus=librispeech, only"):
        run_recipe(own, "--corpus=librispeech", "--held_out=x", *OPTIONS)
    options = [f"--data_folder={mine}", "--held_out=heldout", "--test_splits=[street]"]
    assert run_recipe(own, *options, *OPTIONS)["test_utterances"] == {"street": 3}
    assert (tmp_path / "run" / "save" / "heldout.csv").is_file()


# ---- tables -------------------------------------------------------------------------------------

RECIPES = ROOT / "recipes"
DATA = Path(os.environ.get("SUMMARYMIXING_SPEECH_DATA", ROOT.parent / "shared" / "data"))
SPEECH = DATA / "speechocean762" / "manifest.csv"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Recordings of two rates, some of two channels, with words and labels."""
    draw, rows = np.random.default_rng(0), ["file,Transcript,scenario,action,part"]
    for number in range(12):
        rate, channels = (16000, 44100)[number % 2], 1 + number % 2
        name = f"{number}.wav"
        soundfile.write(tmp_path / name, 0.1 * draw.standard_normal((rate, channels)), rate)
        part = ("train", "train", "train", "valid", "test")[number % 5]
        rows.append(f"{name},Yes - no!,s{number % 2},a{number % 2},{part}")
    (tmp_path / "words.csv").write_text("\n".join(rows))
    return tmp_path / "words.csv"


def of(table: Path) -> list[str]:
    """Flags; no folder of a corpus."""
    manifests = [f"--{name}={table}" for name in ("train_manifest", "valid_manifest")]
    wheres = [f"--{name}_where=part={name}" for name in ("train", "valid", "test")]
    return ["--corpus=manifest", *manifests, f"--test_manifests={table}", *wheres]


@pytest.fixture
def run_table(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a recipe without --data_folder."""

    def run(yaml: str, *options: str) -> dict[str, Any]:
        hparams = RECIPES / yaml
        folder = f"--output_folder={tmp_path / hparams.parents[1].name}"
        argv = [str(hparams), folder, "--device=cpu", "--noprogressbar", *options]
        return load_script(hparams.parents[1] / "train.py").main(argv)

    return run


TRANSDUCER = ["--predictor_size=8", "--joint_size=12"]


@pytest.mark.parametrize(
    ("yaml", "options"),
    [
        ("LibriSpeech/ASR/CTC/hparams/small_conformer.yaml", []),
        ("LibriSpeech/ASR/transformer/hparams/small_conformer.yaml", ["--num_decoder_layers=1"]),
        ("LibriSpeech/ASR/transducer/hparams/small_conformer.yaml", TRANSDUCER),
        ("LibriSpeech/SSL/BEST-RQ/hparams/small.yaml", ["--avoid_if_shorter_than=0.5"]),
        ("LibriSpeech/SSL/wav2vec2/hparams/small.yaml", []),
        ("SLURP/classification/hparams/small_conformer.yaml", ["--classes=[2, 2]"]),
    ],
)
def test_a_table_trains_every_recipe(
    table: Path, run_table: Callable[..., dict[str, Any]], yaml: str, options: list[str]
) -> None:
    given = [option for option in OPTIONS if "cnn" not in option or "wav2vec2" not in yaml]
    result = run_table(yaml, *of(table), *given, *options)
    assert result["optimizer_steps"] > 0


@pytest.mark.parametrize(
    ("yaml", "options"),
    [
        ("LibriSpeech/SSL/fine-tuning/hparams/small.yaml", ["--head_size=8"]),
        ("MP3S/hparams/cv_welsh_linear.yaml", ["--language=en", "--output_neurons=9"]),
        ("MP3S/hparams/slurp_scenario_linear.yaml", []),
    ],
)
def test_a_table_for_an_encoder(
    table: Path,
    encoder: Path,
    tmp_path: Path,
    run_table: Callable[..., dict[str, Any]],
    yaml: str,
    options: list[str],
) -> None:
    given = ["--corpus=manifest", f"--train_manifest={table}", "--train_where=part=train"]
    given += ["--valid_share=0.2", f"--encoder={encoder}", "--num_buckets=2", "--num_workers=0"]
    result = run_table(yaml, *given, *options, "--debug")
    assert result["optimizer_steps"] > 0 and result["metrics"] == {}
    save = next(tmp_path.glob("*/save"))
    assert (
        len(read_manifest(save / "train.csv")) == 6 and len(read_manifest(save / "valid.csv")) == 2
    )
    assert "nothing is tested" in (save.parent / "log.txt").read_text()


def test_without_tests_and_with_a_share_to_validate_on(
    table: Path, tmp_path: Path, run_table: Callable[..., dict[str, Any]]
) -> None:
    small = "LibriSpeech/ASR/CTC/hparams/small_conformer.yaml"
    given = ["--corpus=manifest", f"--train_manifest={table}", "--valid_share=0.3"]
    result = run_table(small, *given, *OPTIONS)
    assert result["optimizer_steps"] > 0 and result["metrics"] == {}
    again = str(tmp_path / "CTC" / "hyperparams.yaml")
    main = load_script(RECIPES / "LibriSpeech/ASR/CTC/train.py").main
    assert main([again, "--device=cpu", "--noprogressbar", "--debug"])["metrics"] == {}


def test_flags_of_tables_are_told(
    table: Path, run_table: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    small = "LibriSpeech/ASR/CTC/hparams/small_conformer.yaml"
    for options, told in (
        (["--corpus=manifest"], "needs a value for train_manifest: give --train_manifest=VALUE"),
        (of(table)[1:], "--train_manifest means nothing to --corpus=librispeech, only to mani"),
        (
            [*of(table), "--train_splits=[a]"],
            "--train_splits means nothing to --corpus=manifest, only",
        ),
        ([*of(table), "--valid_shar=1"], "did you mean --valid_share"),
        ([*of(table), "--tasks=[a]"], "--tasks is neither a key"),
    ):
        with pytest.raises(InputError, match=f"(?i){told}"):
            run_table(small, *options, *OPTIONS)
    with pytest.raises(SystemExit):
        run_table(small, "--corpus=manifest", "--help")
    assert "--valid_share=0.05" in capsys.readouterr().out


def test_the_readme_names_every_column_and_option() -> None:
    told = (RECIPES / "README.md").read_text(encoding="utf-8")
    section = told[told.index("### As a table") : told.index("### As a function")]
    columns = {f"`{name}`" for names in COLUMNS.values() for name in names}
    options = {f"--{name}" for name in corpus_spec("manifest").options}
    assert not [name for name in columns | options if name not in section]


@pytest.mark.skipif(not SPEECH.is_file(), reason="no recorded speech (SUMMARYMIXING_SPEECH_DATA)")
def test_recorded_speech_from_its_table(
    tmp_path: Path, run_table: Callable[..., dict[str, Any]]
) -> None:
    """Ogg/Opus files, read where they are."""
    given = ["--corpus=manifest", f"--train_manifest={SPEECH}", "--train_where=split=train"]
    given += [f"--test_manifests=test={SPEECH}", "--test_where=[split=test, age=8]"]
    given += ["--training_steps=3", "--warmup_steps=1", "--valid_share=0.01"]
    small = "LibriSpeech/ASR/CTC/hparams/small_conformer.yaml"
    result = run_table(small, *given, *(option for option in OPTIONS if option != "--debug"))
    assert result["optimizer_steps"] == 3 and 0 < result["test_utterances"]["test"] < 400
    assert not list((tmp_path / "CTC").rglob("*.flac"))


# ---- the worked example of recipes/README.md ----------------------------------------------------

DIGITS = DATA / "fsdd"


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[Path]:
    """The README's corpus registered, and a folder in its layout: of recordings, if there are."""
    (code,) = re.findall(
        r"```python\n([^`]*prepare_digits.*?)```", (RECIPES / "README.md").read_text(), re.DOTALL
    )
    unregister_corpus("digits")  # whoever else has run it
    exec(compile(code, "digits.py", "exec"), {})  # noqa: S102
    folder, draw = tmp_path / "digits" / "recordings", np.random.default_rng(0)
    folder.mkdir(parents=True)
    clips = {file.stem: file for file in DIGITS.rglob("*.opus")}
    for speaker in ("jackson", "nicolas", "theo"):
        for digit in range(3):
            name = f"{digit}_{speaker}_7"
            samples_L = 0.1 * draw.standard_normal(8000)
            if name in clips:
                samples_L = soundfile.read(clips[name])[0][::2]
            soundfile.write(folder / f"{name}.wav", samples_L, 8000)
    yield folder.parent
    unregister_corpus("digits")


def test_the_worked_example(
    digits: Path, tmp_path: Path, run_table: Callable[..., dict[str, Any]]
) -> None:
    """Its transcripts train a recogniser, its labels a classifier; its arguments are flags."""
    given = ["--corpus=digits", f"--data_folder={digits}", "--avoid_if_shorter_than=0.1"]
    given += [*OPTIONS, "--test_speaker=jackson"]
    result = run_table("LibriSpeech/ASR/CTC/hparams/small_conformer.yaml", *given)
    assert result["optimizer_steps"] > 0
    rows = read_manifest(tmp_path / "CTC" / "save" / "test.csv")
    assert [(row.wrd, row.spk_id) for row in rows] == [
        ("ZERO", "jackson"),
        ("ONE", "jackson"),
        ("TWO", "jackson"),
    ]
    words = "Google-speech-commands/hparams/small_conformer.yaml"
    assert run_table(words, *given, "--tasks=[word]", "--classes=[3]")["optimizer_steps"] > 0
