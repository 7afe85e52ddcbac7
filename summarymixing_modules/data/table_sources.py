"""``summarymixing manifest``: what other programs keep as a table for ``corpus: manifest``."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from summarymixing_modules.data.files import replacing
from summarymixing_modules.data.manifest import ManifestError
from summarymixing_modules.data.tables import COLUMNS
from summarymixing_modules.errors import InputError

_Rows = Iterator[dict[str, Any]]
#: Seconds by which a cut may differ from its recording and still be all of it.
_WHOLE = 0.001
#: Names that mean something in a table, and nothing as custom fields of a cut.
_TAKEN = frozenset(name for names in COLUMNS.values() for name in names)
#: Seconds by which something said may reach beyond a cut: times are rounded.
_ROUNDED = 0.1


def write_table(kind: str, source: Path, table: Path, progress: bool = True) -> int:
    """Writes a table (JSON lines) of what another program has kept; returns how many rows it has.

    Args:
        kind: one of `SOURCES`.
        source: the folder or file.
        table: to write. Audio that the source holds itself goes into the folder ``NAME_audio``
            beside it.
        progress: show a bar.

    Raises:
        InputError: the table or that folder exists, or the source cannot be read or told in a
            table; says why.
    """
    if table.exists():
        raise InputError(f"--out={table}: is there already: give another name, or delete it")
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    count = 0
    with replacing(table) as file:
        bar = tqdm(SOURCES[kind](source, table), unit="row", disable=None if progress else True)
        for row in bar:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise InputError(f"{source}: holds no utterances")
    return count


def lhotse_rows(source: Path, table: Path) -> _Rows:
    """Rows of the cuts of a file of Lhotse, ``.jsonl`` or ``.jsonl.gz``; one cut is one utterance.

    The supervisions of a cut are joined; its custom fields become columns.

    Raises:
        ManifestError: no such file, or a cut that is no part of one file, or is changed when read.
    """
    del table
    opened = gzip.open if source.suffix == ".gz" else open
    try:
        with opened(source, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _of_cut(json.loads(line), f"{source}:{number}")
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as err:
        if isinstance(err, InputError):
            raise
        raise ManifestError(f"{source}: are no cuts of Lhotse as JSON lines ({err!r})") from err


def _of_cut(cut: Mapping[str, Any], where: str) -> dict[str, Any]:
    if problem := _why_no_row(cut):
        raise ManifestError(
            f"{where}: the cut {cut.get('id')} cannot be a row of a table, since {problem}: save "
            "what the cuts hear (trim_to_supervisions, save_audios) and take the cuts of that"
        )
    recording, said = cut["recording"], _said(cut)
    audio = recording["sources"][0]
    speakers = {part["speaker"] for part in said if part.get("speaker")}
    row: dict[str, Any] = {"id": cut["id"], "path": os.path.abspath(audio["source"])}
    if cut["start"] or abs(cut["duration"] - recording["duration"]) > _WHOLE:
        row |= {"start": cut["start"]}
    row |= {"duration": cut["duration"], "text": " ".join(p.get("text") or "" for p in said)}
    row |= {"speaker": speakers.pop() if len(speakers) == 1 else ""}
    custom = [part.get("custom") or {} for part in said if len(said) == 1]
    for values in (*custom, cut.get("custom") or {}):
        row |= {k: v for k, v in values.items() if _is_plain(v) and k.lower() not in _TAKEN}
    return row


def _said(cut: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(cut.get("supervisions") or (), key=lambda part: part["start"])


def _why_no_row(cut: Mapping[str, Any]) -> str | None:
    """Why a cut is not simply a part of a file, with all that is said in it; None if it is."""
    if "recording" not in cut:
        return "it is made of several, or has no recording"
    recording = cut["recording"]
    sources = recording["sources"]
    changes = {change.get("name") for change in recording.get("transforms") or ()} - {"Resample"}
    if changes:
        return f"its audio is changed when it is read ({changes.pop()})"
    if len(sources) > 1 or len(sources[0]["channels"]) > 1:
        return "its recording has several channels"
    if sources[0]["type"] != "file":
        return f"its audio is a {sources[0]['type']}, not a file"
    for part in _said(cut):
        if (
            part["start"] < -_ROUNDED
            or part["start"] + part["duration"] > cut["duration"] + _ROUNDED
        ):
            return "something that is said reaches beyond it"
    return None


def hugging_face_rows(source: Path, table: Path) -> _Rows:
    """Rows of a folder that ``save_to_disk`` of Hugging Face's datasets has written.

    Audio that it holds as bytes is written into a folder beside the table. Splits are told in the
    column ``split``, labels by their names.

    Raises:
        InputError: the package is missing, it is no such folder, or has no column of audio, or a
            row has none; or files would be written over others.
    """
    folder = table.with_name(f"{table.stem}_audio")
    if folder.exists():
        raise InputError(f"{folder}: is there already, and audio goes there: delete it")
    try:
        import datasets
    except ImportError as err:
        raise InputError(
            "--from hf needs the package datasets: python -m pip install datasets"
        ) from err
    try:
        found = datasets.load_from_disk(str(source))
    except (OSError, ValueError) as err:
        raise InputError(f"{source}: is no folder of datasets' save_to_disk ({err})") from err
    splits = found if isinstance(found, datasets.DatasetDict) else {"": found}
    for split, data in splits.items():
        features = data.features
        audio = [n for n, feature in features.items() if isinstance(feature, datasets.Audio)]
        if not audio:
            raise InputError(f"{source}: has no column of audio, but {', '.join(features)}")
        classes = {
            name: feature.names
            for name, feature in features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        data = data.cast_column(audio[0], datasets.Audio(decode=False))
        for index, entry in enumerate(data):
            plain = {k: v for k, v in entry.items() if _is_plain(v)}
            for name in classes.keys() & plain.keys():  # -1 is an unknown label
                plain[name] = classes[name][plain[name]] if plain[name] >= 0 else ""
            path = _saved(entry[audio[0]] or {}, folder / f"{split or 'all'}-{index:07d}", source)
            yield {**plain, "path": path} | ({"split": split} if split else {})


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _saved(audio: Mapping[str, Any], target: Path, source: Path) -> str:
    """Where the audio of an entry is, as a path for the table; bytes are written to a file."""
    content, path = audio.get("bytes"), audio.get("path")
    if content is None:
        if not path:
            raise InputError(f"{source}: the row {target.name} has no audio: leave it out")
        return str(source.absolute() / path)
    try:
        kind = soundfile.info(io.BytesIO(content)).format.lower()
    except soundfile.SoundFileError:
        kind = "unknown"  # the preparation of the corpus tells
    file = target.with_suffix(f".{kind}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return f"{file.parent.name}/{file.name}"


SOURCES: dict[str, Callable[[Path, Path], _Rows]] = {
    "hf": hugging_face_rows,
    "lhotse": lhotse_rows,
}
