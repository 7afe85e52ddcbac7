"""Are the installed packages ones that work together? Checked before anything heavy is imported.

pip cannot tell: torchaudio declares no dependencies, so an environment that breaks at `import
torchaudio` (and so at `import speechbrain`) passes `pip check`. This module reads the packages'
metadata and version files only; it imports none of them, and nothing but `packaging` beyond the
standard library.
"""

from __future__ import annotations

import logging
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from summarymixing_modules.errors import InputError

# Distribution: (versions that work, why no others). setup.py declares the same ranges.
SUPPORTED: dict[str, tuple[str, str]] = {
    "torch": (
        ">=2.11,<2.15",
        "these share the CUDA version of torchaudio 2.11, the last torchaudio",
    ),
    "torchaudio": (">=2.11,<2.12", "SpeechBrain imports it and older ones do not fit torch"),
    "speechbrain": (">=1.1.2,<1.2", "the recipes subclass its Brain, encoders and decoders"),
    "hyperpyyaml": (">=1.2.3,<1.3", "it reads the recipes' YAML files"),
    "ruamel.yaml": (">=0.18,<0.19", "0.19 breaks hyperpyyaml, which reads the recipes' YAML files"),
}
TESTED_PAIR = ("torch==2.11.0", "torchaudio==2.11.0")


class UnsupportedEnvironmentError(InputError):
    """The installed packages cannot work together; the message says which, why and the remedy."""


def check_environment() -> None:
    """Check that the installed packages work together; returns at once if they do.

    Takes a few milliseconds and changes nothing. Call it before importing speechbrain or
    torchaudio, which die with a loader's stack trace where this gives a sentence and a command.
    That is what a script ends with, too, whose import fails so.

    Raises:
        UnsupportedEnvironmentError: A package is missing, has a version outside `SUPPORTED`, or
            torchaudio is built for another CUDA than torch (a CPU build of torch, say). Lists
            every problem found, each with the command that fixes it.
    """
    found = {name: _find(name) for name in SUPPORTED}
    problems = [p for name, dist in found.items() if (p := _version_problem(name, dist))]
    if not problems and (problem := _cuda_problem(found["torch"], found["torchaudio"])):
        problems = [problem]
    if problems:
        sys.excepthook = _without_traceback
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise UnsupportedEnvironmentError(f"The installed packages cannot work together:\n{lines}")


def hush_speechbrain() -> None:
    """Drop the line with which SpeechBrain greets everybody who has no torchvision.

    It is about pictures that no recipe saves with it.
    """
    logging.getLogger("speechbrain.utils.train_logger").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.getMessage() != "torchvision is not available - cannot save figures"


def _without_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A hook for errors that nothing has caught."""
    if issubclass(kind, UnsupportedEnvironmentError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _version_problem(name: str, dist: Distribution | None) -> str | None:
    """Say what is wrong with the version of one package, if anything.

    Pre-releases and vendors' builds (2.11.0a0+x) count as the release they lead to.
    """
    versions, reason = SUPPORTED[name]
    fix = f'Fix: python -m pip install "{name}{versions}"'
    if dist is None:
        return f"{name} is not installed.\n  {fix}"
    if Version(dist.version).base_version in SpecifierSet(versions):
        return None
    return f"{name} {dist.version} is installed, but needed is {name}{versions}: {reason}.\n  {fix}"


def _cuda_problem(torch: Distribution | None, torchaudio: Distribution | None) -> str | None:
    """Say whether torchaudio's compiled library can load beside this torch.

    The library is linked to one CUDA version's runtime and to torch's CUDA libraries. A torchaudio
    without the library (a CPU build, or its lib folder removed) imports beside any torch.
    """
    if torch is None or torchaudio is None:
        return None
    wanted = _torchaudio_cuda(torchaudio)
    version_file = _path(torch, "torch/version.py").read_text()
    match = re.search(r"^cuda\b.*= '([\d.]+)'$", version_file, re.MULTILINE)
    has = match.group(1) if match else None
    if wanted is None or wanted == has:
        return None
    lib = _path(torchaudio, "torchaudio/lib")
    build = f"CUDA {has}" if has else "the CPU only"
    return (
        f"torchaudio {torchaudio.version} is built for CUDA {wanted} and cannot load beside torch "
        f"{torch.version}, which is built for {build}.\n"
        "  Fix: python -m pip uninstall -y torch torchaudio && "
        f"python -m pip install {' '.join(TESTED_PAIR)}\n"
        "  (these run on the CPU too). To keep this torch, remove torchaudio's compiled library; "
        f"only the transducer loss needs it: rm -r '{lib}'"
    )


def _torchaudio_cuda(torchaudio: Distribution) -> str | None:
    """The CUDA version, such as "13.0", of torchaudio's compiled library; None without one."""
    if not any(_path(torchaudio, "torchaudio/lib").glob("_torchaudio*")):
        return None
    match = re.search(r"\+cu(\d+)(\d)'", _path(torchaudio, "torchaudio/version.py").read_text())
    return f"{match.group(1)}.{match.group(2)}" if match else None


def _path(dist: Distribution, file: str) -> Path:
    """Where a file of an installed distribution lies."""
    return Path(str(dist.locate_file(file)))
