"""`summarymixing prepare`, and processes that wait for one of them to prepare a corpus."""

from __future__ import annotations

import multiprocessing
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed

from summarymixing_modules.cli import main
from summarymixing_modules.training.data.manifests import on_main_first
from summarymixing_modules.training.recipe.prepare import import_train

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "recipes"
PATIENCE = 1.0  # seconds that the group of the training waits


def wait_for_main(rank: int, folder: Path) -> None:
    """A rank of two, whose main process takes longer than the group of the training waits."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=PATIENCE),
    )

    def work() -> None:
        time.sleep(2 * PATIENCE)
        (folder / "prepared").touch()

    on_main_first(work)
    assert (folder / "prepared").exists()
    distributed.barrier()
    distributed.destroy_process_group()


def test_preparation_may_take_longer_than_the_groups_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    ranks = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))  # where SpeechBrain looks
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        ranks.append(context.Process(target=wait_for_main, args=(rank, tmp_path)))
        ranks[-1].start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]


@pytest.mark.parametrize("train", sorted(RECIPES.rglob("train.py")), ids=lambda p: p.parent.name)
def test_every_recipe_that_hears_speech_can_be_prepared(train: Path) -> None:
    text = train.read_text()
    hears = train.parent.name != "LM"
    assert ("data = load_data(" in text) == hears
    assert hasattr(import_train(train.parent / "hparams" / "x.yaml"), "load_data") == hears


def test_what_cannot_be_prepared_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned, lm = (next((RECIPES / "LibriSpeech").glob(f"{n}/hparams")) for n in ("SSL/fine-*", "LM"))
    text = next(lm.glob("*.yaml"))
    folder = f"--output_folder={tmp_path}"
    for command, told in (
        ([tuned / "base.yaml", folder], "--data_folder has no value"),
        ([tuned / "base.yaml", "--data_folder=x"], "--output_folder has no value"),
        ([tuned / "base.yaml", "--data_foldr=x"], "Did you mean --data_folder"),
        ([text, folder], "has no function load_data"),
        ([tmp_path / "x.yaml"], "is no YAML file of a recipe"),
    ):
        assert main(["prepare", *map(str, command)]) == 1
        assert told in capsys.readouterr().err
