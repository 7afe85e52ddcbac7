"""Packaging of summarymixing_modules: what it needs, and which versions work together."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The ranges of torch, torchaudio and ruamel.yaml are ours to state, since nobody else does:
# torchaudio declares no dependencies at all, so `pip install speechbrain` alone takes the newest
# torch, built for another CUDA than torchaudio 2.11 (the last one), and breaks at `import
# torchaudio` while `pip check` finds nothing. torch 2.11 to 2.14 share torchaudio's CUDA 13.0.
# ruamel.yaml 0.19 removed what hyperpyyaml calls. `summarymixing_modules.compat` checks the same
# ranges at run time.
REQUIRES = [
    "torch>=2.11,<2.15",
    "torchaudio>=2.11,<2.12",
    "speechbrain>=1.1.2,<1.2",
    "hyperpyyaml>=1.2.3,<1.3",
    "ruamel.yaml>=0.18,<0.19",
    "pyyaml>=6",
    "sentencepiece>=0.2.2,<0.3",
    "soundfile>=0.13,<0.15",
    "numpy>=2.0,<3",
    "scipy>=1.13,<2",
    "matplotlib>=3.9,<4",
    "rapidfuzz>=3.10,<4",
    "safetensors>=0.5,<1",
    "tqdm>=4.66,<5",
    "packaging>=24",
    "filelock>=3.13,<5",
]

EXTRAS = {
    "demo": ["espeakng-loader>=0.2.4"],
    "test": ["pytest>=8.3", "pytest-timeout>=2.3", "pytest-xdist>=3.6"],
    "lint": ["mypy>=1.15", "ruff>=0.11"],
}
EXTRAS["dev"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["microphone"] = ["sounddevice>=0.4.6"]  # needs PortAudio, which not every machine has
#: Probing its encoders, from a local folder; tables of its data sets.
EXTRAS["huggingface"] = ["datasets>=2.14", "transformers>=4.30"]


def read_version() -> str:
    """Read `__version__` as text: importing the package would need torch at build time."""
    text = (ROOT / "summarymixing_modules" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('summarymixing_modules/_version.py has no line `__version__ = "..."`')
    return match.group(1)


def read_long_description() -> str:
    """The README, where there is one (a source tree without it still installs)."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="summarymixing-modules",
    version=read_version(),
    description="Linear-time token mixers for speech: SummaryMixing and others, as SpeechBrain "
    "modules and recipes",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    author="The SummaryMixing Modules authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["summarymixing_modules", "summarymixing_modules.*"]),
    package_data={"summarymixing_modules": ["py.typed", "**/*.yaml"]},
    python_requires=">=3.11,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["summarymixing = summarymixing_modules.cli:main"]},
    zip_safe=False,
)
