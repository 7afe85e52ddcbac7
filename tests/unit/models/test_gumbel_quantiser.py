"""The Gumbel quantiser: values, gradients, perplexity, temperature; against SpeechBrain's."""

from __future__ import annotations

import pytest
import torch
from speechbrain.nnet.quantisers import GumbelVectorQuantizer

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.ssl.gumbel_quantiser import GumbelQuantiser


def make(**options: object) -> GumbelQuantiser:
    torch.manual_seed(0)
    arguments = {"input_size": 12, "codes": 7, "codebooks": 2, "size": 8, **options}
    return GumbelQuantiser(**arguments)  # type: ignore[arg-type]


def test_equals_speechbrains_in_evaluation() -> None:
    own, theirs = make().eval(), GumbelVectorQuantizer(12, 7, (2.0, 0.25, 0.9), 2, 8).eval()
    theirs.weight_proj.load_state_dict(own.scores.state_dict())
    theirs.vars.data = own.codebook.data.view(1, 14, 4)
    frames_MF = torch.randn(50, 12)
    found, want = own(frames_MF), theirs(frames_MF[None])
    torch.testing.assert_close(found.vectors_MD, want["x"][0])
    torch.testing.assert_close(found.perplexity_G.sum(), want["prob_perplex"], rtol=1e-4, atol=0)


def test_vectors_are_those_of_the_codes() -> None:
    quantiser = make()
    output = quantiser(torch.randn(50, 12))
    for group in range(2):
        want_MD = quantiser.codebook[group, output.codes_MG[:, group]]
        assert torch.equal(output.vectors_MD.unflatten(1, (2, 4))[:, group], want_MD)


def test_gradients_are_those_of_the_softmax() -> None:
    quantiser, frames_MF = make(), torch.randn(50, 12)
    weights_MD = torch.randn(50, 8)
    grads = []
    for hard in (True, False):
        torch.manual_seed(1)
        quantiser.zero_grad()
        if hard:
            vectors_MD = quantiser(frames_MF).vectors_MD
        else:
            logits_MGV = quantiser.scores(frames_MF).unflatten(-1, (2, 7))
            soft_MGV = torch.nn.functional.gumbel_softmax(logits_MGV, tau=2.0)
            vectors_MD = torch.einsum("MGV,GVD->MGD", soft_MGV, quantiser.codebook).flatten(1)
        (vectors_MD * weights_MD).sum().backward()
        grads.append(quantiser.scores.weight.grad)
    assert grads[0] is not None and grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1])


def test_training_draws_codes_by_their_probability() -> None:
    quantiser = make(codebooks=1)
    torch.nn.init.normal_(quantiser.scores.weight, std=0.3)
    frame_MF = torch.randn(1, 12).expand(20_000, -1)
    share_V = torch.bincount(quantiser(frame_MF).codes_MG[:, 0], minlength=7) / 20_000
    want_V = quantiser.scores(frame_MF[0]).softmax(-1)
    torch.testing.assert_close(share_V, want_V.detach(), atol=0.015, rtol=0)


def test_perplexity_counts_codes() -> None:
    quantiser = make(input_size=7, codebooks=1).eval()
    with torch.no_grad():
        quantiser.scores.weight.copy_(100 * torch.eye(7))
    assert quantiser(torch.eye(7)).perplexity_G.item() == pytest.approx(7)
    assert quantiser(torch.eye(7)[:1].expand(9, -1)).perplexity_G.item() == pytest.approx(1)


def test_no_frames() -> None:
    quantiser = make()
    output = quantiser(torch.zeros(0, 12))
    (output.vectors_MD.sum() + output.perplexity_G.sum()).backward()
    assert output.vectors_MD.shape == (0, 8) and output.perplexity_G.isfinite().all()


def test_the_temperature_follows_the_steps() -> None:
    quantiser = make(temperature=(2.0, 0.5, 0.9))
    assert quantiser.temperature == 2.0
    quantiser.set_step(3)
    assert quantiser.temperature == pytest.approx(2 * 0.9**3)
    quantiser.set_step(10_000)
    assert quantiser.temperature == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 9}, "code_dim=9 must be a multiple of codebooks=2"),
        ({"temperature": (0.1, 0.5, 0.9)}, "temperature >= temperature_min"),
        ({"temperature": (2.0, 0.5, 1.5)}, "temperature_decay"),
    ],
)
def test_bad_settings_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)
