"""Models as plain data and back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import (
    Capabilities,
    Mixer,
    MixerSize,
    mixer_names,
    register_mixer,
)
from summarymixing_modules.mixers.registry import unregister_mixer
from summarymixing_modules.models import (
    AttentionCTCModel,
    ConvFrontEnd1d,
    ConvFrontEnd2d,
    CTCModel,
    TransducerModel,
    TransformerASR,
)
from summarymixing_modules.models.describe import build, describable, describe

SIZE: dict[str, Any] = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 16}


def round_trip(model: nn.Module) -> nn.Module:
    return build(json.loads(json.dumps(describe(model), allow_nan=False)))


def transformer(**options: Any) -> TransformerASR:
    arguments = {"num_decoder_layers": 0, "kernel_size": 3, **SIZE, **options}
    return TransformerASR(12, 8, **arguments)


@pytest.mark.parametrize("name", mixer_names())
def test_every_mixer_comes_back(name: str) -> None:
    model = CTCModel(ConvFrontEnd1d(20, (8, 8)), transformer(attention_type=name), 12).eval()
    again = round_trip(model).eval()
    again.load_state_dict(model.state_dict())
    x_BTF, lengths_B = torch.randn(2, 40, 20), torch.tensor([40, 25])
    with torch.inference_mode():
        torch.testing.assert_close(again(x_BTF, lengths_B)[0], model(x_BTF, lengths_B)[0])
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in build(describe(model)).state_dict().items()}
    assert shapes == {n: t.shape for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    "model",
    [
        CTCModel(ConvFrontEnd2d(16, [2, 2]), transformer(encoder_module="branchformer"), 12),
        AttentionCTCModel(ConvFrontEnd1d(20, (8, 8)), transformer(num_decoder_layers=1), 12),
        TransducerModel(ConvFrontEnd1d(20, (8, 8)), transformer(), 12, 8, 8),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_model_comes_back_and_means_the_same(model: nn.Module) -> None:
    again = round_trip(model)
    assert describe(again) == describe(model)
    again.load_state_dict(model.state_dict(), strict=True)


def test_activations_options_and_defaults_are_there() -> None:
    options = {"mode": "SummaryMixing-fast", "summary_out_dim": 8}
    model = transformer(conformer_activation=nn.Mish, mixer_options=options)
    arguments = describe(model)["arguments"]
    assert arguments["conformer_activation"] == {"activation": "Mish"}
    assert arguments["mixer_options"] == {"mapping": options}
    assert arguments["layerdrop_prob"] == 0.0
    assert describe(copy.deepcopy(model)) == describe(model)


def test_the_arguments_are_no_submodules() -> None:
    model = CTCModel(ConvFrontEnd1d(20, (8, 8)), transformer(), 12)
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "frontend",
        "transformer",
        "output",
    }


def test_a_mixer_of_somebody_else_comes_back() -> None:
    class Last(Mixer):
        capabilities = Capabilities(True, causal=False, chunked=False, streaming=False)
        scale: float

        def mix(self, x_BTD: Tensor, *rest: Any) -> Tensor:
            return x_BTD[:, -1:].expand_as(x_BTD) * self.scale

    @register_mixer("of_somebody_else", Last.capabilities, source="a test")
    def build_last(size: MixerSize, *, scale: float = 1.0) -> Last:
        mixer = Last(size.d_model)
        mixer.scale = scale
        return mixer

    try:
        options = {"scale": 0.5}
        model = transformer(attention_type="of_somebody_else", mixer_options=options)
        mixers = [m for m in round_trip(model).modules() if isinstance(m, Last)]
        assert [mixer.scale for mixer in mixers] == [0.5]
    finally:
        unregister_mixer("of_somebody_else")


def test_subclasses_and_foreign_modules_are_refused() -> None:
    class Sub(ConvFrontEnd1d):
        pass

    for module in (Sub(), nn.Linear(1, 1)):
        with pytest.raises(InputError, match="describable"):
            describe(module)
    with pytest.raises(InputError, match=r"conformer_activation.*cannot be exported"):
        describe(transformer(conformer_activation=lambda: nn.GELU()))
    with pytest.raises(ValueError, match="already"):
        describable(type("CTCModel", (nn.Module,), {}))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("CTCModel", "no description"),
        ({"class": "os.system", "arguments": {}}, r"'os.system'\. Known: .*CTCModel"),
        ({"class": ["CTCModel"], "arguments": {}}, "Known"),
        ({"class": "ConvFrontEnd1d", "arguments": ["x"]}, "no mapping"),
        ({"class": "ConvFrontEnd1d", "arguments": {"command": "x"}}, "do not make a ConvFront"),
        ({"class": "ConvFrontEnd1d", "arguments": {"channels": "ab"}}, "do not make a ConvFront"),
        (
            {"class": "TransformerASR", "arguments": {"activation": {"activation": "eval"}}},
            "an activation 'eval'",
        ),
        (
            {"class": "TransformerASR", "arguments": {"activation": {"!apply": "os.system"}}},
            "no description",
        ),
        (
            {
                "class": "TransformerASR",
                "arguments": {"tgt_vocab": 3, "input_size": 3, "attention_type": "os.system"},
            },
            "unknown attention_type 'os.system'",
        ),
    ],
)
def test_bad_descriptions_are_refused(description: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(description)
