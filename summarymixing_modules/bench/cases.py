"""What ``summarymixing bench`` times: mixers alone, encoders and training steps, as one interface.

Shape suffixes: B batch, T frames, D model features, F features, U tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from speechbrain.nnet.losses import ctc_loss
from torch import Tensor, nn

from summarymixing_modules.bench.setup import (
    ENCODERS,
    FEATURE_RATE,
    FORWARD,
    FRONT_END_SIZE,
    MATCHED_TO,
    MELS,
    STEP,
    SUBSAMPLING,
    TOKEN_RATE,
    VOCABULARY,
    Setup,
)
from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import MixerForm, MixerSize, build_mixer, mixer_spec
from summarymixing_modules.models import ConvFrontEnd2d, CTCModel, TransformerASR
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.widths import matched_width


@dataclass(frozen=True)
class Batch:
    """Random inputs of one length.

    Attributes:
        x_BTF: features, or what an encoder or a mixer reads.
        lengths_B: their real frames.
        padding_BT: True = padded; None where nothing is, which lets mixers take their fastest way.
        tokens_BU: for a CTC loss.
    """

    x_BTF: Tensor
    lengths_B: Tensor
    padding_BT: Tensor | None
    tokens_BU: Tensor

    @property
    def mask_BT(self) -> Tensor:
        """True = padded; never None."""
        return lengths_to_padding(self.lengths_B, self.x_BTF.shape[1])

    @property
    def padded_share(self) -> float:
        """Share of padded frames."""
        return 1 - float(self.lengths_B.sum()) / (self.x_BTF.shape[0] * self.x_BTF.shape[1])


def make_batch(setup: Setup, width: int, batch: int, seconds: float) -> Batch:
    """Random inputs; lengths fall evenly from the longest so that ``setup.padding`` is padded.

    Args:
        setup: what is to be timed.
        width: features of an input frame.
        batch: utterances B.
        seconds: of the longest.
    """
    rate = FEATURE_RATE if setup.what == "steps" else FEATURE_RATE / SUBSAMPLING
    frames = max(1, round(seconds * rate))
    shares_B = torch.linspace(1, 1 - 2 * setup.padding, batch) if batch > 1 else torch.ones(1)
    generator = torch.Generator().manual_seed(0)
    lengths_B = (shares_B * frames).round().clamp(min=1).long().to(setup.device)
    padding_BT = lengths_to_padding(lengths_B, frames) if setup.padding else None
    tokens = max(1, int(min(seconds * (1 - 2 * setup.padding) * TOKEN_RATE, frames / 8)))
    return Batch(
        torch.randn(batch, frames, width, generator=generator).to(setup.device),
        lengths_B,
        padding_BT,
        torch.randint(1, VOCABULARY, (batch, tokens), generator=generator).to(setup.device),
    )


class Subject:
    """A mixer, an encoder or a model with its optimizer, ready to run on batches.

    Args:
        form: the mixer.
        setup: what all cases share.

    Attributes:
        module: what is run.
        width: features D.
        input_width: features of its input frames.

    Raises:
        InputError: this form cannot have the size.
    """

    def __init__(self, form: MixerForm, setup: Setup) -> None:
        self.form, self.setup = form, setup
        if setup.what == "mixers" and not mixer_spec(form.attention_type).capabilities.mixes:
            raise InputError(f"{form.name} is no mixer: time it with --what encoders or steps.")
        self.width = self._width()
        self.input_width = {"mixers": self.width, "encoders": FRONT_END_SIZE, "steps": MELS}[
            setup.what
        ]
        try:
            self.module = self._build().to(setup.device)
        except (ValueError, AssertionError) as error:
            raise InputError(f"{form.name} at D = {self.width}: {error}") from error
        self._called: Callable[..., Tensor] = self.call
        if setup.compiled:
            self._called = torch.compile(self.call, dynamic=False)
        self.optimizer: torch.optim.Optimizer | None = None
        if setup.what == "steps":
            self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5)
        self._scaler = torch.amp.GradScaler(
            torch.device(setup.device).type, enabled=setup.precision == "fp16"
        )

    @property
    def parameters(self) -> int:
        """How many."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def held_bytes(self) -> int:
        """Bytes of weights, buffers and the optimizer's state."""
        tensors = [*self.module.parameters(), *self.module.buffers(), *self._optimizer_state()]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def run(self, passes: str, batch: Batch) -> None:
        """One forward pass, forward and backward, or step; leaves no gradients."""
        if self.module.training != (passes != FORWARD):  # walks over all modules
            self.module.train(passes != FORWARD)
        if passes == FORWARD:
            with torch.no_grad():
                self.forward(batch)
            return
        if passes == STEP:
            self._step(batch)
        else:
            leaf_BTF = batch.x_BTF.detach().requires_grad_()
            y_BTD = self.forward(replace(batch, x_BTF=leaf_BTF))
            y_BTD.backward(torch.ones_like(y_BTD))
        for parameter in self.module.parameters():
            parameter.grad = None

    def move(self, device: str) -> None:
        """Takes weights and the optimizer's state elsewhere, to make room or to come back."""
        self.module.to(device)
        for state in self.optimizer.state.values() if self.optimizer else ():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dim() > 0:
                    state[name] = value.to(device)

    def forward(self, batch: Batch, precision: str | None = None) -> Tensor:
        """Output, in the precision (None = the setup's) and compiled as the setup says."""
        with self.setup.autocast(precision):
            return self._called(batch.x_BTF, batch.lengths_B, batch.padding_BT)

    def call(self, x_BTF: Tensor, lengths_B: Tensor, padding_BT: Tensor | None) -> Tensor:
        """Output of the module; ``padding_BT`` None = nothing is padded. Compiled as a whole."""
        if self.setup.what == "mixers":
            return self.module(x_BTF, padding_BT)
        if self.setup.what == "encoders":
            shares_B = None if padding_BT is None else lengths_B / x_BTF.shape[1]
            encode: Callable[..., Tensor] = self.module.encode  # type: ignore[assignment]
            return encode(x_BTF, shares_B)
        return self.module(x_BTF, lengths_B)[0]

    def _step(self, batch: Batch) -> None:
        assert self.optimizer is not None
        log_probs_BTV = self.forward(batch)
        lengths_B = torch.div(batch.lengths_B + SUBSAMPLING - 1, SUBSAMPLING, rounding_mode="floor")
        shares_B = lengths_B / log_probs_BTV.shape[1]
        everything_B = torch.ones_like(shares_B)
        loss = ctc_loss(log_probs_BTV, batch.tokens_BU, shares_B, everything_B, blank_index=0)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def _optimizer_state(self) -> list[Tensor]:
        states = self.optimizer.state.values() if self.optimizer else ()
        return [v for state in states for v in state.values() if isinstance(v, Tensor)]

    def _width(self) -> int:
        setup, form = self.setup, self.form
        if not setup.matched:
            return setup.d_model
        return matched_width(
            form.attention_type,
            MATCHED_TO,
            setup.d_model,
            FRONT_END_SIZE,
            VOCABULARY,
            form.options,
            multiple_of=8 if setup.d_model % 8 == 0 else 2,
            **setup.encoder_arguments,
        )

    def _build(self) -> nn.Module:
        setup, form = self.setup, self.form
        torch.manual_seed(0)
        if setup.what == "mixers":
            d_ffn = ENCODERS[setup.encoder].get("d_ffn", 4 * self.width)
            size = MixerSize(self.width, setup.nhead, d_ffn, setup.dropout)
            return build_mixer(form.attention_type, size, **form.options)
        transformer = TransformerASR(
            VOCABULARY,
            FRONT_END_SIZE,
            d_model=self.width,
            num_decoder_layers=0,
            dropout=setup.dropout,
            attention_type=form.attention_type,
            mixer_options=form.options,
            **setup.encoder_arguments,
        )
        if setup.what == "encoders":
            return transformer
        return CTCModel(ConvFrontEnd2d(MELS, dropout=setup.dropout), transformer, VOCABULARY)
