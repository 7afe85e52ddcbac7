"""Verification: the equal error rate of a case worked by hand, crops, trials of one kind."""

from __future__ import annotations

import pytest
import torch

from summarymixing_modules.data.corpora.voxceleb import Trial
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.probing.verification import error_rates
from summarymixing_modules.training.data.verification import collate_crops


def trials(same: int, different: int) -> list[Trial]:
    one = [Trial(True, f"a/v/{index}", "a/w/1") for index in range(same)]
    return one + [Trial(False, f"a/v/{index}", "b/v/1") for index in range(different)]


def test_the_equal_error_rate_of_a_case_worked_by_hand() -> None:
    """At 0.55 one of four is refused wrongly (0.3), and one of four accepted wrongly (0.6)."""
    scores = [0.9, 0.8, 0.7, 0.3, 0.6, 0.4, 0.2, 0.1]
    eer, _ = error_rates(trials(4, 4), scores)
    assert eer == pytest.approx(25.0)


def test_scores_that_separate_make_no_error() -> None:
    eer, min_dcf = error_rates(trials(3, 2), [0.9, 0.8, 0.7, 0.2, 0.1])
    assert eer == 0 and min_dcf == pytest.approx(0, abs=1e-6)


def test_trials_of_one_kind_are_told() -> None:
    with pytest.raises(ManifestError, match="3 trials of one speaker and 0 of two"):
        error_rates(trials(3, 0), [0.1, 0.2, 0.3])


def test_crops_are_parts_of_the_recording_and_short_ones_stay_whole() -> None:
    examples = [
        {"id": "long", "sig": torch.arange(1000.0)},
        {"id": "short", "sig": torch.arange(100.0)},
        {"id": "broken", "sig": None},
    ]
    torch.manual_seed(0)
    starts = set()
    for _ in range(5):
        batch = collate_crops(examples, 400)
        samples_BL, share_B = batch.sig
        assert batch.id == ["long", "short"] and samples_BL.shape == (2, 400)
        torch.testing.assert_close(share_B, torch.tensor([1.0, 0.25]))
        torch.testing.assert_close(samples_BL[0].diff(), torch.ones(399))
        starts.add(float(samples_BL[0, 0]))
    assert len(starts) > 1 and max(starts) <= 600
