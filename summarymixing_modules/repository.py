"""The repository that the package is installed from, with ``recipes`` and ``hparams``."""

from __future__ import annotations

from pathlib import Path

#: Where these are not, the package was installed without them.
REPOSITORY = Path(__file__).resolve().parents[1]
