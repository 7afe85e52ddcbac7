"""The format of SummaryMixing's authors: one of our models under their names, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechbrain.nnet.activations import Swish
from torch import Tensor, nn

from summarymixing_modules.bundles import load_model
from summarymixing_modules.conversion import names
from summarymixing_modules.conversion.command import convert
from summarymixing_modules.mixers import MixerSize, build_mixer
from summarymixing_modules.mixers.summary_mixing import SummaryMixing
from summarymixing_modules.models import TransformerASR
from tests.unit.conversion.conftest import TOKENS, Stock, randomise

FULL, LITE, FAST = "SummaryMixing", "SummaryMixing-lite", "SummaryMixing-fast"


def their_cell(cell: SummaryMixing) -> dict[str, Tensor]:
    """The tensors of a cell under their names."""
    theirs: dict[str, Tensor] = {}

    def layer(name: str, weight_NIO: Tensor, bias_N1O: Tensor) -> None:
        if cell.nhead > 1:
            theirs[f"{name}.weights"], theirs[f"{name}.biases"] = weight_NIO, bias_N1O[:, 0]
        else:
            theirs[f"{name}.w.weight"], theirs[f"{name}.w.bias"] = weight_NIO[0].mT, bias_N1O[0, 0]

    weight_NIX, bias_N1X = cell.input_proj.weight, cell.input_proj.bias
    width = cell.local_width
    if cell.mode == FAST:
        layer("global_proj.linear", weight_NIX, bias_N1X)
    else:
        networks = {"summary": (slice(width, None), cell.summary_layers)}
        if cell.mode != LITE:
            networks["local"] = (slice(0, width), cell.local_layers)
        for name, (part, layers) in networks.items():
            layer(f"{name}_proj.linear", weight_NIX[..., part], bias_N1X[..., part])
            for k, more in enumerate(layers):
                layer(f"{name}_proj.linear_{k}", more.weight, more.bias)
    if cell.mode != LITE:
        merging = "summary_local_merging.linear.w"
        own = cell.state_dict()
        halves = [own["combine_local.weight"], own["combine_summary.weight"]]
        theirs[f"{merging}.weight"] = torch.cat(halves, dim=1)
        theirs[f"{merging}.bias"] = own["combine_local.bias"]
    for name in ("local_norm", "summary_norm"):
        norm = getattr(cell, name)
        norm = norm if isinstance(norm, nn.LayerNorm) else nn.LayerNorm(cell.enc_dim)
        if cell.mode in (LITE, FAST) or isinstance(getattr(cell, name), nn.LayerNorm):
            theirs |= {f"{name}.{key}": tensor for key, tensor in norm.state_dict().items()}
    return theirs


def their_names(transformer: TransformerASR) -> dict[str, Tensor]:
    """The state dict of a transformer under their names."""
    theirs: dict[str, Tensor] = {"positional_encoding.pe": torch.zeros(1, 2500, 16)}
    for name, tensor in transformer.state_dict().items():
        if "mha_layer" not in name:
            name = name.replace("merge_proj.0", "merge_proj.linear.w")
            name = name.replace("merge_proj.2", "merge_proj.linear_0.w")
            theirs[name] = tensor
    for k, layer in enumerate(transformer.encoder.layers):
        cell = their_cell(layer.mha_layer)
        theirs |= {f"encoder.layers.{k}.mha_layer.{name}": cell[name] for name in cell}
    return theirs


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
@pytest.mark.parametrize(
    ("nhead", "options"),
    [
        (1, {"mode": FULL, "local_proj_hid_dim": [24], "local_proj_out_dim": 8}),
        (2, {"mode": FULL, "summary_hid_dim": [20, 12], "summary_out_dim": 10}),
        (2, {"mode": FULL, "use_layernorm": False}),
        (2, {"mode": LITE}),
        (1, {"mode": FAST, "local_proj_out_dim": 6, "summary_out_dim": 6}),
        (2, {"mode": "SummaryMixing-expdecay"}),
    ],
)
@torch.no_grad()
def test_a_model_and_back(
    stock: Callable[..., Stock], tmp_path: Path, encoder_module: str, nhead: int, options: dict
) -> None:
    sizes = {"d_model": 16, "nhead": nhead, "num_encoder_layers": 2, "d_ffn": 32}
    sizes |= {"kernel_size": 5, "csgu_linear_units": 24, "num_decoder_layers": 0}
    theirs = stock("ctc", encoder_module=encoder_module)
    ours = TransformerASR(
        TOKENS,
        20,
        encoder_module=encoder_module,
        mixer_options=options,
        absolute_positions=True,
        csgu_padding_mode="reflect",
        conformer_activation=Swish,
        **sizes,
    )
    randomise(ours)
    path = next(theirs.folder.glob("save/CKPT*/model.ckpt"))
    kept = {
        name: tensor
        for name, tensor in torch.load(path, weights_only=True).items()
        if not name.startswith("1.")
    }
    torch.save(kept | {f"1.{n}": t.clone() for n, t in their_names(ours).items()}, path)
    yaml = theirs.folder / "hyperparams.yaml"
    text = yaml.read_text().replace("attention_type: RelPosMHAXL", "attention_type: SummaryMixing")
    yaml.write_text(text.replace("    nhead: 2\n", f"    nhead: 2\n    mode: {options['mode']}\n"))
    found = convert(theirs.folder / "save", tmp_path / "bundle")
    assert ("encoder.layers.0.mha_layer.local_norm.weight" in found.dropped) == (
        options["mode"] in (LITE, FAST)
    )
    back = load_model(tmp_path / "bundle").model.transformer
    x_BTF = torch.randn(2, 30, 20)
    shares_B = torch.tensor([1.0, 0.6])
    torch.testing.assert_close(back.encode(x_BTF, shares_B), ours.encode(x_BTF, shares_B))


def test_fastformer() -> None:
    mixer = build_mixer("fastformer", MixerSize(16, 2))
    words = {"query": "query_proj", "key": "key_proj", "output": "out_proj"}
    words |= {"query_score": "query_attn", "key_score": "key_attn"}
    prefix = "encoder.layers.0.mha_layer."
    state = mixer.state_dict()
    theirs = {f"{prefix}{words[n.split('.')[0]]}.{n.split('.')[1]}": t for n, t in state.items()}
    theirs[f"{prefix}query_attn.bias"] = torch.zeros(2)
    found = names.transformer(theirs, "fastformer", {})
    assert found.dropped == [f"{prefix}query_attn.bias"] and not theirs
    assert found.tensors.keys() == {prefix + name for name in state}
    for name, tensor in state.items():
        assert torch.equal(found.tensors[prefix + name], tensor)
