"""The output folder of a run: names that cannot be one, the record in it, and the flags' help."""

from __future__ import annotations

import platform
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.recipe.config import Recipe, load_recipe
from summarymixing_modules.training.run.run_lock import FolderInUseError, FolderLock

YAML = """\
# A model of one layer.
#
#   python train.py small.yaml --breadth=3

output_folder: FOLDER

# What people change
breadth: 2 # of the layer
wide: !ref <breadth> * 2
motto: !PLACEHOLDER # of the run
layer: !new:torch.nn.Linear
    in_features: !ref <breadth>
    out_features: !ref <wide>
log: !ref <output_folder>/log
"""
KEYS = {"motto", "layer", "log", "output_folder"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe's file."""
    path = tmp_path / "small.yaml"
    path.write_text(YAML.replace("FOLDER", str(tmp_path / "run")))
    return path


def load(file: Path, *flags: str) -> Recipe:
    return load_recipe([str(file), *flags], KEYS)


def refusal(file: Path, *flags: str) -> str:
    with pytest.raises(InputError) as error:
        load(file, *flags)
    return str(error.value)


def test_a_hash_in_a_value_is_no_comment(file: Path) -> None:
    folder = file.parent / "run #2"
    recipe = load(file, f"--output_folder={folder}", "--motto=# one")
    assert folder.is_dir() and not (file.parent / "run").exists()
    assert recipe.hparams["log"] == f"{folder}/log" and recipe.hparams["motto"] == "# one"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("null", "--output_folder"),
        ("", "--output_folder"),
        ("FILE", "small.yaml is a file; give a folder"),
        ("FILE/run", "small.yaml is a file; give a folder"),
        ("/proc/run", "cannot be written in"),
    ],
)
def test_what_cannot_be_an_output_folder(file: Path, value: str, told: str) -> None:
    before = sorted(file.parent.iterdir())
    value = value.replace("FILE", str(file))
    assert told in refusal(file, "--motto=x", f"--output_folder={value}")
    assert sorted(file.parent.iterdir()) == before


def test_the_packages_of_this_process_are_listed(file: Path) -> None:
    """And not those of whatever pip is found first."""
    load(file, "--motto=x")
    lines = (file.parent / "run" / "env.log").read_text().splitlines()
    assert f"torch=={version('torch')}" in lines and f"pytest=={version('pytest')}" in lines
    assert lines[0].startswith(f"Python {platform.python_version()}")


def test_a_number_is_a_name_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    load(file, "--motto=x", "--output_folder=007")
    assert (file.parent / "007" / "hyperparams.yaml").exists()
    file.write_text(YAML.replace("FOLDER", "7"))
    assert "--output_folder=7 is no name of a folder" in refusal(file, "--motto=x")


def test_an_output_folder_that_may_not_be_written_in(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser, whom tests may run as, may write anywhere."""
    monkeypatch.setattr("os.access", lambda *arguments: False)
    assert f"you may not write in {file.parent}" in refusal(file, "--motto=x")


def test_the_folder_is_locked_while_the_recipe_is_there(file: Path) -> None:
    recipe = load(file, "--motto=x")
    assert recipe.lock is not None and FolderLock(file.parent / "run").acquire() is False
    del recipe
    other = FolderLock(file.parent / "run")
    assert other.acquire()
    record = file.parent / "run" / "hyperparams.yaml"
    before = record.read_text()
    with pytest.raises(FolderInUseError):
        load(file, "--motto=y")
    assert record.read_text() == before


def test_an_evaluation_keeps_the_record_of_the_training(file: Path) -> None:
    load(file, "--motto=x")
    record = file.parent / "run" / "hyperparams.yaml"
    before = record.read_text()
    load(file, "--motto=y", "--breadth=5", "--test_only")
    assert record.read_text() == before
    load(file, "--motto=y", f"--output_folder={file.parent / 'other'}", "--test_only")
    assert "motto: y" in (file.parent / "other" / "hyperparams.yaml").read_text()


def test_a_record_runs_again_as_it_is(file: Path) -> None:
    first = load(file, "--breadth=3", "--motto=a b")
    record = file.parent / "run" / "hyperparams.yaml"
    text = record.read_text()
    again = load(record, "--device=cpu")
    for recipe in (first, again):
        assert recipe.hparams["layer"].weight.shape == (6, 3) and recipe.hparams["wide"] == 6
        assert recipe.overrides == first.overrides and set(first.overrides) == {"breadth", "motto"}
    assert "breadth: 3" in text and "!ref" not in text
    assert record.read_text() == text


def test_a_record_takes_no_flags(file: Path) -> None:
    """They would not reach what is computed from them; the message has the command that does."""
    load(file, "--breadth=3", "--motto=a b", f"--output_folder={file.parent}/run #2")
    record = file.parent / "run #2" / "hyperparams.yaml"
    text = refusal(record, "--breadth=4")
    command = shlex.split(text.partition("all flags: ")[2])
    assert command[0] == "python" and command[2] == str(file)
    again = load(Path(command[2]), *command[3:]).hparams
    assert again["layer"].weight.shape == (8, 4) and again["motto"] == "a b"
    assert again["output_folder"] == f"{file.parent}/run #2"


def test_a_record_elsewhere_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run that was moved, or a folder relative to another, would begin anew."""
    monkeypatch.chdir(file.parent)
    load(file, "--motto=x", "--output_folder=there")
    monkeypatch.chdir("/")
    text = refusal(file.parent / "there" / "hyperparams.yaml")
    assert "in there, which is not where it lies" in text and f"{file} " in text


def test_help_lists_the_flags(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variant = file.with_name("wide.yaml")
    variant.write_text("# A wider one.\nbase: small.yaml\nbreadth: 9\n")
    for recipe, head, breadth in ((file, "A model of one layer.", 2), (variant, "A wider one.", 9)):
        with pytest.raises(SystemExit) as ended:
            load(recipe, "--help")
        assert not ended.value.code
        text = capsys.readouterr().out
        assert text.startswith(head)
        assert re.search(rf"\n  --breadth={breadth} +of the layer\n", text)
        assert re.search(r"\n  --wide=<breadth> \* 2\n  --motto=\(needed\) +of the run\n", text)
        assert "\n\nWhat people change\n  --" in text and text.count("  --breadth") == 1
        assert ("\n\nFrom small.yaml:\n" in text) == (recipe == variant)
        assert "--layer" not in text
        assert re.search(r"\n  --resume_with_changes=False +True: go on", text)
        assert re.search(r"\n  --precision=fp32 +Floating-point", text)
        assert re.search(r"\n  --test_only +Run the experiment", text)
