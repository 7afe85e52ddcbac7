"""What all cases of a bench share, and the forms of mixers by name.

Sizes: the LibriSpeech models of arXiv 2307.07421; the batch of 6 is that of arXiv 2409.02596, §4.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from summarymixing_modules.mixers import MixerForm, mixer_forms
from summarymixing_modules.models.widths import check_known

FORWARD, BOTH, STEP = "forward", "forward + backward", "step"
KINDS = ("mixers", "encoders", "steps")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ENCODERS: dict[str, dict[str, int]] = {
    "conformer": {"num_encoder_layers": 12, "d_ffn": 2048, "kernel_size": 31},
    "branchformer": {"num_encoder_layers": 18, "csgu_linear_units": 3072, "kernel_size": 31},
}
REFERENCE = "RoPEMHA"  # the best attention, and what crossovers are told against
MATCHED_TO = "RelPosMHAXL"  # the papers' baseline, whose parameters the others get
FEATURE_RATE, SUBSAMPLING = 100, 4  # feature frames a second; of them in an encoder frame
MELS, FRONT_END_SIZE, VOCABULARY = 80, 640, 500
TOKEN_RATE = 3.0  # tokens a second, about what 500 unigrams give for read speech


@dataclass(frozen=True)
class Setup:
    """What all cases of a run share.

    Attributes:
        what: one of ``KINDS``.
        encoder: "conformer" or "branchformer"; of mixers, what ``matched`` looks at.
        d_model: features D; with ``matched``, those of ``MATCHED_TO``.
        nhead: heads.
        layers: of the encoder; None = as in the paper.
        matched: give every encoder as many parameters.
        precision: a key of ``DTYPES``; half precisions by autocast.
        compiled: with ``torch.compile``, for every length anew.
        device: where all runs.
        dropout: while training; in attention it excludes PyTorch's fastest kernels.
        padding: share of padded frames in a batch.
    """

    what: str = "encoders"
    encoder: str = "conformer"
    d_model: int = 512
    nhead: int = 8
    layers: int | None = None
    matched: bool = False
    precision: str = "fp32"
    compiled: bool = False
    device: str = "cpu"
    dropout: float = 0.0
    padding: float = 0.0

    @property
    def on_cuda(self) -> bool:
        """Runs on a GPU, which tells its memory and says itself when it is full."""
        return torch.device(self.device).type == "cuda"

    def autocast(self, precision: str | None = None) -> AbstractContextManager[Any]:
        """Context of a precision; None = the setup's."""
        precision = precision or self.precision
        kind, dtype = torch.device(self.device).type, DTYPES[precision]
        return torch.autocast(kind, dtype=dtype, enabled=precision != "fp32")

    @property
    def encoder_arguments(self) -> dict[str, Any]:
        """Of ``TransformerASR``, but width and mixer."""
        sizes = {**ENCODERS[self.encoder], "nhead": self.nhead}
        if self.layers is not None:
            sizes["num_encoder_layers"] = self.layers
        return {"encoder_module": self.encoder, **sizes}


def find_forms(names: Sequence[str] | None = None) -> list[MixerForm]:
    """Forms of mixers by name, those of other installed packages included.

    Args:
        names: mixers (all their forms are taken) or single forms; None = everything that mixes.

    Raises:
        InputError: an unknown name.
    """
    if names is None:
        return mixer_forms()
    forms = mixer_forms(also_none=True)
    found: dict[str, MixerForm] = {}
    for name in names:
        check_known(
            "mixer or form of one", name, {x for f in forms for x in (f.name, f.attention_type)}
        )
        chosen = [f for f in forms if f.name == name]
        found |= {form.name: form for form in chosen}
    return list(found.values())
