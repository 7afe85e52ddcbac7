"""What the weights of encoders and decoders start from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import Mixer, mixer_names
from summarymixing_modules.models import TransformerASR
from summarymixing_modules.models.encoder_choice import ENCODERS
from summarymixing_modules.models.initialisation import INITIALISATIONS

WINDOW = {"summary_window": [9]}
FAST = {"mode": "SummaryMixing-fast", "use_layernorm": False}


def make(
    initialisation: str, attention_type: str = "SummaryMixing", **options: object
) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "nhead": 4, "num_encoder_layers": 2, "num_decoder_layers": 0}
    arguments = {**sizes, "d_ffn": 64, "kernel_size": 7, "csgu_linear_units": 64, **options}
    arguments |= {"attention_type": attention_type, "initialisation": initialisation}
    return TransformerASR(30, 24, **arguments).eval()


def first_mixer(module: nn.Module) -> Mixer:
    return next(part for part in module.modules() if isinstance(part, Mixer))


def mixer_512(initialisation: str, name: str, nhead: int, options: dict[str, object]) -> Mixer:
    large = {"d_model": 512, "nhead": nhead, "d_ffn": 2048, "num_encoder_layers": 1}
    return first_mixer(make(initialisation, name, **large, mixer_options=options))


# Standard deviations at d 512: of the published models, of a mixer's own, and block by block.
DEVIATIONS = [
    ("SummaryMixing", 1, {}, "input_proj.weight", 0.0442, 0.0255, 0.0442),
    ("SummaryMixing", 1, {}, "input_proj.bias", 0.0, 0.0255, 0.0),
    ("SummaryMixing", 1, {}, "local_layers.0.weight", 0.0442, 0.0255, 0.0442),
    ("SummaryMixing", 1, {}, "combine_local.weight", 0.0361, 0.0180, 0.0361),
    ("SummaryMixing", 1, {}, "combine_summary.weight", 0.0361, 0.0180, 0.0361),
    ("SummaryMixing", 1, {}, "combine_local.bias", 0.0, 0.0180, 0.0),
    ("SummaryMixing", 8, {}, "input_proj.weight", 0.0208, 0.0722, 0.125),
    ("SummaryMixing", 8, {}, "input_proj.bias", 0.1667, 0.0722, 0.0),
    ("SummaryMixing", 8, {}, "summary_layers.0.weight", 0.0208, 0.0722, 0.125),
    ("SummaryMixing", 8, {}, "summary_layers.0.bias", 0.1667, 0.0722, 0.0),
    ("SummaryMixing", 1, FAST, "input_proj.weight", 0.0361, 0.0255, 0.0442),
    ("SummaryMixing", 1, WINDOW, "combine_windows.weight", 0.0313, 0.0147, 0.0313),
    ("SummaryMixing", 1, WINDOW, "combine_local.weight", 0.0313, 0.0147, 0.0313),
    ("pom", 8, {}, "factors.weight", 0.0239, 0.0255, 0.0361),
    ("pom", 8, {}, "factors.bias", 0.0255, 0.0255, 0.0),
    ("pom", 8, {}, "output.weight", 0.0239, 0.0104, 0.0239),
    ("RelPosMHAXL", 8, {}, "attention.in_proj_weight", 0.0313, 0.0313, 0.0442),
    ("RelPosMHAXL", 8, {}, "attention.linear_pos.weight", 0.0442, 0.0255, 0.0442),
    ("RelPosMHAXL", 8, {}, "attention.out_proj.weight", 0.0442, 0.0255, 0.0442),
    ("RelPosMHAXL", 8, {}, "attention.out_proj.bias", 0.0255, 0.0255, 0.0),
    ("RoPEMHA", 8, {}, "in_proj_weight", 0.0313, 0.0313, 0.0442),
    ("hypermixing", 8, {}, "first.hidden.weight", 0.0208, 0.0722, 0.125),
    ("hypermixing", 8, {}, "second.output.weight", 0.0109, 0.0722, 0.0791),
    ("fastformer", 8, {}, "query.weight", 0.0442, 0.0255, 0.0442),
    ("fastformer", 8, {}, "key.weight", 0.0442, 0.0255, 0.0442),
    ("fastformer", 8, {}, "output.weight", 0.0442, 0.0255, 0.0442),
]


#: Sums of parameters of a model of seed 0.
DRAWN = {
    "encoder.layers.0.mha_layer.input_proj.weight": 3.278036531090038,
    "encoder.layers.1.mha_layer.combine_local.weight": 1.2028502076864243,
    "encoder.layers.1.mha_layer.combine_summary.weight": 0.8389671295881271,
    "encoder.layers.1.ffn_module1.1.ffn.0.weight": 6.278551860071275,
    "decoder.layers.0.pos_ffn.ffn.0.weight": -6.36446275664639,
}


@pytest.mark.parametrize(
    ("name", "nhead", "options", "parameter", "paper", "own", "blocks"), DEVIATIONS
)
def test_deviations_at_d_512(
    name: str,
    nhead: int,
    options: dict[str, object],
    parameter: str,
    paper: float,
    own: float,
    blocks: float,
) -> None:
    for how, want in (("paper", paper), ("mixer", own), ("blocks", blocks)):
        drawn = mixer_512(how, name, nhead, options).get_parameter(parameter)
        few = drawn.numel() < 10_000
        assert drawn.std().item() == pytest.approx(want, rel=0.1 if few else 0.02, abs=1e-4), how


def test_both_halves_of_a_shared_product_are_drawn_alike() -> None:
    """f and s are stored as one matrix, (heads, inputs, f | s), but are layers of their own."""
    local, summary = mixer_512("paper", "SummaryMixing", 8, {}).input_proj.weight.chunk(2, dim=2)
    assert local.std().item() == pytest.approx(summary.std().item(), rel=0.02)


def test_mixers_of_their_own_are_drawn_as_ever() -> None:
    """A run is repeated at its seed: these numbers may not change."""
    model = make("mixer", num_decoder_layers=1)
    sums = {name: model.get_parameter(name).double().sum().item() for name in DRAWN}
    assert sums == pytest.approx(DRAWN, rel=1e-4)


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
@pytest.mark.parametrize("encoder_module", [name for name in ENCODERS if name != "contextnet"])
@pytest.mark.parametrize("name", mixer_names())
@torch.no_grad()
def test_every_mixer_and_encoder(name: str, encoder_module: str, initialisation: str) -> None:
    if name == "cnnonly" and encoder_module == "transformer":
        pytest.skip("such a layer has no exchange between frames")
    model = make(initialisation, name, encoder_module=encoder_module)
    assert model.encode(torch.randn(2, 9, 24)).isfinite().all()
    norms = [part for part in model.modules() if isinstance(part, nn.LayerNorm | nn.BatchNorm1d)]
    assert norms
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_matched_widths_need_no_memory() -> None:
    for how in INITIALISATIONS:
        with torch.device("meta"):
            assert first_mixer(make(how)).input_proj.weight.is_meta


def test_what_is_outside_mixers_is_always_xavier_normal() -> None:
    def drawn(how: str) -> Tensor:
        model = make(how, d_model=256, d_ffn=2048)
        return model.encoder.layers[0].ffn_module1[1].ffn[0].weight

    for how in INITIALISATIONS:
        assert drawn(how).std().item() == pytest.approx((2 / (256 + 2048)) ** 0.5, rel=0.02)


def test_decoder() -> None:
    sizes = {"d_model": 512, "nhead": 1, "num_decoder_layers": 1, "num_encoder_layers": 1}
    for how, want in (("paper", 0.0442), ("mixer", 0.0255), ("blocks", 0.0442)):
        decoder = make(how, decoder_attention="SummaryMixing", **sizes).decoder
        drawn = first_mixer(decoder).input_proj.weight
        assert drawn.std().item() == pytest.approx(want, rel=0.02)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="initialisation 'zeros'. Known: paper, mixer, blocks"):
        make("zeros")
