"""Audio inside shards: where it lies in a tar file, and how it is read from there.

A manifest names such audio ``SHARD.tar#OFFSET+SIZE:CRC32`` in the place of a file.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import weakref
import zlib
from dataclasses import dataclass

StrPath = str | os.PathLike[str]

_MEMBER = re.compile(r"(?P<shard>.+\.tar)#(?P<offset>\d+)\+(?P<size>\d+):(?P<crc>[0-9a-f]{8})")
#: Shards that a process keeps open. Soft limits of open files are 1024, as a rule.
_OPEN_SHARDS = 256


class MemberError(Exception):
    """What lies in a shard is not what was written there."""


@dataclass(frozen=True, slots=True)
class Member:
    """Audio in a shard.

    Attributes:
        shard: the tar file.
        offset: of its first byte.
        size: bytes.
        crc: CRC-32 of them.
    """

    shard: str
    offset: int
    size: int
    crc: int

    @classmethod
    def of(cls, path: StrPath) -> Member | None:
        """The member that a path of a manifest names; None if it names a file."""
        match = _MEMBER.fullmatch(os.fspath(path))
        if match is None:
            return None
        return cls(match["shard"], int(match["offset"]), int(match["size"]), int(match["crc"], 16))

    def __str__(self) -> str:
        return f"{self.shard}#{self.offset}+{self.size}:{self.crc:08x}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: the shard cannot be opened or read.
            MemberError: it is not there, or is not what was written.
        """
        try:
            content = _opened(self.shard).read(self.size, self.offset)
        except OSError:  # a descriptor may go stale where files are far away
            _opened.cache_clear()
            content = _opened(self.shard).read(self.size, self.offset)
        if len(content) < self.size:
            raise MemberError("the shard ends before it")
        if zlib.crc32(content) != self.crc:
            raise MemberError("its CRC-32 is wrong")
        return content

    def open(self) -> int:
        """A descriptor of a file in memory with its bytes, to be closed; errors as `read`."""
        content = self.read()
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("member")
        else:  # not on Linux
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.pwrite(descriptor, content, 0)
        return descriptor


def file_of(path: StrPath) -> str:
    """The file that a path of a manifest needs: itself, or the shard that a member lies in."""
    member = Member.of(path)
    return os.fspath(path) if member is None else member.shard


class _Shard:
    """An open shard; `pread` has no position, so forked workers and threads may share it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, size: int, offset: int) -> bytes:
        parts = []
        while size > 0 and (part := os.pread(self.descriptor, size, offset)):
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return b"".join(parts)


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _opened(path: str) -> _Shard:
    """One that falls out of the cache is closed once nobody reads it any more."""
    return _Shard(path)
