"""Classification: the loss, accuracies, predictions on disk, confusion matrices."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import speechbrain as sb
import torch
from matplotlib.image import imread
from torch.nn.functional import cross_entropy

from summarymixing_modules.data.labels import UNSEEN, Labels
from summarymixing_modules.training.classification import ClassificationBrain, task_loss
from summarymixing_modules.training.scores.confusion import MAX_PICTURE, Confusion

LABELS = Labels({"scenario": ["alarm", "qa"], "action": ["maths", "query", "set"]})
TEST, TRAIN = sb.Stage.TEST, sb.Stage.TRAIN


def scores_of(*classes: int, total: int) -> torch.Tensor:
    """Log-probabilities (B, N) with nearly all on one class each."""
    return (10.0 * torch.nn.functional.one_hot(torch.tensor(classes), total)).log_softmax(-1)


def make(folder: Path, **hparams: Any) -> ClassificationBrain:
    brain = ClassificationBrain(
        {"model": torch.nn.Linear(1, 1)},
        hparams={"output_folder": folder, **hparams},
        run_opts={"device": "cpu", "noprogressbar": True},
    )
    brain.labels = LABELS
    brain.annotations = {
        "u1": {"scenario": "alarm", "action": "set"},
        "u2": {"scenario": "qa", "action": "maths"},
        "u3": {"scenario": "qa", "action": "stock"},
    }
    return brain


def batch() -> SimpleNamespace:
    targets = torch.tensor([[0, 2], [1, 0], [1, UNSEEN]])
    names = ["u1", "u2", "u3"]
    files = [f"/audio/{name}.flac" for name in names]
    return SimpleNamespace(id=names, wav=files, targets=SimpleNamespace(data=targets))


def test_loss_is_the_sum_over_tasks_of_means_without_unseen_classes() -> None:
    torch.manual_seed(0)
    scores = [torch.randn(3, 2).log_softmax(-1), torch.randn(3, 3).log_softmax(-1)]
    targets_BK = batch().targets.data
    expected = cross_entropy(scores[0], targets_BK[:, 0])
    expected = expected + cross_entropy(scores[1][:2], targets_BK[:2, 1])
    torch.testing.assert_close(task_loss(scores, targets_BK), expected)
    smoothed = cross_entropy(scores[0], targets_BK[:, 0], label_smoothing=0.1)
    torch.testing.assert_close(task_loss(scores[:1], targets_BK[:, :1], 0.1), smoothed)


def test_a_batch_of_unseen_classes_has_no_loss_and_no_gradient() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    loss = task_loss([scores.log_softmax(-1)], torch.full((2, 1), UNSEEN))
    loss.backward()
    assert loss == 0 and scores.grad is not None and scores.grad.abs().sum() == 0


def test_smoothing_is_for_training_only(tmp_path: Path) -> None:
    brain = make(tmp_path, label_smoothing=0.2)
    brain.on_stage_start(TEST)
    scores = [scores_of(0, 1, 1, total=2), scores_of(2, 0, 0, total=3)]
    train = brain.compute_objectives(scores, batch(), TRAIN)
    assert brain.compute_objectives(scores, batch(), TEST) < 0.01 < train


def evaluated(brain: ClassificationBrain) -> dict[str, float]:
    """Right: u1 wholly, u2 in its action, u3 in its scenario."""
    brain.on_stage_start(TEST)
    scores = [scores_of(0, 0, 1, total=2), scores_of(2, 0, 1, total=3)]
    brain.compute_objectives(scores, batch(), TEST)
    brain.on_stage_end(TEST, 0.5)
    return brain.test_stats


def test_accuracies_and_unseen_classes_count_as_errors(tmp_path: Path) -> None:
    stats = evaluated(make(tmp_path, joint="intent"))
    third = pytest.approx(100 / 3)
    assert stats == {
        "loss": 0.5,
        "ACC": third,
        "scenario_acc": pytest.approx(200 / 3),
        "action_acc": pytest.approx(200 / 3),
        "intent_acc": third,
    }
    assert "intent_acc" not in evaluated(make(tmp_path))


def test_predictions_are_rewritten_never_appended(tmp_path: Path) -> None:
    brain = make(tmp_path)
    brain.extra_fields = {"entities": []}
    for _ in range(2):
        evaluated(brain)
        brain.write_details("test", tmp_path, single=True)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["u1.flac", "u2.flac", "u3.flac"]
    assert json.loads(lines[2]) == {
        "id": "u3",
        "file": "u3.flac",
        "scenario": "qa",
        "action": "query",
        "entities": [],
        "reference": {"scenario": "qa", "action": "stock"},
    }
    with (tmp_path / "confusion_action.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["true \\ predicted", "maths", "query", "set"],
        ["maths", "1", "0", "0"],
        ["query", "0", "0", "0"],
        ["set", "0", "0", "1"],
        ["stock", "0", "1", "0"],
    ]
    assert imread(tmp_path / "confusion_action.png").std() > 0.1


def test_several_test_sets_have_their_own_files(tmp_path: Path) -> None:
    brain = make(tmp_path)
    evaluated(brain)
    brain.write_details("devel", tmp_path, single=False)
    assert (tmp_path / "predictions_devel.jsonl").is_file()
    assert (tmp_path / "confusion_scenario_devel.png").is_file()


def test_too_many_classes_make_no_picture(tmp_path: Path) -> None:
    names = [f"c{index}" for index in range(MAX_PICTURE + 1)]
    confusion = Confusion.of(names, [("c0", "c1")])
    assert not confusion.write_png(tmp_path / "x.png", "x") and not list(tmp_path.iterdir())
    few = Confusion.of(names[:-1], [("c0", "c1")])
    assert few.write_png(tmp_path / "x.png", "x") and (tmp_path / "x.png").is_file()
