"""No mixer at all: the "CNN only" row of arXiv 2307.07421 (LibriSpeech).

The host is left with its local parts: a Branchformer layer is x + cgMLP(x), a Conformer layer has
its feed-forward and convolution modules.
"""

from __future__ import annotations

from torch import Tensor

from summarymixing_modules.mixers.base import Capabilities, Mixer
from summarymixing_modules.mixers.registry import MixerSize, register_mixer
from summarymixing_modules.ops.chunks import Chunks


class NoMixer(Mixer):
    """The absence of a mixer: it has no parameters, adds nothing, and remembers nothing.

    A host that asks for ``capabilities.mixes`` leaves the whole branch out, its LayerNorm and its
    merge included. In a host that does not, the branch is zero.

    Args:
        enc_dim: features D.
        causal: makes no difference.
    """

    capabilities = Capabilities(linear_time=True, bidirectional=False, mixes=False)

    def mix(self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks | None) -> Tensor:
        """Zeros of the shape of the input, which take no memory."""
        return x_BTD.new_zeros(()).expand_as(x_BTD)

    def _initial_state(self, *_: object) -> tuple[()]:
        return ()

    def _step(
        self, x_BTD: Tensor, padding_BT: Tensor | None, chunks: Chunks, memory: tuple[()]
    ) -> tuple[Tensor, tuple[()]]:
        return self.mix(x_BTD, padding_BT, chunks), memory


@register_mixer("cnnonly", NoMixer.capabilities, source="arXiv 2307.07421, CNN only")
def build_no_mixer(size: MixerSize) -> NoMixer:
    """Builds the absence of a mixer for a host layer."""
    return NoMixer(size.d_model, size.causal)
