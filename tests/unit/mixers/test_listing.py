"""`summarymixing mixers`: the registry as a table, with sizes and costs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    Capabilities,
    Mixer,
    MixerSize,
    build_mixer,
    mixer_forms,
    register_mixer,
    registry,
    unregister_mixer,
)
from summarymixing_modules.mixers.listing import (
    MixerListing,
    flops_per_frame,
    list_mixers,
    mixers_as_json,
    mixers_as_text,
    option_defaults,
    options_as_text,
)

SIZE = MixerSize(32, 4, 64)


@pytest.fixture(scope="module")
def listings() -> dict[str, MixerListing]:
    return {one.form: one for one in list_mixers(SIZE, 1000)}


def test_every_form_of_every_mixer_is_listed(listings: dict[str, MixerListing]) -> None:
    assert list(listings) == [form.name for form in mixer_forms(also_none=True)]
    for one in listings.values():
        mixer = build_mixer(one.attention_type, SIZE, **one.options)
        assert one.parameters == sum(parameter.numel() for parameter in mixer.parameters())
        assert one.capabilities == mixer.capabilities


def test_cost_per_frame_grows_where_time_is_not_linear(listings: dict[str, MixerListing]) -> None:
    assert any(not one.capabilities.linear_time for one in listings.values())
    for form, one in listings.items():
        short, long = (one.flops_per_frame[frames] for frames in (1000, 4000))
        if one.capabilities.linear_time:
            assert long <= 1.05 * short, form
        else:
            assert long > 2 * short, form


def test_costs_are_those_of_the_formulas(listings: dict[str, MixerListing]) -> None:
    features = 32
    # Three projections and one; a product with the keys and one with the values.
    attention = 2 * 4 * features**2 + 2 * 2 * 1000 * features
    assert listings["RoPEMHA"].flops_per_frame[1000] == attention
    # f and s together, c on f; c on the summary once per utterance.
    fast = 2 * features * 2 * features + 2 * features**2 + 2 * features**2 / 1000
    assert listings["SummaryMixing-fast"].flops_per_frame[1000] == fast


def test_meta_and_cpu_agree() -> None:
    mixer = build_mixer("SummaryMixing", SIZE)
    assert flops_per_frame(mixer, 20) == flops_per_frame(mixer.to("meta"), 20)


def test_text(listings: dict[str, MixerListing]) -> None:
    text = mixers_as_text(list(listings.values()))
    header, *rows = text.split("\n\n")[0].splitlines()
    assert len(rows) == len(listings)
    assert header.split()[:4] == ["mixer", "linear", "bidirectional", "causal"]
    assert "T=1000" in header and "T=4000" in header
    for row, one in zip(rows, listings.values(), strict=True):
        assert row.startswith(one.form) and row.endswith(one.source)
        assert f"{one.parameters:,}" in row
        assert row.index(one.source) == header.index("source")
    (lite,) = (row for row in rows if row.startswith("SummaryMixing-lite"))
    assert lite.split()[1:7] == ["yes"] * 5 + ["none"]
    (unmixed,) = (row for row in rows if row.startswith("cnnonly"))
    assert unmixed.split()[1:10] == ["-"] * 6 + ["0", "0.00", "0.00"]
    assert "not counted" in text


def test_json_and_options(listings: dict[str, MixerListing]) -> None:
    rows = json.loads(mixers_as_json([listings["mamba-unidirectional"]]))
    assert rows[0]["options"] == {"bidirectional": False}
    assert rows[0]["capabilities"]["bidirectional"] is False
    assert rows[0]["flops_per_frame"].keys() == {"1000", "4000"}
    defaults = {"bidirectional": True, "d_state": 16, "d_conv": 4, "expand": 2}
    assert rows[0]["option_defaults"] == option_defaults("mamba") == defaults
    assert options_as_text("mamba").splitlines()[4].split() == ["d_state", "16"]
    assert options_as_text("fastformer") == "fastformer has no options."


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'mamba'"):
        list_mixers(SIZE, attention_type="mambo")
    with pytest.raises(InputError, match="--frames=0"):
        list_mixers(SIZE, 0)
    with pytest.raises(InputError, match="RoPEMHA cannot have --d_model=33 --nhead=4.*even"):
        list_mixers(MixerSize(33, 4), attention_type="RoPEMHA")


class Doubling(Mixer):
    """A mixer of another package, without parameters."""

    capabilities = Capabilities(linear_time=True)

    def mix(self, x_BTD: Tensor, *_: object) -> Tensor:
        return x_BTD @ torch.eye(self.enc_dim, device=x_BTD.device)


class EntryPoint:
    """Stands for an installed package that declares the entry point group."""

    def load(self) -> None:
        register = register_mixer("doubling", Doubling.capabilities, source="elsewhere")
        register(lambda size: Doubling(size.d_model))


@pytest.fixture
def other_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint()])
    yield
    unregister_mixer("doubling")


def test_mixers_of_other_packages_are_listed(other_package: None) -> None:
    (one,) = list_mixers(SIZE, 10, "doubling")
    assert (one.parameters, one.flops_per_frame[10]) == (0, 2 * 32**2)
