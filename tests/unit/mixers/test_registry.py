"""The registry: names, options, errors, and mixers of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from summarymixing_modules import Mixer, MixerSize, build_mixer, mixer_names, register_mixer
from summarymixing_modules.encoders import ConformerEncoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    Capabilities,
    Chunks,
    UnsupportedByMixer,
    reference_options,
    select_options,
    unregister_mixer,
)


class Running(Mixer):
    """A mixer of a third party: the mean so far, and nothing else."""

    capabilities = Capabilities(
        linear_time=True, bidirectional=False, chunked=False, streaming=False
    )

    def __init__(self, enc_dim: int, gain: float, causal: bool = False) -> None:
        super().__init__(enc_dim, causal)
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        steps = torch.arange(1, x_BTD.shape[1] + 1, device=x_BTD.device)
        return self.gain * x_BTD.cumsum(1) / steps[:, None]


@pytest.fixture
def running() -> Iterator[None]:
    @register_mixer("running", Running.capabilities, source="a test")
    def build(size: MixerSize, *, gain: float = 1.0) -> Running:
        return Running(size.d_model, gain)

    yield
    unregister_mixer("running")


def test_a_mixer_of_ones_own(running: None) -> None:
    assert "running" in mixer_names()
    encoder = ConformerEncoder(2, 16, 32, 2, 3, attention_type="running", gain=0.5)
    assert encoder(torch.randn(2, 7, 16))[0].shape == (2, 7, 16)
    with pytest.raises(UnsupportedByMixer, match="chunk_size=4. Mixers that can: .*SummaryMixing"):
        encoder.layers[0].mha_layer(torch.randn(2, 7, 16), chunk_size=4)
    with pytest.raises(UnsupportedByMixer, match="initial_state"):
        Running(4, 1.0).initial_state(1)


def test_nobody_escapes_the_causal_check(running: None) -> None:
    """Neither a builder that forgets what its host is, nor a mixer that cannot be it."""
    assert not build_mixer("running", MixerSize(16)).causal
    with pytest.raises(UnsupportedByMixer, match="running was built .* hand size.causal on"):
        ConformerEncoder(1, 16, 32, 2, 3, attention_type="running", causal=True)

    class Backward(Running):
        capabilities = Capabilities(linear_time=True, causal=False, streaming=False)

    register_mixer("backward", Backward.capabilities, source="a test")(lambda s: Backward(16, 1.0))
    try:
        with pytest.raises(UnsupportedByMixer, match="Backward is not causal.*Mixers that can: "):
            build_mixer("backward", MixerSize(16, causal=True))
    finally:
        unregister_mixer("backward")


@pytest.mark.parametrize(
    ("public", "own"),
    [("forward", "mix"), ("step", "_step"), ("initial_state", "_initial_state")],
)
def test_what_is_checked_cannot_be_overridden(public: str, own: str) -> None:
    with pytest.raises(TypeError, match=f"overrides {public}: implement {own}"):
        type("Unchecked", (Running,), {public: lambda *_: None})


def test_streaming_has_to_be_implemented() -> None:
    class Forgetful(Running):
        capabilities = Capabilities(linear_time=True)

    with pytest.raises(NotImplementedError, match="Forgetful declares streaming"):
        Forgetful(4, 1.0).initial_state(1)


def test_a_name_is_taken_once(running: None) -> None:
    with pytest.raises(ValueError, match="'running' is registered already"):
        register_mixer("running", Running.capabilities, source="a test")(lambda size: Running(4, 1))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match="did you mean 'SummaryMixing'.*Known: .*RoPEMHA"):
        build_mixer("SumaryMixing", MixerSize(16))


def test_unknown_options_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"no option 'modes' \(did you mean 'mode'\?\)"):
        build_mixer("SummaryMixing", MixerSize(16), modes="x")
    with pytest.raises(ValueError, match="RoPEMHA has no option 'mode'"):
        ConformerEncoder(1, 16, 32, 2, attention_type="RoPEMHA", mode="SummaryMixing-lite")


def test_options_are_those_of_the_chosen_mixer() -> None:
    table = {"SummaryMixing": {"mode": "SummaryMixing-fast"}}
    assert select_options("SummaryMixing", table) == {"mode": "SummaryMixing-fast"}
    assert select_options("RoPEMHA", table) == {}
    with pytest.raises(ValueError, match="unknown attention_type 'nothing'"):
        select_options("RoPEMHA", {"nothing": {}})


def test_more_options_are_checked() -> None:
    table = {"SummaryMixing": {"mode": "SummaryMixing-fast"}}
    assert select_options("mamba", table, {"bidirectional": False}) == {"bidirectional": False}
    assert select_options("SummaryMixing", table, {"decay": 0.9})["decay"] == 0.9
    with pytest.raises(InputError, match="mamba has no option 'bidirektional'.*bidirectional"):
        select_options("mamba", table, {"bidirektional": False})
    with pytest.raises(InputError, match="give it as --mode=VALUE"):
        select_options("SummaryMixing", table, {"mode": "SummaryMixing-lite"})


def test_references_are_mixers_or_their_forms() -> None:
    table = {"SummaryMixing": {"mode": "SummaryMixing-fast", "use_layernorm": False}}
    assert reference_options(None, table) is None
    assert reference_options("RoPEMHA", table) == ("RoPEMHA", {})
    name, options = reference_options("SummaryMixing-lite", table) or ("", {})
    assert name == "SummaryMixing"
    assert options == {"mode": "SummaryMixing-lite", "use_layernorm": False}
    with pytest.raises(InputError, match="matched_to.*did you mean 'RoPEMHA'"):
        reference_options("RoPMHA", table)


def test_the_package_alone_does_not_import_speechbrain() -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch; from summarymixing_modules import SummaryMixing;"
        "SummaryMixing(enc_dim=8)(torch.zeros(1, 2, 8));"
        "sys.exit('speechbrain' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
