"""Token mixers with linear cost for speech encoders, and the recipes that compare them.

>>> import torch
>>> from summarymixing_modules import SummaryMixing
>>> SummaryMixing(enc_dim=512, nhead=4)(torch.rand(2, 100, 512)).shape
torch.Size([2, 100, 512])
"""

from typing import TYPE_CHECKING, Any

from summarymixing_modules._version import __version__

if TYPE_CHECKING:
    from summarymixing_modules.mixers import (
        Mixer,
        MixerSize,
        SummaryMixing,
        build_mixer,
        mixer_names,
        register_mixer,
    )

__all__ = [
    "Mixer",
    "MixerSize",
    "SummaryMixing",
    "__version__",
    "build_mixer",
    "mixer_names",
    "register_mixer",
]


def __getattr__(name: str) -> Any:
    """The mixers come, and torch with them, when they are asked for: ``--help`` is not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from summarymixing_modules import mixers

    return getattr(mixers, name)
