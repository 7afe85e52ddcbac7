"""The Python of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from summarymixing_modules.mixers import build_mixer, mixer_names, unregister_mixer
from summarymixing_modules.mixers.registry import MixerSize

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:30])
def test_block_runs(block: str) -> None:
    known = set(mixer_names())
    try:
        exec(compile(block, str(README), "exec"), {"__name__": "readme"})
        for name in set(mixer_names()) - known:
            assert build_mixer(name, MixerSize(16)).enc_dim == 16
    finally:
        for name in set(mixer_names()) - known:
            unregister_mixer(name)


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 2
