# SPDX-License-Identifier: GPL-2.0
"""Test data that tells where it comes from, and comparisons that say it.

Every sector holds its own number and the name of the data set, then bytes that are the same in
all sectors of the set but never repeat inside one. So a sector that is at the wrong place, of the
wrong set or shifted by some bytes is recognised, and a failure says which it is.
"""

import functools
import random
import struct

SECTOR = 512
_STAMP = struct.Struct("<8sQ")


@functools.cache
def _filling(name: str) -> bytes:
    return random.Random(name).randbytes(SECTOR - _STAMP.size)


@functools.lru_cache(maxsize=4)
def stamped(name: str, first: int, count: int) -> bytes:
    """The sectors first..first+count-1 of the data set `name` (at most eight letters)."""
    key = name.encode().ljust(8)
    filling = _filling(name)
    return b"".join(_STAMP.pack(key, first + number) + filling for number in range(count))


def describe(sector: bytes) -> str:
    """Say what one sector holds."""
    if not any(sector):
        return "zeroes"
    name, number = _STAMP.unpack_from(sector)
    try:
        text = name.decode("ascii").rstrip()
    except UnicodeDecodeError:
        return f"unknown data {sector[:16].hex()}..."
    if text.isalnum() and sector[_STAMP.size :] == _filling(text):
        return f"'{text}' sector {number}"
    return f"unknown data {sector[:16].hex()}..."


def differences(wanted: bytes, found: bytes, first: int = 0, limit: int = 6) -> list[str]:
    """Where two runs of sectors differ, and what is there; empty if they are equal."""
    if wanted == found:
        return []
    if len(wanted) != len(found):
        return [f"{len(found)} bytes instead of {len(wanted)}"]
    lines = []
    count = 0
    for position in range(0, len(wanted), SECTOR):
        want, have = wanted[position : position + SECTOR], found[position : position + SECTOR]
        if want != have:
            count += 1
            if len(lines) < limit:
                sector = first + position // SECTOR
                lines.append(f"sector {sector}: {describe(have)}, not {describe(want)}")
    lines.append(f"{count} of {len(wanted) // SECTOR} sectors differ")
    return lines


def assert_same(wanted: bytes, found: bytes, what: str, first: int = 0) -> None:
    """Fail with a readable account if two runs of sectors differ."""
    different = differences(wanted, found, first)
    assert not different, f"{what}:\n" + "\n".join(different)
