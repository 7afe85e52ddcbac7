"""load_recipe: every mistake on the command line or in the YAML file has its own clear error."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from summarymixing_modules.training.recipe.config import (
    ConfigError,
    Recipe,
    load_recipe,
    refuse_foreign_mixer_options,
)
from summarymixing_modules.training.recipe.yaml_checks import read_recipe

YAML = """
base: features.yaml
data_folder: !PLACEHOLDER
output_folder: OUTPUT
attention_type: SummaryMixing
d_model: 4
width: !ref <d_model> * 2
layer: !new:torch.nn.Linear
    in_features: !ref <d_model>
    out_features: !ref <width>
modules:
    layer: !ref <layer>
n_mels: !ref <d_model>
__note: !ref <data_folder>
precision: fp32
"""
FEATURES = """
n_mels: 80
rate: 7
bank: !new:torch.nn.Linear
    in_features: !ref <n_mels>
    out_features: !ref <rate>
"""
KNOWN = {"attention_type", "modules", "bank", "output_folder"}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A good YAML file that is based on another."""
    (tmp_path / "features.yaml").write_text(FEATURES)
    file = tmp_path / "model.yaml"
    file.write_text(YAML.replace("OUTPUT", str(tmp_path / "out")))
    return file


def load(file: Path, *options: str) -> Recipe:
    """Load with the one option that is always needed."""
    return load_recipe([str(file), "--data_folder=/data", *options], KNOWN)


def message(file: Path, *options: str) -> str:
    """The error, on one line."""
    with pytest.raises(ConfigError) as error:
        load(file, *options)
    assert not (file.parent / "out").exists(), "nothing is written before all is checked"
    return re.sub(r"\s+", " ", str(error.value))


