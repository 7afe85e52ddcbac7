"""Matched sizes: the published numbers of parameters, and widths that are solved for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    Capabilities,
    Mixer,
    register_mixer,
    unregister_mixer,
)
from summarymixing_modules.models import ConvFrontEnd2d, CTCModel, TransformerASR, widths
from summarymixing_modules.models.widths import (
    OpenWidthModel,
    PublishedSize,
    count_parameters,
    matched_d_model,
    matched_width,
    nearest_width,
    published_sizes,
    study_model,
)

SMALL: dict[str, Any] = {
    "input_size": 24,
    "output_neurons": 29,
    "num_encoder_layers": 3,
    "nhead": 4,
    "d_ffn": 96,
    "kernel_size": 7,
}


def parameters_of(row: PublishedSize) -> int:
    return row.model.parameters(row.d_model)


def name_of(row: PublishedSize) -> str:
    return f"{row.encoder_module}-{row.size}-{row.attention_type}-{row.nhead}"


@pytest.mark.parametrize("row", published_sizes(), ids=name_of)
def test_published_sizes(row: PublishedSize) -> None:
    """To the last digit where the study gives a number, else within 1.1 % of its reference."""
    if row.millions is not None:
        assert round(parameters_of(row) / 1e6, 1) == row.millions
    else:
        reference = matched_d_model("RelPosMHAXL", row.encoder_module, row.size)
        want = study_model("RelPosMHAXL", row.encoder_module, row.size).parameters(reference)
        assert parameters_of(row) == pytest.approx(want, rel=0.011)
    assert (
        matched_d_model(row.attention_type, row.encoder_module, row.size, row.nhead) == row.d_model
    )


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
def test_count_is_that_of_the_whole_model(encoder_module: str) -> None:
    with torch.device("meta"):
        front_end = ConvFrontEnd2d(80, (128, 32))
        transformer = TransformerASR(
            1,
            front_end.output_size,
            d_model=96,
            num_encoder_layers=12,
            num_decoder_layers=0,
            encoder_module=encoder_module,
            attention_type="hypermixing",
        )
        model = CTCModel(front_end, transformer, 8192)
    counted = study_model("hypermixing", encoder_module).parameters(96)
    assert counted == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("attention_type", "nhead", "step"),
    [("RoPEMHA", 8, 16), ("RoPEMHA", 3, 6), ("regularMHA", 5, 10), ("cnnonly", 8, 2)],
)
def test_solved_width_is_the_nearest_possible(attention_type: str, nhead: int, step: int) -> None:
    width = matched_d_model(attention_type, nhead=nhead)
    target = study_model("RelPosMHAXL").parameters(576)
    model = study_model(attention_type, nhead=nhead)
    miss = abs(model.parameters(width) - target)
    assert width % step == 0
    assert miss < abs(model.parameters(width - step) - target)
    assert miss < abs(model.parameters(width + step) - target)
    # The number of parameters grows less than with the square of the width.
    assert miss / target < step / width


def test_settings_that_change_no_number_keep_the_published_width() -> None:
    assert matched_d_model("RelPosMHAXL", mixer_options={"attention_dropout": 0.0}) == 576
    assert matched_d_model("mamba", nhead=4) == 474
    assert matched_d_model("SummaryMixing", mixer_options={"mode": "SummaryMixing-expdecay"}) == 632


def test_settings_that_change_it_do_not() -> None:
    narrow = matched_d_model("SummaryMixing", mixer_options={"summary_hid_dim": [256]})
    assert narrow > 632
    assert matched_d_model("SummaryMixing", matched=False) == 576


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
@pytest.mark.parametrize("attention_type", ["RelPosMHAXL", "linformer", "fastformer"])
def test_width_of_a_small_recipe(attention_type: str, encoder_module: str) -> None:
    width = matched_width(
        attention_type, "SummaryMixing", 144, encoder_module=encoder_module, **SMALL
    )
    arguments = {**SMALL, "encoder_module": encoder_module}
    outer = arguments.pop("input_size"), arguments.pop("output_neurons")
    target, miss_below, miss, miss_above = (
        OpenWidthModel(name, {}, *outer, arguments=arguments).parameters(d_model)
        for name, d_model in (
            ("SummaryMixing", 144),
            (attention_type, width - 4),
            (attention_type, width),
            (attention_type, width + 4),
        )
    )
    assert width % 4 == 0 and miss_below < target < miss_above
    assert abs(miss - target) <= min(target - miss_below, miss_above - target)


def test_the_same_mixer_has_the_same_width() -> None:
    assert matched_width("SummaryMixing", "SummaryMixing", 146, **{**SMALL, "nhead": 2}) == 146
    lite = {"mode": "SummaryMixing-lite"}
    assert matched_width("SummaryMixing", "SummaryMixing", 144, mixer_options=lite, **SMALL) > 144
    assert matched_width("mamba", "SummaryMixing", 144, multiple_of=8, **SMALL) % 8 == 0


def test_decoder_counts() -> None:
    deep = {**SMALL, "num_decoder_layers": 2, "tgt_vocab": 29}
    assert matched_width("RelPosMHAXL", "SummaryMixing", 144, **deep) <= 144
    with_decoder = OpenWidthModel("RoPEMHA", {}, 24, 29, arguments={"num_decoder_layers": 2})
    without = OpenWidthModel("RoPEMHA", {}, 24, 29)
    assert with_decoder.parameters(64) > without.parameters(64) + 2 * 2 * 64 * 2048


@pytest.mark.parametrize("start", [1, 640, 5000])
def test_nearest_width(start: int) -> None:
    def square(width: int) -> int:
        return width**2

    assert nearest_width(square, 10_000, 1, start) == 100
    assert nearest_width(square, 10_190, 1, start) == 101
    assert nearest_width(square, 10_000_000, 64, start) == 3136
    assert nearest_width(square, 1, 1, start) == 1
    with pytest.raises(InputError, match="narrowest model .width 64. has 4,096 parameters"):
        nearest_width(square, 1000, 64, start)
    with pytest.raises(InputError, match="no larger than one half as wide"):
        nearest_width(lambda width: 12, 1000, 1, start)


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 5)
    assert count_parameters(nn.ModuleList([layer, layer])) == 20


def test_random_state_is_kept() -> None:
    before = torch.get_rng_state()
    OpenWidthModel("bigbird", {}, 24, 29).parameters(128)
    assert torch.equal(before, torch.get_rng_state())


def test_from_yaml() -> None:
    recipe = """
