"""No mixer at all: the "CNN only" row of arXiv 2307.07421 (LibriSpeech).

The host is left with its local parts: a Branchformer layer is x + cgMLP(x), a Conformer layer has
its feed-forward and convolution modules.
"""

from __future__ import annotations

from torch import Tensor

from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer


class NoMixer(Mixer):
    """The absence of a mixer: it has no parameters, adds nothing, and remembers nothing.

    A host that asks for ``capabilities.mixes`` leaves the whole branch out, its LayerNorm and its
    merge included. In a host that does not, the branch is zero.

    Args:
        enc_dim: features D.
        causal: makes no difference.
    """

    capabilities = Capabilities(linear_time=True, bidirectional=False, mixes=False)

    def mix(
        self,
        x_BTD: Tensor,
        padding_BT: Tensor | None,
        chunk_size: int | None,
        left_context_size: int | None,
        pos_embs: Tensor | None = None,
    ) -> Tensor:
        """Zeros of the shape of the input, which take no memory."""
        return x_BTD.new_zeros(()).expand_as(x_BTD)

    def initial_state(
        self,
        batch_size: int,
        left_context_size: int | None = None,
        device: object = None,
        dtype: object = None,
    ) -> tuple[()]:
        """See ``Mixer.initial_state``: nothing."""
        return ()

    def step(
        self, x_BTD: Tensor, state: tuple[()], key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        """See ``Mixer.step``."""
        return self(x_BTD, key_padding_mask), state


@register_mixer("cnnonly", NoMixer.capabilities, source="arXiv 2307.07421, CNN only")
def build_no_mixer(size: MixerSize) -> NoMixer:
    """Builds the absence of a mixer for a host layer."""
    return NoMixer(size.d_model, size.causal)
