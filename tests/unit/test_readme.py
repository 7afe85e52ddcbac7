"""What READMEs say can be done: their Python runs; commands, files and flags are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import soundfile
import torch

from summarymixing_modules import cli
from summarymixing_modules.bundles.export import write_bundle
from summarymixing_modules.bundles.kinds import encoder_part
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.data.corpora import corpus_names, corpus_spec
from summarymixing_modules.mixers import build_mixer, mixer_names, unregister_mixer
from summarymixing_modules.mixers.registry import MixerSize
from summarymixing_modules.models.describe import describe
from summarymixing_modules.tables.commands import LOCAL, Launch, stage_flags
from summarymixing_modules.tables.flags import parse_extra, recipe_of
from summarymixing_modules.tables.plan import select_rows
from summarymixing_modules.tables.read import load_table
from summarymixing_modules.training.recipe.corpus_keys import with_corpus
from summarymixing_modules.training.recipe.options import RUN_OPTIONS, read_flags
from tests.unit.bundles.conftest import tiny_content
from tests.unit.inference.test_classifier import content as classifier_content
from tests.unit.inference.test_recognizer import make_bundle

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("recipes/**/README.md"))]
BLOCK = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)
FLAG = re.compile(r"--[a-z][a-z_-]*(?![\w*-])")
#: Flags of programs of others.
FOREIGN = {"--help", "--no-index", "--no-deps", "--no-build-isolation"}
#: Flags that a reader makes, with the code that stands beside them.
OWN = {"--entropy_weight"}
#: What reads flags besides recipes.
READERS = [
    Path(cli.__file__),
    *ROOT.glob("recipes/**/*.py"),
    *ROOT.glob("summarymixing_modules/bench/*.py"),
    *ROOT.glob("summarymixing_modules/tables/arguments.py"),
    *ROOT.glob("summarymixing_modules/data/shards/flags.py"),
]
#: Names that stand for a file or folder of the reader's.
ANY_YAML = ("hparams/x.yaml", "results/x/hyperparams.yaml")
ANY_RESULTS = ("x", "demo", "my_encoder", "another")


def python_of(file: Path) -> list[str]:
    """The Python of a README, without lines from the inside of a function."""
    return re.findall(r"```python\n(?! )(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)


def commands(file: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder in which each command of a README is given, and its words."""
    for block in BLOCK.findall(file.read_text(encoding="utf-8")):
        folder = file.parent
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[0] == "cd":
                folder = (folder / words[1]).resolve()
                assert folder.is_dir(), f"{file}: there is no folder {words[1]}"
            else:
                yield folder, words


def check_train(folder: Path, words: list[str]) -> None:
    """The YAML file is there, and has the flags."""
    at = next(index for index, word in enumerate(words) if word.endswith("train.py"))
    yaml, *flags = (word for word in words[at + 1 :] if word != "...")
    if yaml not in ANY_YAML:
        assert (folder / words[at]).is_file() and (folder / yaml).is_file()
        read_flags(flags, with_corpus(recipe_of(folder / yaml), flags).tree)
    for word in words:
        if not word.startswith("--output_folder"):
            check_results(folder, word.rpartition("=")[2])


def check_results(folder: Path, path: str) -> None:
    """Results of a recipe lie where one of its YAML files puts them."""
    recipe, results, name = path.partition("results/")
    if results and name.partition("/")[0] not in ANY_RESULTS:
        yamls = [*(folder / recipe).glob("hparams/*.yaml")]
        made = {default_results(yaml) for yaml in yamls}
        assert any(f"results/{name}/".startswith(f"{there}/") for there in made), (path, made)


@cache
def default_results(yaml: Path) -> str:
    """A recipe's output_folder, with the values of the keys that it refers to."""
    keys = recipe_of(yaml).tree
    return re.sub(r"<(\w+)>", lambda found: str(keys[found[1]]), str(keys["output_folder"]))


