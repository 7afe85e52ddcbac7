"""One shard to be written, or kept if it is finished and nothing has changed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from summarymixing_modules.data.audio import AudioError
from summarymixing_modules.data.bad_audio import BadFile
from summarymixing_modules.data.files import replacing, write_atomically
from summarymixing_modules.data.manifest import DATA_ROOT, Row
from summarymixing_modules.data.preparation import file_state
from summarymixing_modules.data.shards.folder import DESCRIPTION, SUMS, VERSION
from summarymixing_modules.data.shards.members import Member, file_of
from summarymixing_modules.data.shards.plan import PlannedSplit
from summarymixing_modules.data.shards.tar import ShardWriter, encode

#: In the folder of shards: the manifests of the corpus, and notes on finished shards.
PREPARATION = "preparation"


class StoppedWriting(Exception):
    """Another thread has failed, or somebody has pressed Ctrl-C."""


@dataclass(frozen=True)
class ShardJob:
    """A shard and its utterances.

    Attributes:
        folder: of all shards.
        split: that it belongs to.
        number: in that.
        places: of its utterances in the manifest.
    """

    folder: Path
    split: PlannedSplit
    number: int
    places: Sequence[int]

    @property
    def name(self) -> str:
        """Of the file, in the folder."""
        return f"{self.split.name}/{self.number:06d}.tar"

    @property
    def note(self) -> dict[str, Any]:
        """What is known of the finished shard; nothing if it is not finished."""
        try:
            return dict(json.loads(self._note_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def rows(self) -> dict[int, Row]:
        """Place → utterance, with its audio in the finished shard."""
        found, root = {}, f"{DATA_ROOT}/{self.name}"
        for place, member in zip(self.places, self.note["members"], strict=True):
            if member is not None:
                row = self.split.manifest[place]
                found[place] = replace(row, wav=str(Member(root, *member)), start=0, stop=None)
        return found

    def bad(self) -> list[BadFile]:
        """What could not be used."""
        return [BadFile(**bad) for bad in self.note["bad"]]

    def make(self, tick: Callable[[int], object], stop: threading.Event) -> None:
        """Write the shard, or keep it.

        Args:
            tick: is told how many utterances are done.
            stop: ends the work between two utterances.

        Raises:
            StoppedWriting: it has been set.
        """
        rows = [self.split.manifest[place] for place in self.places]
        fingerprint = self._fingerprint(rows)
        file = self.folder / self.name
        note = self.note
        if note.get("fingerprint") == fingerprint and note.get("file") == file_state(file):
            tick(len(rows))
            return
        for finished in (DESCRIPTION, SUMS):  # which tell of a whole folder
            (self.folder / finished).unlink(missing_ok=True)
        members: list[list[int] | None] = []
        bad: list[BadFile] = []
        with replacing(file) as text:
            writer = ShardWriter(text.buffer)
            for row in rows:
                if stop.is_set():
                    raise StoppedWriting
                result = self._add(writer, row)
                members.append(None if isinstance(result, BadFile) else result)
                bad += [result] if isinstance(result, BadFile) else []
                tick(1)
            digest = writer.close()
        note = {"fingerprint": fingerprint, "file": file_state(file), "sha256": digest}
        note |= {"members": members, "bad": [asdict(one) for one in bad]}
        write_atomically(self._note_file, json.dumps(note) + "\n")

    def _add(self, writer: ShardWriter, row: Row) -> list[int] | BadFile:
        source = self.split.source(row)
        try:
            content, suffix = encode(source, row.start, row.stop, self.split.layout.audio)
        except AudioError as err:
            return BadFile(source, row.id, str(err))
        member = writer.add(row, self.split.annotations.get(row.id, {}), content, suffix)
        return [member.offset, member.size, member.crc]

    def _fingerprint(self, rows: Sequence[Row]) -> str:
        """Changes when something that the shard is made of does."""
        digest = hashlib.sha256(f"{VERSION} {self.split.layout.audio}".encode())
        for row in rows:
            labels = self.split.annotations.get(row.id, {})
            state = file_state(file_of(self.split.source(row)))
            digest.update(json.dumps([asdict(row), labels, state]).encode())
        return digest.hexdigest()

    @property
    def _note_file(self) -> Path:
        return self.folder / PREPARATION / f"{self.name}.json"
