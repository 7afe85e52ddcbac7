"""Span masks: against the naive reference, share, padding, short utterances."""

from __future__ import annotations

import pytest
import torch

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.ssl.naive import naive_span_mask
from summarymixing_modules.models.ssl.span_masks import draw_span_masks, span_masks

LENGTHS = torch.tensor([1000, 403, 77, 10, 9, 0])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("span", [1, 3, 10])
def test_equals_the_naive_reference(span: int, generator: torch.Generator) -> None:
    lengths = torch.randint(0, 60, (40,), generator=generator)
    spans = (torch.rand(40, generator=generator) * (lengths // span + 1)).long()
    starts_BT, fill_BT = torch.rand(2, 40, 60, generator=generator)
    mask_BT = span_masks(lengths, spans, span, starts_BT, fill_BT)
    for row, *case in zip(mask_BT, lengths, spans, starts_BT, fill_BT, strict=True):
        length, count, starts_T, fill_T = case
        assert row.tolist() == naive_span_mask(int(length), int(count), span, starts_T, fill_T)
    assert (mask_BT.sum(1) == spans * span).all() and mask_BT.any()


def test_share_count_and_padding(generator: torch.Generator) -> None:
    shares = torch.zeros(len(LENGTHS))
    for _ in range(100):
        mask_BT = draw_span_masks(LENGTHS, 1001, 0.65, 10, generator)
        assert mask_BT.shape == (6, 1001)
        assert not (mask_BT & (torch.arange(1001) >= LENGTHS[:, None])).any()
        assert (mask_BT.sum(1) % 10 == 0).all()
        shares += mask_BT.sum(1) / LENGTHS.clamp(min=1) / 100
    torch.testing.assert_close(shares[:3], torch.full((3,), 0.65), atol=0.015, rtol=0)
    assert shares[3] > 0.99 and shares[4] == shares[5] == 0  # one span at least; none fits


def test_most_hidden_frames_lie_in_spans(generator: torch.Generator) -> None:
    mask_T = draw_span_masks(torch.tensor([20000]), 20000, 0.65, 10, generator)[0].float()
    runs = torch.nn.functional.conv1d(mask_T.view(1, 1, -1), torch.ones(1, 1, 10)).view(-1) == 10
    in_runs = torch.nn.functional.conv1d(
        torch.nn.functional.pad(runs.float(), (9, 9)).view(1, 1, -1), torch.ones(1, 1, 10)
    ).view(-1)
    # Overlapping spans alone hide 1 - e^-0.65 = 48 % of the frames, of 65 %.
    assert (in_runs > 0).float().mean() > 0.47


def test_every_frame_can_be_hidden(generator: torch.Generator) -> None:
    counts_T = torch.zeros(40)
    for _ in range(300):
        counts_T += draw_span_masks(torch.tensor([40]), 40, 0.5, 10, generator)[0] / 300
    assert abs(float(counts_T.mean()) - 0.5) < 1e-5
    assert counts_T.min() > 0.1 and counts_T.argmin() in (0, 39)  # fewest spans reach the ends


def test_utterances_differ_and_draws_differ(generator: torch.Generator) -> None:
    lengths = torch.tensor([400, 400])
    first, second = (draw_span_masks(lengths, 400, 0.65, 10, generator) for _ in range(2))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, second)


@pytest.mark.parametrize(("prob", "span"), [(0.0, 10), (1.1, 10), (0.65, 0)])
def test_bad_settings_are_told(prob: float, span: int) -> None:
    with pytest.raises(InputError, match="mask_prob.*mask_length"):
        draw_span_masks(LENGTHS, 1000, prob, span)
