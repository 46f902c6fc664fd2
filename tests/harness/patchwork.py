# SPDX-License-Identifier: GPL-2.0
"""A pair of disks of which each block is known to be zeroes or data, equal or not: what `sparse`
and `delta` tell apart."""

import random

from harness import io
from harness.data import SECTOR, stamped
from harness.track import Pair

BLOCK = 8

# What a block is, on the backing device and on the clone, and what becomes of it with `sparse`,
# with `delta` and with both; without them it is copied.
KINDS = {
    "data": ("copied", "copied", "copied"),
    "zero": ("zeroed", "copied", "zeroed"),
    "nearly zero": ("copied", "copied", "copied"),
    "same": ("copied", "unchanged", "unchanged"),
    "nearly same": ("copied", "copied", "copied"),
    "same zeroes": ("zeroed", "unchanged", "unchanged"),
    "zeroes there": ("copied", "copied", "copied"),
}
FEATURES = {
    "none": (),
    "sparse": ("sparse",),
    "delta": ("delta",),
    "both": ("sparse", "delta"),
}


class Patchwork:
    """Fills both ranges of a pair, whose target is still to be made, block by block."""

    def __init__(self, pair: Pair, seed: int = 1):
        self.pair = pair
        choose = random.Random(seed)
        first = pair.offsets[1]
        # (first sector of the target, sectors, kind)
        self.blocks: list[tuple[int, int, str]] = []
        names = list(KINDS)
        kind = ""
        at = 0
        while at < pair.length:
            count = min(BLOCK - (first + at) % BLOCK, pair.length - at)
            # Runs of some blocks, and single ones.
            if not kind or choose.random() < 0.4:
                kind = choose.choice(names)
            self.blocks.append((at, count, kind))
            at += count
        backing, clone = bytearray(), bytearray()
        for at, count, kind in self.blocks:
            ours, theirs = self._block(at, count, kind)
            backing += ours
            clone += theirs
        for image, offset, content in zip(
            (pair.backing, pair.clone), pair.offsets, (backing, clone), strict=True
        ):
            io.write(image.disk, offset, bytes(content))
            image.expect(offset, bytes(content))

    @staticmethod
    def _block(at: int, count: int, kind: str) -> tuple[bytes, bytes]:
        zeroes = bytes(count * SECTOR)
        data, old = stamped("new", at, count), stamped("old", at, count)
        # Of what is nearly so, only the last byte is not.
        return {
            "data": (data, old),
            "zero": (zeroes, old),
            "nearly zero": (zeroes[:-1] + b"\1", zeroes),
            "same": (data, data),
            "nearly same": (data, data[:-1] + bytes([data[-1] ^ 1])),
            "same zeroes": (zeroes, zeroes),
            "zeroes there": (data, zeroes),
        }[kind]

    def expected(self, features: str, first: int = 0, sectors: int | None = None) -> dict[str, int]:
        """The counters after all was copied once with these features, or what lies whole in a part
        of it."""
        end = self.pair.length if sectors is None else first + sectors
        found = dict.fromkeys(("copied", "zeroed", "unchanged"), 0)
        for at, count, kind in self.blocks:
            if first <= at and at + count <= end:
                found[self.becomes(kind, features)] += count
        return found

    @staticmethod
    def becomes(kind: str, features: str) -> str:
        """What becomes of such a block."""
        if features == "none":
            return "copied"
        return KINDS[kind][("sparse", "delta", "both").index(features)]

    def runs(self, features: str, wanted: str) -> list[tuple[int, int]]:
        """The adjacent sectors of the target that the same becomes of: (first sector, count)."""
        found: list[tuple[int, int]] = []
        for at, count, kind in self.blocks:
            if self.becomes(kind, features) != wanted:
                continue
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + count)
            else:
                found.append((at, count))
        return found
