"""Token mixers: one file each, one contract (base.py), one registry (registry.py).

The form that its paper writes of each is in naive.py.
"""

from summarymixing_modules.mixers.base import Capabilities, Mixer, UnsupportedByMixer
from summarymixing_modules.mixers.registry import (
    MixerForm,
    MixerSize,
    MixerSpec,
    build_mixer,
    mixer_forms,
    mixer_names,
    mixer_spec,
    options_by_mixer,
    reference_options,
    register_mixer,
    select_options,
    unregister_mixer,
)
from summarymixing_modules.mixers.stream import StreamState
from summarymixing_modules.ops.chunks import Chunks

# isort: split
# Importing a mixer's file registers it.
from summarymixing_modules.mixers.adapter import MixerAdapter
from summarymixing_modules.mixers.bigbird import BigBird
from summarymixing_modules.mixers.cnnonly import NoMixer
from summarymixing_modules.mixers.fastformer import Fastformer
from summarymixing_modules.mixers.hypermixing import HyperMixing
from summarymixing_modules.mixers.linformer import Linformer
from summarymixing_modules.mixers.localattention import LocalAttention
from summarymixing_modules.mixers.mamba import Mamba
from summarymixing_modules.mixers.performer import Performer
from summarymixing_modules.mixers.pom import PoM
from summarymixing_modules.mixers.rope_mha import RoPEMHA
from summarymixing_modules.mixers.sb_attention import RegularMHA, RelPosMHAXL
from summarymixing_modules.mixers.summary_mixing import SummaryMixing

__all__ = [
    "BigBird",
    "Capabilities",
    "Chunks",
    "Fastformer",
    "HyperMixing",
    "Linformer",
    "LocalAttention",
    "Mamba",
    "Mixer",
    "MixerAdapter",
    "MixerForm",
    "MixerSize",
    "MixerSpec",
    "NoMixer",
    "Performer",
    "PoM",
    "RegularMHA",
    "RelPosMHAXL",
    "RoPEMHA",
    "StreamState",
    "SummaryMixing",
    "UnsupportedByMixer",
    "build_mixer",
    "mixer_forms",
    "mixer_names",
    "mixer_spec",
    "options_by_mixer",
    "reference_options",
    "register_mixer",
    "select_options",
    "unregister_mixer",
]
