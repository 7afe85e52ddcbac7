"""Classification: the loss, accuracies, predictions on disk, confusion matrices."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from speechbrain import Stage
from torch.nn.functional import cross_entropy

from summarymixing_modules.data.labels import UNSEEN, Labels
from summarymixing_modules.training.class_loss import class_loss
from summarymixing_modules.training.scores.classes import ClassScore
from summarymixing_modules.training.scores.confusion import MAX_PICTURE, Confusion
from tests.ranks import load_script

LABELS = Labels({"scenario": ["alarm", "qa"], "action": ["maths", "query", "set"]})
RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "SLURP" / "classification"


def scores_of(*classes: int, total: int) -> torch.Tensor:
    """Log-probabilities (B, N) with nearly all on one class each."""
    return (10.0 * torch.nn.functional.one_hot(torch.tensor(classes), total)).log_softmax(-1)


ANNOTATIONS: dict[str, dict[str, Any]] = {
    "u1": {"scenario": "alarm", "action": "set"},
    "u2": {"scenario": "qa", "action": "maths"},
    "u3": {"scenario": "qa", "action": "stock"},
}


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
    torch.testing.assert_close(class_loss(scores, targets_BK), expected)
    smoothed = cross_entropy(scores[0], targets_BK[:, 0], label_smoothing=0.1)
    torch.testing.assert_close(class_loss(scores[:1], targets_BK[:, :1], 0.1), smoothed)


def test_a_batch_of_unseen_classes_has_no_loss_and_no_gradient() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    loss = class_loss([scores.log_softmax(-1)], torch.full((2, 1), UNSEEN))
    loss.backward()
    assert loss == 0 and scores.grad is not None and scores.grad.abs().sum() == 0


def test_smoothing_is_for_training_only() -> None:
    objectives = load_script(RECIPE / "train.py").ClassificationBrain.compute_objectives
    scores = {"classes": ClassScore(LABELS, ANNOTATIONS)}
    brain = SimpleNamespace(hparams=SimpleNamespace(label_smoothing=0.2), scores=scores)
    predictions = [scores_of(0, 1, 1, total=2), scores_of(2, 0, 0, total=3)]
    losses = [objectives(brain, predictions, batch(), stage) for stage in (Stage.TEST, Stage.TRAIN)]
    assert losses[0] < 0.01 < losses[1]


def evaluated(annotations: dict[str, dict[str, Any]], joint: str | None = None) -> ClassScore:
    """Right: u1 wholly, u2 in its action, u3 in its scenario."""
    score, found = ClassScore(LABELS, annotations, joint), batch()
    predictions = [scores_of(0, 0, 1, total=2), scores_of(2, 0, 1, total=3)]
    score.append(found.id, found.wav, predictions, found.targets.data)
    return score


def test_accuracies_and_unseen_classes_count_as_errors() -> None:
    stats = evaluated(ANNOTATIONS, "intent").summarise()
    third = pytest.approx(100 / 3)
    assert stats == {
        "ACC": third,
        "scenario_acc": pytest.approx(200 / 3),
        "action_acc": pytest.approx(200 / 3),
        "intent_acc": third,
    }
    assert "intent_acc" not in evaluated(ANNOTATIONS).summarise()


def test_predictions_are_rewritten_never_appended(tmp_path: Path) -> None:
    """Those of a corpus with entities have an empty list of them, for its own script."""
    with_entities = {name: {**said, "entities": ["x"]} for name, said in ANNOTATIONS.items()}
    for _ in range(2):
        evaluated(with_entities).write("test", tmp_path, single=True)
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
    evaluated(ANNOTATIONS).write("devel", tmp_path, single=False)
    assert (tmp_path / "predictions_devel.jsonl").is_file()
    assert (tmp_path / "confusion_scenario_devel.png").is_file()


def test_too_many_classes_make_no_picture(tmp_path: Path) -> None:
    names = [f"c{index}" for index in range(MAX_PICTURE + 1)]
    confusion = Confusion.of(names, [("c0", "c1")])
    assert not confusion.write_png(tmp_path / "x.png", "x") and not list(tmp_path.iterdir())
    few = Confusion.of(names[:-1], [("c0", "c1")])
    assert few.write_png(tmp_path / "x.png", "x") and (tmp_path / "x.png").is_file()