def check_summarymixing(folder: Path, words: list[str]) -> None:
    """The command line reads it; YAML files, tables, their rows and flags are there."""
    arguments = cli.parse(words[1:])
    if words[1] == "plan":
        assert (folder / arguments.recipe).is_file()
    if words[1] == "export":
        check_results(folder, arguments.run_folder)
    if words[1:3] == ["tables", "run"]:
        table = load_table(arguments.table)
        given = [entry.partition("=")[0] for entry in arguments.data]
        assert {*given} <= {*table.corpora}
        rows, _ = select_rows(table, arguments.rows, table.corpora)
        launch = Launch(LOCAL, extra=parse_extra(arguments.extra))
        for stage in (stage for row in rows for stage in row.stages):
            stage_flags(stage, launch)


def check_python(folder: Path, words: list[str]) -> None:
    """The script or module is there."""
    if words[1] == "-m" and words[2] != "pip":
        assert importlib.util.find_spec(words[2]) is not None
    elif words[1].endswith("train.py"):
        check_train(folder, words)
    elif words[1] != "-m":
        assert (folder / words[1]).is_file()


def check_make(folder: Path, words: list[str]) -> None:
    """The target is there."""
    assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()


CHECKS: dict[str, Callable[[Path, list[str]], None]] = {
    "torchrun": check_train,
    "summarymixing": check_summarymixing,
    "python": check_python,
    "make": check_make,
}


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_are_what_they_say(file: Path) -> None:
    for folder, words in commands(file):
        if words[0] in CHECKS:
            CHECKS[words[0]](folder, words)


def test_every_flag_is_known_to_something() -> None:
    known = FOREIGN | OWN | {f"--{name}" for name in RUN_OPTIONS}
    known |= {f"--{option}" for name in corpus_names() for option in corpus_spec(name).options}
    for yaml in ROOT.glob("recipes/**/hparams/*.yaml"):
        known |= {f"--{key}" for key in recipe_of(yaml).tree}
    for reader in READERS:
        known |= set(FLAG.findall(reader.read_text()))
    for file in READMES:
        code = " ".join(re.findall(r"`([^`\n]+)`", file.read_text()))
        assert set(FLAG.findall(code)) <= known, f"{file}: {set(FLAG.findall(code)) - known}"


def streaming_content() -> RunContent:
    """What a run of a tiny streaming transducer would give."""
    bundle, tiny = make_bundle("transducer", "global"), tiny_content()
    config = tiny.config | {"streaming": True, "model": describe(bundle.model)}
    config["features"] = {**config["features"], "class": "LocalFbank"}
    statistics = {n: t for n, t in tiny.tensors.items() if n.startswith("normalize.")}
    weights = {f"model.{name}": tensor for name, tensor in bundle.model.state_dict().items()}
    return replace(tiny, config=config, tensors=statistics | weights)


def encoder_content() -> RunContent:
    """What a run of pre-training would give."""
    tiny = tiny_content()
    config, tensors = encoder_part(tiny.config, tiny.tensors)
    return RunContent(config | {"trained_as": "BestRQModel"}, tensors, None, {})


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the snippets read: tiny bundles, and audio of a second."""
    folder = tmp_path_factory.mktemp("readme")
    write_bundle(streaming_content(), folder / "my-model")
    write_bundle(encoder_content(), folder / "my-encoder")
    write_bundle(classifier_content(), folder / "my-classifier")
    for name in ("talk.mp3", "talk.wav", "yes.wav", "no.wav", "speech.wav"):
        soundfile.write(folder / name, (torch.randn(16000) / 10).numpy(), 16000)
    return folder


PYTHON = [(file, block) for file in READMES for block in python_of(file)]


@pytest.mark.parametrize(
    ("file", "block"), PYTHON, ids=[block.splitlines()[-1].strip()[:40] for _, block in PYTHON]
)
def test_python_runs_as_it_stands(
    file: Path, block: str, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(things)
    known = set(mixer_names())
    try:
        exec(compile(block, str(file), "exec"), {"__name__": "readme"})
        for name in set(mixer_names()) - known:
            assert build_mixer(name, MixerSize(16)).enc_dim == 16
    finally:
        for name in set(mixer_names()) - known:
            unregister_mixer(name)


def test_cards_of_bundles_run_as_they_stand(things: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(things)
    cards = sorted(things.glob("*/README.md"))
    assert len(cards) == 3
    for card in cards:
        for _, words in commands(card):
            if words[0] == "summarymixing":
                cli.parse(words[1:])
        for block in python_of(card):
            exec(compile(block, str(card), "exec"), {"__name__": "card"})