def edit(file: Path, old: str, new: str) -> Path:
    """Replace a text in a file."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def test_a_good_recipe(recipe: Path) -> None:
    loaded = load(recipe, "--d_model", "6", "--precision=bf16", "--debug", "--device=cpu")
    assert loaded.hparams["layer"].weight.shape == (12, 6)
    assert loaded.hparams["bank"].weight.shape == (7, 6)
    assert loaded.overrides == {"data_folder": "/data", "d_model": "6"}
    assert loaded.hparams_file == recipe
    options = loaded.run_opts
    assert (options.precision, options.debug, options.device) == ("bf16", True, "cpu")
    written = (recipe.parent / "out" / "hyperparams.yaml").read_text()
    assert "d_model: 6" in written and "width: 12" in written
    assert not (recipe.parent / "out" / "config.py").exists()


def test_the_limit_of_steps_is_a_number(recipe: Path) -> None:
    """SpeechBrain leaves it a text, and dies comparing it."""
    assert load(recipe, "--optimizer_step_limit=20").run_opts.optimizer_step_limit == 20
    assert load(recipe).run_opts.optimizer_step_limit is None
    assert load(recipe, "--optimizer_step_limit=1e3").run_opts.optimizer_step_limit == 1000
    none = load(recipe, "--optimizer_step_limit=null").run_opts
    assert none.optimizer_step_limit is None and "optimizer_step_limit" in none.overridden_args


def test_run_options_that_take_no_value_may_have_one(recipe: Path) -> None:
    assert load(recipe, "--debug=True").run_opts.debug
    assert not load(recipe, "--debug=False").run_opts.debug


def test_progress_bars_are_for_terminals(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(recipe).run_opts.noprogressbar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert not load(recipe).run_opts.noprogressbar
    assert load(recipe, "--noprogressbar").run_opts.noprogressbar


def test_no_such_file(recipe: Path) -> None:
    text = message(recipe.with_name("modle.yaml"))
    assert "modle.yaml" in text and "there are: features.yaml, model.yaml" in text
    assert "Did you mean model.yaml?" in text


def test_no_file_at_all() -> None:
    for arguments in ([], ["--device=cpu"]):
        with pytest.raises(ConfigError, match="YAML file first"):
            load_recipe(arguments, KNOWN)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a: [1\nb: 2", ", line 2, is not valid YAML: while parsing a flow sequence"),
        (b"b: 1\na: 1\na: 2", ', line 3, .* found duplicate key "a"'),
        (b"- 1", "holds no"),
        (b"\xff\xfe\x00", "is no text"),
        (b"a: \x00", "is no text"),
    ],
)
def test_a_broken_file(recipe: Path, text: bytes, told: str) -> None:
    recipe.write_bytes(text)
    assert re.search(f"{re.escape(str(recipe))} ?{told}", message(recipe))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<width>", "<widht>", "model.yaml, line 10, refers to <widht>, but .* mean width"),
        ("<d_model> * 2", "<d_modl> * 2", "model.yaml, line 7, refers to <d_modl>"),
        ("layer: !ref <layer>", "layer: !ref <modules[layr]>", "no layr. Did you mean layer"),
        ("nn.Linear", "nn.Linaer", "line 8, names torch.nn.Linaer, .* mean torch.nn.Linear"),
        ("torch.nn.Linear", "turch.Linear", "names turch.Linear, which does not exist"),
        ("in_features", "in_feature", "the argument in_feature, .* mean in_features"),
        ("    in_features: !ref <d_model>\n", "", "does not fit torch.nn.Linear: missing"),
    ],
)
def test_references_and_objects_are_checked(recipe: Path, old: str, new: str, told: str) -> None:
    assert re.search(told, message(edit(recipe, old, new)))


def test_objects_of_a_base_are_checked(recipe: Path) -> None:
    edit(recipe.with_name("features.yaml"), "nn.Linear", "nn.Linaer")
    assert re.search("features.yaml, line 4, names torch.nn.Linaer", message(recipe))


def test_what_a_class_refuses_is_told(recipe: Path) -> None:
    edit(recipe, "modules:", "norm: !new:torch.nn.Dropout\n    p: !ref <d_model>\nmodules:")
    edit(recipe, "layer: !ref <layer>", "layer: !ref <norm>")
    with pytest.raises(ConfigError, match="model.yaml cannot be built so: dropout probability"):
        load_recipe([str(recipe), "--data_folder=/data"], KNOWN | {"layer"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--d_modle=5"],
            "--d_modle is neither a key of the YAML file nor a run option. "
            "Did you mean --d_model or ",
        ),
        (["--precison=bf16"], "Did you mean --precision or --eval_precision?"),
        (["--zzz=1"], "--zzz is neither"),
        (["--d_model=5", "--d_model=6"], "--d_model is given twice"),
        (["--device=cpu", "--device", "cuda"], "--device is given twice"),
        (["--dev=cpu"], "reads --dev as short for --device"),
        (["--d_model"], "--d_model has no value"),
        (["--d_model=", "5"], "--d_model has no value"),
        (["--d_model", "--debug"], "--d_model has no value"),
        (["--d_model=5", "6"], "What is '6' for?"),
        (["--debug=maybe"], "--debug takes no value"),
    ],
)
def test_bad_options(recipe: Path, options: Sequence[str], told: str) -> None:
    assert told in message(recipe, *options)


def test_a_missing_value_names_the_flag(recipe: Path) -> None:
    with pytest.raises(ConfigError, match="give --data_folder=VALUE"):
        load_recipe([str(recipe)], KNOWN)
    edit(recipe, "precision: fp32", "precision:\n  train: !PLACEHOLDER")
    assert "a value for precision[train]: give --precision=VALUE" in message(recipe)


def test_a_key_that_nothing_reads(recipe: Path) -> None:
    edit(recipe, "precision: fp32", "number_of_layers: 3")
    text = message(recipe)
    assert "Nothing reads the key 'number_of_layers'" in text and str(recipe) in text
    with pytest.raises(ConfigError, match="Nothing reads the key 'd_modl'.*mean d_model"):
        load(edit(recipe, "number_of_layers: 3", "d_modl: 3"))


@pytest.mark.parametrize(
    "reader",
    ["other: !ref <number>", "other: !ref <number> * 2", "other:\n  - x: !copy <number[a]>"],
)
def test_all_kinds_of_reading_count(recipe: Path, reader: str) -> None:
    """The key passes; the one that reads it is then the one that nothing reads."""
    edit(recipe, "precision: fp32", f"number: 3\n{reader}")
    name = reader.split(":")[0]
    assert f"Nothing reads the key '{name}'" in message(recipe)


def test_keys_that_code_reads(recipe: Path) -> None:
    edit(recipe, "precision: fp32", "number_of_layers: 3")
    arguments = [str(recipe), "--data_folder=/data"]
    assert load_recipe(arguments, KNOWN | {"number_of_layers"}).hparams["number_of_layers"] == 3


def test_a_base_is_checked_too(recipe: Path) -> None:
    features = edit(recipe.with_name("features.yaml"), "rate: 7", "rate: !PLACEHOLDER")
    assert f"{recipe} needs a value for rate: give --rate=VALUE" in message(recipe)
    edit(features, "rate: !PLACEHOLDER", "rate: 7\nunread: 3")
    assert f"key 'unread' ({features}, line 4)" in message(recipe)


def test_a_base_named_twice_counts_where_it_is_named_last(recipe: Path) -> None:
    """Its value wins, and is told to stand there."""
    recipe.with_name("slow.yaml").write_text("rate: 5\n")
    found = read_recipe(
        edit(recipe, "base: features.yaml", "base: [features.yaml, slow.yaml, features.yaml]")
    )
    assert found.tree["rate"] == 7
    assert found.place("rate") == f"{recipe.with_name('features.yaml')}, line 3,"


def test_an_include_is_told_to_be_a_base(recipe: Path) -> None:
    edit(recipe, "precision: fp32", "more:\n  - !include:features.yaml")
    text = message(recipe)
    assert "model.yaml, line 15, includes a file" in text and "under 'base:' instead" in text


def test_bases_lie_beside_or_in_a_folder_hparams_above(recipe: Path) -> None:
    """The nearest one counts."""
    inner = recipe.parent / "a" / "b"
    inner.mkdir(parents=True)
    recipe = recipe.rename(inner / recipe.name)
    for folder, rate in ((inner.parents[1], 5), (inner.parents[0], 6)):
        (folder / "hparams").mkdir()
        (folder / "hparams" / "features.yaml").write_text(FEATURES.replace("7", str(rate)))
        assert read_recipe(recipe).tree["rate"] == rate
    edit(recipe, "features.yaml", "featurs.yaml")
    with pytest.raises(ConfigError, match="names featurs.yaml, which .* mean features.yaml"):
        read_recipe(recipe)


def test_an_output_folder_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("d_model: 3\n")
    with pytest.raises(ConfigError, match="has no output_folder"):
        load_recipe([str(file)], {"d_model"})


def test_more_processes_than_gpus(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    text = message(recipe)
    assert "1 GPUs" in text and "--distributed_backend=gloo --device=cpu" in text
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--device=cuda would put all processes" in message(recipe, "--device=cuda")


MIXERS = {
    "SummaryMixing": {"mode", "summary_hid_dim"},
    "RoPEMHA": {"nhead"},
    "RelPosMHAXL": {"nhead"},
    "cnnonly": set[str](),
}


def test_options_of_another_mixer_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        refuse_foreign_mixer_options(["d_model", "nhead"], "SummaryMixing", MIXERS)
    text = str(error.value)
    assert "--nhead" in text and "--attention_type=SummaryMixing" in text
    assert "RelPosMHAXL, RoPEMHA" in text
    refuse_foreign_mixer_options({"d_model": "4", "mode": "lite"}, "SummaryMixing", MIXERS)
    refuse_foreign_mixer_options(["nhead"], "RoPEMHA", MIXERS)
    with pytest.raises(ConfigError, match="no mixer RopeMHA.*Did you mean RoPEMHA"):
        refuse_foreign_mixer_options([], "RopeMHA", MIXERS)


@pytest.fixture
def variant(recipe: Path) -> Path:
    """A file that is based on the good one."""
    edit(recipe, "precision: fp32", "precision: fp32\nsizes: [1, 2]\nnote: none\nmore: {}")
    file = recipe.with_name("wide.yaml")
    file.write_text(
        "# wider\nbase: model.yaml\nd_model: 6 # was 4\nsizes: [!ref <d_model>, 7]\n"
        "note: !ref <attention_type>-wide\n"
    )
    return file


VARIANT_KEYS = KNOWN | {"sizes", "note", "more"}


def load_variant(file: Path, *options: str) -> Recipe:
    return load_recipe([str(file), "--data_folder=/data", *options], VARIANT_KEYS)


def test_a_variant_changes_keys_of_its_base(variant: Path) -> None:
    loaded = load_variant(variant)
    assert loaded.hparams["layer"].weight.shape == (12, 6)
    assert loaded.hparams["bank"].in_features == 6
    assert loaded.hparams["sizes"] == [6, 7] and loaded.hparams["note"] == "SummaryMixing-wide"
    assert "base" not in loaded.hparams
    assert loaded.hparams_file == variant and loaded.overrides == {"data_folder": "/data"}
    written = (variant.parent / "out" / "hyperparams.yaml").read_text()
    assert "d_model: 6" in written and "width: 12" in written and "SummaryMixing-wide" in written
    assert "base:" not in written and "!ref" not in written
    assert load_variant(variant.with_name("model.yaml")).hparams["sizes"] == [1, 2]


def test_the_command_line_wins_over_a_variant(variant: Path) -> None:
    loaded = load_variant(variant, "--d_model=8", "--more={a: 1.0e-3}", "--sizes=[9]")
    assert loaded.hparams["layer"].weight.shape == (16, 8)
    assert loaded.hparams["more"] == {"a": 0.001} and loaded.hparams["sizes"] == [9]
    assert loaded.hparams["note"] == "SummaryMixing-wide"


def test_a_variant_in_another_folder(variant: Path) -> None:
    """Bases of a base are looked for beside it."""
    moved = variant.parent / "elsewhere" / "wide.yaml"
    moved.parent.mkdir()
    variant.rename(moved)
    edit(moved, "base: model.yaml", "base: ../model.yaml")
    assert load_variant(moved).hparams["layer"].weight.shape == (12, 6)


def test_later_bases_win_and_blocks_can_be_replaced(variant: Path) -> None:
    narrow = "d_model: 2\nwidth: 1\nlayer: !new:torch.nn.Dropout\n    p: !ref <width>\n"
    variant.with_name("narrow.yaml").write_text(narrow)
    edit(variant, "base: model.yaml", "base: [model.yaml, narrow.yaml]")
    loaded = load_variant(edit(variant, "d_model: 6 # was 4\n", ""))
    assert loaded.hparams["sizes"] == [2, 7]
    assert isinstance(loaded.hparams["modules"]["layer"], torch.nn.Dropout)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("d_model: 6", "d_modl: 6", "Nothing reads the key 'd_modl' .*wide.yaml, line 3.*d_model"),
        ("model.yaml", "modle.yaml", "names modle.yaml, which is neither.*mean model.yaml"),
        ("base: model.yaml", "base: 3", "'base' of .*wide.yaml must name YAML files, not 3"),
        ("base: model.yaml", "base: wide.yaml", "wide.yaml: they are based on each other"),
        ("d_model: 6", "d_model: !PLACEHOLDER", "wide.yaml needs a value for d_model"),
        ("d_model: 6", "d_model: -6", "d_model in .*wide.yaml, line 3, is -6"),
    ],
)
def test_a_bad_variant_is_told(variant: Path, old: str, new: str, told: str) -> None:
    edit(variant, old, new)
    with pytest.raises(ConfigError) as error:
        load_variant(variant)
    assert re.search(told, re.sub(r"\s+", " ", str(error.value)))


def test_an_option_of_a_variant_must_be_a_key_of_its_base(variant: Path) -> None:
    assert "--d_modle is neither" in message(variant, "--d_modle=3")
    assert "--base is neither" in message(variant, "--base=x.yaml")


def test_a_variant_can_demand_a_value(variant: Path) -> None:
    edit(variant, "d_model: 6 # was 4", "d_model: !PLACEHOLDER")
    assert load_variant(variant, "--d_model=5").hparams["layer"].in_features == 5
