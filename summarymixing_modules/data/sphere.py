"""NIST SPHERE files (``.sph``): what their header tells, and libsndfile does not."""

from __future__ import annotations

import os

_MAGIC = b"NIST_1A"
_HEADER_BYTES = 1024  # of nearly every file; a longer one begins with what is read here


def sphere_compression(descriptor: int) -> str:
    """How the samples of an open file are compressed; empty if they are not, or it is no SPHERE."""
    _, *codings = _fields(descriptor).get("sample_coding", "").split(",")
    return ",".join(codings)


def sphere_samples(descriptor: int) -> int | None:
    """The samples per channel that the header of an open file promises; None if it does not."""
    count = _fields(descriptor).get("sample_count", "")
    return int(count) if count.isdecimal() else None


def _fields(descriptor: int) -> dict[str, str]:
    """Name → value of the lines ``name -type value``; none of another kind of file."""
    head = os.pread(descriptor, _HEADER_BYTES, 0)
    if not head.startswith(_MAGIC):
        return {}
    lines = head.partition(b"end_head")[0].decode("latin-1").splitlines()
    parts = (line.split(maxsplit=2) for line in lines)
    return {part[0]: part[2].strip() for part in parts if len(part) == 3}
