# SPDX-License-Identifier: GPL-2.0
"""A block device as the tests see it: its node, its size, its queue and its counters."""

import os
from dataclasses import dataclass
from pathlib import Path

from harness.command import read_text, write_text


@dataclass(frozen=True)
class Counters:
    """/sys/block/X/stat, as Documentation/block/stat.rst names it (requests; sectors)."""

    reads: int
    sectors_read: int
    writes: int
    sectors_written: int
    in_flight: int
    discards: int
    sectors_discarded: int
    flushes: int


@dataclass(frozen=True)
class Disk:
    """A whole block device, known by its name in /sys/block."""

    name: str

    @property
    def path(self) -> str:
        """The device node."""
        return f"/dev/{self.name}"

    @property
    def sys(self) -> Path:
        """The folder in sysfs."""
        return Path("/sys/block") / self.name

    @property
    def number(self) -> str:
        """major:minor, as a dm table prints it."""
        return read_text(self.sys / "dev")

    @property
    def sectors(self) -> int:
        """The size, in sectors of 512 bytes."""
        return int(read_text(self.sys / "size"))

    @property
    def block(self) -> int:
        """The logical block size in sectors."""
        return int(self.queue("logical_block_size")) // 512

    def queue(self, attribute: str) -> str:
        """One file of the queue folder."""
        return read_text(self.sys / "queue" / attribute)

    def set_queue(self, attribute: str, value: object) -> None:
        """Change one file of the queue folder."""
        write_text(self.sys / "queue" / attribute, value)

    def counters(self) -> Counters:
        """What the device has done so far."""
        numbers = [int(word) for word in read_text(self.sys / "stat").split()]
        return Counters(
            reads=numbers[0],
            sectors_read=numbers[2],
            writes=numbers[4],
            sectors_written=numbers[6],
            in_flight=numbers[8],
            discards=numbers[11],
            sectors_discarded=numbers[13],
            flushes=numbers[15],
        )

    def used_by(self) -> list[str]:
        """The kernel names of the devices that hold this one."""
        return sorted(holder.name for holder in (self.sys / "holders").iterdir())

    def exists(self) -> bool:
        """Whether the disk is there and its node too (devtmpfs makes it a moment later)."""
        return self.sys.is_dir() and os.path.exists(self.path)
