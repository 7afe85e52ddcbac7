"""Tables as files: what they hold, what is wrong with them, and that no recipe is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from summarymixing_modules.mixers import mixer_names
from summarymixing_modules.tables import read
from summarymixing_modules.tables.flags import as_arguments, as_text
from summarymixing_modules.tables.read import RECIPES, load_table, table_names
from summarymixing_modules.tables.schema import TableError

#: Recipes that no table runs, and why.
WITHOUT_ROW: dict[str, str] = {}


@pytest.mark.parametrize("name", table_names())
def test_tables_of_the_package_are_sound(name: str) -> None:
    """Loading checks every recipe and flag."""
    table = load_table(name)
    assert table.rows and table.columns
    assert table.source or not any(row.published for row in table.rows)
    used = {name for _, stage in table.stages() for name in stage.placeholders}
    assert set(table.corpora) <= used, "a corpus that no stage reads"


def test_every_recipe_is_in_a_table_and_every_row_has_its_recipe() -> None:
    there = {path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("hparams/*.yaml")}
    tables = [load_table(name) for name in table_names()]
    stages = [stage for table in tables for _, stage in table.stages()]
    used = {s.recipe.relative_to(RECIPES).as_posix() for s in stages if s.recipe is not None}
    assert used <= there
    assert there - used == set(WITHOUT_ROW)


def test_published_figures_are_those_of_the_papers() -> None:
    figures = {row.name: row.published for row in load_table("summarymixing").rows}
    assert figures["branchformer/SummaryMixing"]["test-other"] == 5.1
    assert figures["conformer/self-attention"]["memory"] == 46
    matrix = {row.name: row.published for row in load_table("streaming").rows}["RelPosMHAXL"]
    assert matrix["chunks of 32, 32 to the left"] == 3.09
    assert matrix["chunks of 8, 2 to the left"] == 4.38
    assert matrix["chunks of 12, 4 to the left"] == 3.51
    assert matrix["test-other, full context"] == 6.47
    talks = {row.name: row.published for row in load_table("talks").rows}
    assert talks["tedlium2/self-attention"] == {"TED-LIUM 2, test": 8.11}
    assert talks["voxpopuli/self-attention"]["VoxPopuli test, chunks of 8, 32 to the left"] == 12.37
    assert not talks["tedlium2/SummaryMixing"] and not talks["voxpopuli/SummaryMixing-fast-256"]
    cost = {row.name: row.published for row in load_table("cost").rows}
    assert cost["RelPosMHAXL"]["memory, 99 s"] == 51.5
    assert cost["SummaryMixing"]["decoding, 60 s"] == 3.84
    assert "memory, 80 s" not in cost["SummaryMixing"]


def test_the_mini_table_takes_its_mixers_from_the_registry() -> None:
    rows = {row.name: row for row in load_table("mini").rows}
    for mixer in mixer_names():
        assert rows[f"asr/{mixer}"].stages[0].flags["attention_type"] == mixer
        assert [stage.name for stage in rows[f"best-rq/{mixer}"].stages] == [
            "pretrain",
            "fine_tuned",
            "scratch",
        ]


def test_loops_and_order(fake_table: Path) -> None:
    table = load_table(str(fake_table))
    assert [row.name for row in table.rows][2:4] == ["far/6", "far/7"]
    swapped = fake_table.read_text().replace(
        "      train: {<<: *train, flags: {<<: *flags, fail: True}}\n", ""
    )
    swapped = swapped.replace('start: "{train}"}\n', 'start: "{train}"}\n      train: *train\n', 1)
    fake_table.write_text(swapped)
    (bad,) = [row for row in load_table(str(fake_table)).rows if row.name == "bad"]
    assert [stage.name for stage in bad.stages] == ["train", "after"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "there is no such key 'titel'. Did you mean title"),
        ("title: A table of fakes", "", "needs the key 'title'"),
        ("rows:", "rows: [", "is not valid YAML"),
        ("hparams/fake.yaml, processes", "hparams/fak.yaml, processes", "Did you mean fake.yaml"),
        ("./fake/hparams/fake.yaml, flags", "nowhere/hparams/x.yaml, flags", "there is no recipe"),
        ("wer: 5.1", "weer: 5.1", "fakes.yaml, good, stage 'train': --weer .* Did you mean --wer"),
        ("wer: 5.1", "output_folder: x", "leave output_folder out"),
        ('data_folder: "{more}"', "wer: 2", "needs a value for 'data_folder'"),
        ('start: "{train}"', 'start: "{trian}"', "refers to {trian}.* Did you mean train"),
        ('start: "{train}"', 'start: "{after}"', "the stages after wait for each other"),
        ("size: 2.5", "sise: 2.5", "no column 'sise'. Did you mean size"),
        ("[5.0, null, null]", "[5.0]", "1 published figures for 3 columns"),
        ("{test-clean: 4.0}", "{test-clean: four}", "'four' is no figure"),
        ("tolerance: 0.2", "tolerance: little", "the tolerance is 'little'"),
        ("stage: train, metric: gpu", "stage: trains, metric: gpu", "no row has a stage 'trains'"),
        ("metric: gpu_hours,", "metric: gpu_hours, relative_to: them,", "there is no row 'them'"),
        ("{wer: [6, 7]}", "{wer: 6}", "for_each 'wer' must be a list or 'registered mixers'"),
        ("far/{wer}:", "far:", "there are two 'far'"),
        ("  theirs:", "  ../theirs:", "a row's name becomes a folder"),
        ("processes: 4", "processes: many", "processes is 'many'"),
        ("    published: {test-clean: 4.0}\n", "", "neither stages nor published figures"),
    ],
)
def test_bad_tables_are_told(old: str, new: str, message: str, fake_table: Path) -> None:
    text = fake_table.read_text()
    assert old in text
    fake_table.write_text(text.replace(old, new))
    with pytest.raises(TableError, match=f"(?s){message}") as caught:
        load_table(str(fake_table))
    assert "fakes.yaml" in str(caught.value)


def test_unknown_tables_and_packages_without_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TableError, match="no table 'minni'.* Did you mean mini"):
        load_table("minni")
    monkeypatch.setattr(read, "RECIPES", tmp_path / "recipes")
    with pytest.raises(TableError, match="clone the repository"):
        load_table("mini")


def test_flags_as_text() -> None:
    flags = {
        "a": None,
        "b": True,
        "words": ["yes", "no", 1.5],
        "o": {"x": False},
        "test_only": True,
    }
    assert as_arguments(flags) == [
        "--a=null",
        "--b=True",
        '--words=["yes", "no", 1.5]',
        '--o={"x": false}',
        "--test_only",
    ]
    assert as_text(0.0003) == "0.0003"
    assert as_arguments({"test_only": False}) == []
