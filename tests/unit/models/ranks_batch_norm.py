"""Networks with batch norm on the utterances of a rank; run by test_ranks_batch_norm.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group
from torch import Tensor, nn

from summarymixing_modules.encoders import ContextNetEncoder
from summarymixing_modules.encoders.batch_norm import MaskedBatchNorm
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.probing.heads import ContextNetCTCHead
from summarymixing_modules.probing.speaker_heads import EmbeddedClassHead

D, FRAMES = 6, 40
#: Real frames of the utterances of each rank: one utterance beside three.
RANKS = ([23], [40, 9, 31])
ALL_PADDED = ([0], [40, 9, 31])
RUN_OPTS = {"device": "cpu", "distributed_launch": True, "distributed_backend": "gloo"}


class Masked(nn.Module):
    """A layer that takes a mask, called with lengths."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        padding_BT = lengths_to_padding(lengths_B, x_BTD.shape[1])
        if isinstance(self.layer, MaskedBatchNorm):
            return self.layer(x_BTD, padding_BT)
        return self.layer(x_BTD, src_key_padding_mask=padding_BT)[0]


SMALL = {"num_blocks": 2, "num_layers": 2, "conv_channels": [8, 8], "dropout": 0.0}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[list[int], ...]]] = {
    "norm": (lambda: Masked(MaskedBatchNorm(nn.BatchNorm1d(D))), RANKS),
    "a rank of padding": (lambda: Masked(MaskedBatchNorm(nn.BatchNorm1d(D))), ALL_PADDED),
    "contextnet": (lambda: Masked(ContextNetEncoder(D, **SMALL)), RANKS),
    "contextnet head": (lambda: ContextNetCTCHead(D, 5, 8, **SMALL), RANKS),
    "ecapa": (lambda: EmbeddedClassHead(D, 5, "ecapa", [16] * 4 + [24], 7), RANKS),
    "xvector": (lambda: EmbeddedClassHead(D, 5, "xvector", [8, 8, 8, 8, 12], 7), RANKS),
}


def make(name: str) -> nn.Module:
    """The same weights in every process; float64: batch norm of four rows magnifies errors."""
    torch.manual_seed(0)
    return NETWORKS[name][0]().double().train()


def trained(module: nn.Module, lengths: list[list[int]], first: int) -> dict[str, Tensor]:
    """One step on utterances ``first``, ``first + 1``, …: output, gradients, statistics."""
    lengths_B = torch.tensor(sum(lengths, []))
    rows, draws = slice(first, first + len(lengths_B)), torch.Generator().manual_seed(1)
    x_BTD = torch.randn(4, FRAMES, D, generator=draws).double()[rows]
    y = module(x_BTD, lengths_B)
    if y.ndim == 3:
        y = y.masked_fill(lengths_to_padding(lengths_B, FRAMES)[..., None], 0.0)
    (y.tanh() * torch.randn(4, *y.shape[1:], generator=draws)[rows]).sum().backward()
    network = getattr(module, "module", module)
    gradients = {f"grad of {n}": p.grad for n, p in network.named_parameters()}
    found = {"output": y.detach(), **gradients, **dict(network.named_buffers())}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def run_rank(rank: int, folder: Path) -> None:
    """Wraps every network as SpeechBrain's Brain does, and saves what this rank found."""
    ddp_init_group(RUN_OPTS)
    found = {}
    for name, (_, ranks) in NETWORKS.items():
        brain = sb.Brain({"network": make(name)}, run_opts=RUN_OPTS)
        brain._wrap_distributed()
        first = sum(len(lengths) for lengths in ranks[:rank])
        found[name] = trained(brain.modules["network"], [ranks[rank]], first)
    torch.save(found, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()