attention_type: mamba
width: !apply:summarymixing_modules.models.widths.matched_d_model
    attention_type: !ref <attention_type>
    encoder_module: conformer
    size: large
    mixer_options: !apply:summarymixing_modules.mixers.select_options
        attention_type: !ref <attention_type>
        options: {mamba: {d_state: 16}}
small: !apply:summarymixing_modules.models.widths.matched_width
    attention_type: !ref <attention_type>
    reference: SummaryMixing
    reference_d_model: 64
    input_size: 24
    output_neurons: 29
    nhead: 4
    d_ffn: 96
"""
    loaded = load_hyperpyyaml(recipe)
    assert loaded["width"] == 678 and 16 < loaded["small"] < 64
    other = load_hyperpyyaml(recipe, "attention_type: SummaryMixing\nsmall: 9")
    assert other["width"] == 976 and other["small"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_type": "mambo"}, "did you mean 'mamba'"),
        ({"attention_type": "mamba", "encoder_module": "conformist"}, "did you mean 'conformer'"),
        ({"attention_type": "mamba", "size": "huge"}, "not a known size. Known: base, large"),
        ({"attention_type": "mamba", "mixer_options": {"d_states": 2}}, "did you mean 'd_state'"),
        (
            {"attention_type": "SummaryMixing", "mixer_options": {"mode": "slow"}},
            "fits no width around 576.*unknown mode 'slow'",
        ),
    ],
)
def test_what_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        matched_d_model(**arguments)


def test_what_small_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="not a known argument of TransformerASR.*'d_ffn'"):
        matched_width("mamba", "SummaryMixing", 144, 24, 29, dffn=96)
    with pytest.raises(InputError, match="RoPEMHA at d_model=100"):
        matched_width("mamba", "RoPEMHA", 100, 24, 29, nhead=8)
    with pytest.raises(InputError, match="multiple_of=0 must be at least 1"):
        matched_width("mamba", "RoPEMHA", 64, 24, 29, nhead=8, multiple_of=0)


def test_a_missing_table_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(widths, "TABLE", tmp_path / "matched_sizes.yaml")
    widths._table.cache_clear()
    with pytest.raises(InputError, match="matched_sizes.yaml, is not beside the package"):
        matched_d_model("mamba")


class Blocks(Mixer):
    """A mixer of a third party that works on blocks of 48 features."""

    capabilities = Capabilities(linear_time=True)

    def __init__(self, enc_dim: int) -> None:
        super().__init__(enc_dim)
        if enc_dim % 48:
            raise ValueError(f"enc_dim={enc_dim} must be a multiple of 48.")
        self.weight = nn.Parameter(torch.zeros(enc_dim // 48, 48, 48))

    def mix(self, x_BTD: Tensor, *_: object) -> Tensor:
        return x_BTD


@pytest.fixture
def blocks() -> Iterator[None]:
    register_mixer("blocks", Blocks.capabilities, source="a test")(
        lambda size: Blocks(size.d_model)
    )
    yield
    unregister_mixer("blocks")


def test_a_mixer_with_a_step_of_its_own(blocks: None) -> None:
    sizes: Any = {"reference_d_model": 576, "input_size": 24, "output_neurons": 29}
    assert matched_width("blocks", "RelPosMHAXL", multiple_of=48, **sizes) % 48 == 0
    with pytest.raises(InputError, match="give another multiple_of.*must be a multiple of 48"):
        matched_width("blocks", "RelPosMHAXL", **sizes)
