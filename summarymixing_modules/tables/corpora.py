"""The folders of the corpora: given with ``--data``, or, the demo corpus, made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from summarymixing_modules.data.demo.corpus import make_demo_corpus
from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.tables.schema import Table, TableError

DEMO = "demo"
DEMO_FOLDER = "data/demo"  # that of `summarymixing demo`
DEMO_SENTENCES = 5000
#: Files of weights: of bundles and of transformers, of older transformers, of runs.
WEIGHTS = (".safetensors", ".bin", ".ckpt")


def corpus_folders(table: Table, given: Sequence[str]) -> dict[str, Path]:
    """Where the corpora of a table are.

    Args:
        table: the table.
        given: the ``NAME=FOLDER`` of the command line.

    Raises:
        TableError: one is not of that form, the table has no such corpus, or there is no such
            folder or file (of the demo corpus, which can be made, nothing is asked).
    """
    found = {DEMO: Path(DEMO_FOLDER).absolute()} if DEMO in table.corpora else {}
    for entry in given:
        name, equals, folder = entry.partition("=")
        if not equals or not folder:
            raise TableError(f"--data {entry}: write NAME=FOLDER.")
        if name not in table.corpora:
            known = ", ".join(table.corpora) or "none"
            raise TableError(
                f"--data {entry}: the corpora of {table.name} are {known}."
                f"{did_you_mean(name, table.corpora)}"
            )
        path = Path(folder).absolute()
        if name != DEMO and not path.exists():
            raise TableError(f"--data {entry}: there is no {path}. {table.corpora[name].about}")
        found[name] = path
    return found


def weights_of(table: Table, folders: Mapping[str, Path]) -> dict[str, str]:
    """A hash (the first 16 digits) of the weights of every model given, wherever it lies.

    Raises:
        TableError: a folder holds no weights.
    """
    found = {}
    for name in (name for name in folders if table.corpora[name].weights):
        folder, total = folders[name], hashlib.sha256()
        files = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS)
        if not files:
            raise TableError(
                f"--data {name}={folder} holds no weights ({', '.join(WEIGHTS)}). Give "
                f"{table.corpora[name].about}."
            )
        for file in files:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        found[name] = total.hexdigest()[:16]
    return found


def make_missing_demo(folder: Path) -> None:
    """Make the demo corpus, in the size of ``summarymixing demo``, if there is none in a folder."""
    if not (folder / "LibriSpeech").exists():
        print(make_demo_corpus(folder, DEMO_SENTENCES))
