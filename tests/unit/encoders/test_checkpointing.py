"""Activation checkpointing: the same training with less memory, and only while training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.encoders import (
    BranchformerEncoder,
    ConformerEncoder,
    ContextNetEncoder,
    TransformerEncoder,
)
from summarymixing_modules.models.transformer_asr import TransformerASR

D = 16
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "conformer": lambda **o: ConformerEncoder(3, D, 32, 4, 7, dropout=0.2, **o),
    "branchformer": lambda **o: BranchformerEncoder(3, D, 4, 7, dropout=0.2, **o),
    "transformer": lambda **o: TransformerEncoder(3, 4, 32, D, dropout=0.2, **o),
}
MIXERS = ["SummaryMixing", "RoPEMHA", "RelPosMHAXL", "hypermixing", "fastformer", "mamba"]
CASES = [
    *(pytest.param("conformer", {"attention_type": mixer}, id=mixer) for mixer in MIXERS),
    pytest.param("branchformer", {}, id="branchformer"),
    pytest.param("transformer", {}, id="transformer"),
    pytest.param("conformer", {"layerdrop_prob": 0.5}, id="layerdrop"),
    pytest.param("conformer", {"output_hidden_states": True}, id="hidden"),
]


class Kept:
    """Numbers kept for the backward pass, views of one storage once."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.sizes: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        self.sizes[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    @property
    def total(self) -> int:
        sizes = (
            (place, tensor.untyped_storage().size() // tensor.element_size())
            for place, tensor in self.sizes.items()
        )
        return sum(size for place, size in sizes if place not in self.weights)


def train(
    encoder: nn.Module, **options: object
) -> tuple[list[Tensor], dict[str, Tensor | None], int]:
    """All outputs, all gradients, and how many numbers were kept between the two passes."""
    encoder.train()
    lengths_B = torch.tensor([23, 40])
    padding_BT = torch.arange(40)[None] >= lengths_B[:, None]
    x_BTD = torch.randn(2, 40, D, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(2)
    kept = Kept(encoder)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        output, _, *hidden = encoder(x_BTD, src_key_padding_mask=padding_BT, **options)
    outputs = [output, *(hidden[0] if hidden else ())]
    sum(one[~padding_BT].square().sum() for one in outputs).backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    outputs.append(torch.rand(()))  # the generator goes on where it was
    return outputs, {"x": x_BTD.grad, **gradients}, kept.total


def both(make: Callable[..., nn.Module], **options: object) -> list[nn.Module]:
    """Two encoders with the same weights, the second with checkpointing."""
    encoders = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoders.append(make(activation_checkpointing=checkpointing, **options))
    return encoders


@pytest.mark.parametrize("config", [None, DynChunkTrainConfig(8, 2)], ids=["full", "chunks"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_trains_the_same_with_less_memory(
    kind: str, options: dict, config: DynChunkTrainConfig | None
) -> None:
    if config is not None and options.get("attention_type") == "fastformer":
        pytest.skip("fastformer has no chunks")
    plain, checkpointed = both(ENCODERS[kind], **options)
    want, want_gradients, plain_size = train(plain, dynchunktrain_config=config)
    got, got_gradients, size = train(checkpointed, dynchunktrain_config=config)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    torch.testing.assert_close(got_gradients, want_gradients, rtol=0, atol=0)
    assert size < (0.5 if "layerdrop_prob" in options else 0.2) * plain_size


def test_autocast_is_that_of_the_forward_pass() -> None:
    results = []
    for encoder in both(ENCODERS["conformer"]):
        encoder.train()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            loss = encoder(torch.ones(2, 9, D).cumsum(1))[0].float().square().sum()
        loss.backward()  # outside of autocast
        results.append([loss, *(p.grad for p in encoder.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("case", ["evaluation", "no gradients"])
def test_nothing_is_computed_twice_where_nothing_is_learnt(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("checkpoint was called")

    monkeypatch.setattr("summarymixing_modules.encoders.checkpointing.checkpoint", refuse)
    encoder = ENCODERS["conformer"](activation_checkpointing=True).train(case == "no gradients")
    with torch.set_grad_enabled(case == "evaluation"):
        encoder(torch.randn(1, 5, D))
    with pytest.raises(AssertionError, match="checkpoint was called"):
        encoder.train()(torch.randn(1, 5, D))


def test_contextnet_updates_its_running_statistics_once() -> None:
    def make(**options: object) -> nn.Module:
        return ContextNetEncoder(D, 3, [D] * 3, num_layers=2, dropout=0.2, **options)

    plain, checkpointed = both(make)
    want, want_gradients, plain_size = train(plain)
    got, got_gradients, size = train(checkpointed)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    torch.testing.assert_close(got_gradients, want_gradients, rtol=0, atol=0)
    torch.testing.assert_close(dict(checkpointed.named_buffers()), dict(plain.named_buffers()))
    assert size < 0.5 * plain_size


@pytest.mark.parametrize("module", ["conformer", "branchformer", "transformer", "contextnet"])
def test_the_model_hands_it_to_its_encoder(module: str) -> None:
    mixer = {"attention_type": "cnnonly"} if module == "contextnet" else {}
    model = TransformerASR(
        1, D, D, 4, 2, 0, 32, encoder_module=module, activation_checkpointing=True, **mixer
    )
    holder = model.encoder.network if module == "contextnet" else model.encoder
    assert holder.activation_checkpointing
