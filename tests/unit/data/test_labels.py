"""Names and numbers of classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from summarymixing_modules.data.labels import UNSEEN, Labels, add_targets, report_unseen
from summarymixing_modules.data.manifest import ManifestError

TRAIN = [
    {"scenario": "qa", "action": "maths", "entities": []},
    {"scenario": "alarm", "action": "set", "entities": []},
    {"scenario": "alarm", "action": "query", "entities": []},
]
LABELS = Labels.of(TRAIN, ["scenario", "action"])


def test_numbers_are_in_alphabetical_order() -> None:
    assert LABELS.names == {"scenario": ["alarm", "qa"], "action": ["maths", "query", "set"]}
    assert [LABELS.targets(record) for record in TRAIN] == [[1, 0], [0, 2], [0, 1]]
    LABELS.check_sizes([2, 3])


def test_wrong_numbers_of_classes_are_told_with_the_right_ones() -> None:
    for classes in ([2], [3, 2], []):
        with pytest.raises(ManifestError, match=r"2 of scenario, 3 of action: set it to \[2, 3\]"):
            LABELS.check_sizes(classes)


def test_a_task_without_labels() -> None:
    with pytest.raises(ManifestError, match="no labels for 'intent', only for scenario, action"):
        Labels.of(TRAIN, ["intent"])


def test_classes_that_training_does_not_have(caplog: pytest.LogCaptureFixture) -> None:
    heard = [*TRAIN, {"scenario": "qa", "action": "stock"}, {"scenario": "qa", "action": "stock"}]
    assert LABELS.targets(heard[-1]) == [1, UNSEEN]
    unseen = LABELS.unseen(heard)
    assert unseen == {"action": {"stock": 2}} and LABELS.unseen(TRAIN) == {}
    report_unseen("test", unseen)
    assert "test: 2 utterances have a class of action" in caplog.text and "stock (2)" in caplog.text


def test_targets_of_a_dataset(tmp_path: Path) -> None:
    data = DynamicItemDataset({"u": {"wav": "u.wav", "duration": 1.0, "sig": torch.zeros(3)}})
    add_targets(data, {"u": TRAIN[1]}, LABELS)
    assert data[0]["targets"].tolist() == [0, 2] and data[0]["wav"] == "u.wav"
    LABELS.save(tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text()) == LABELS.names
