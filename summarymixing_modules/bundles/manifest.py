"""What a bundle's folder holds: names, sizes and SHA-256 of its files, in ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from summarymixing_modules.errors import InputError

MANIFEST = "manifest.json"
RUN_FILE = "hyperparams.yaml"  # in the output folder of a recipe
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FORMAT = "summarymixing-bundle"
FORMAT_VERSION = 1

_AGAIN = "Export or download it again."


class BundleError(InputError):
    """A bundle that cannot be used; the message says why and what to do."""


def to_json(value: Any) -> bytes:
    """Strict, readable JSON."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def make_manifest(files: Mapping[str, bytes]) -> bytes:
    """The content of ``manifest.json`` for files of a bundle."""
    entries = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    }
    return to_json({"format": FORMAT, "format_version": FORMAT_VERSION, "files": entries})


def is_bundle(folder: Path) -> bool:
    """Whether a folder calls itself a bundle of this package, of whatever version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is the output folder of a recipe, and no bundle, whatever else it holds."""
    return not (folder / MANIFEST).exists() and (folder / RUN_FILE).exists()


def is_trusted_run(folder: Path, trust_run: bool) -> bool:
    """Whether a folder is a run that may be loaded, which runs code of whoever made it.

    Args:
        folder: a bundle, or the output folder of a recipe.
        trust_run: the person who asks for it trusts it.

    Raises:
        BundleError: it is a run, and nobody said that it is to be trusted.
    """
    if not is_run_folder(folder):
        return False
    if trust_run is not True:  # the word "no" of a YAML file is true, too
        raise BundleError(
            f"{folder} is no bundle (it has no {MANIFEST}) but the output folder of a training, "
            f"and loading it would run its {RUN_FILE}: that is code, and can do whatever its "
            "author wants. If you made it, say so: --trust_run to `summarymixing`, "
            "--trust_run=True to a recipe, from_run(...) in Python. If somebody sent it, ask for a "
            "bundle: `summarymixing export RUN BUNDLE` makes one."
        )
    return True


class BundleFiles:
    """The files of a bundle, each checked before it is handed out. Nothing is interpreted here.

    Args:
        folder: of the bundle.

    Raises:
        BundleError: no bundle, made by a newer version, or a manifest that is damaged or names
            files outside the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise BundleError(f"there is no folder {folder}: give the folder of a bundle.")
        if not (folder / MANIFEST).exists():
            raise BundleError(
                f"{folder} is no bundle, it has no {MANIFEST}: make one with "
                f"`summarymixing export RUN {folder}`."
            )
        manifest = self.parse_json(MANIFEST, self._bytes(MANIFEST))
        self._check_format(manifest)
        self.entries: dict[str, Any] = self._checked_entries(manifest.get("files"))

    def read(self, name: str) -> bytes:
        """The content of a file, once read and once hashed.

        Raises:
            BundleError: missing, a link out of the folder, or not what was exported.
        """
        if name not in self.entries:
            raise BundleError(f"{self.folder / MANIFEST} does not list {name}. {_AGAIN}")
        content, entry = self._bytes(name), self.entries[name]
        if len(content) != entry["bytes"]:
            raise BundleError(
                f"{self.folder / name} has {len(content)} bytes instead of {entry['bytes']}: it is "
                f"truncated or damaged. {_AGAIN}"
            )
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise BundleError(
                f"{self.folder / name} is not the file that was exported (its SHA-256 differs from "
                f"that in {MANIFEST}): it is damaged or was changed. {_AGAIN}"
            )
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """A file that holds a JSON object; see ``read``."""
        return self.parse_json(name, self.read(name))

    def parse_json(self, name: str, content: bytes) -> dict[str, Any]:
        """JSON and nothing else: no YAML, no tags, no NaN."""
        try:
            value = json.loads(
                content.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite
            )
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.folder / name} is not JSON ({error}). {_AGAIN}") from None
        if not isinstance(value, dict):
            raise BundleError(f"{self.folder / name} does not hold a JSON object. {_AGAIN}")
        return value

    def _bytes(self, name: str) -> bytes:
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BundleError(
                f"{path} is a link to {path.resolve()}, outside the bundle: replace it by the file "
                "itself (cp -rL)."
            )
        if not path.is_file():
            raise BundleError(f"{path} is missing: the bundle is incomplete. {_AGAIN}")
        return path.read_bytes()

    def _check_format(self, manifest: Mapping[str, Any]) -> None:
        version = manifest.get("format_version")
        if manifest.get("format") != FORMAT or not isinstance(version, int):
            raise BundleError(f"{self.folder / MANIFEST} is not that of a {FORMAT}. {_AGAIN}")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{self.folder} is a bundle of format {version}, and this version of "
                f"summarymixing_modules reads up to {FORMAT_VERSION}: install a newer one."
            )

    def _checked_entries(self, files: object) -> dict[str, Any]:
        if not isinstance(files, dict):
            raise BundleError(f"{self.folder / MANIFEST} lists no files. {_AGAIN}")
        for name, entry in files.items():
            if name in ("", ".", "..") or not set(name).isdisjoint("/\\:\0"):
                raise BundleError(
                    f"{self.folder / MANIFEST} lists {name!r}, which is no plain file name: this "
                    "bundle is not to be trusted."
                )
            if not isinstance(entry, dict) or not {"bytes", "sha256"} <= set(entry):
                raise BundleError(f"{self.folder / MANIFEST} has no SHA-256 of {name}. {_AGAIN}")
        return files


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    """A number, not one that is too large for a float, such as 1e999."""
    number = float(text)
    if not math.isfinite(number):
        _refuse_constant(text)
    return number
