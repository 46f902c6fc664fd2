# SPDX-License-Identifier: GPL-2.0
"""A disk that fails where and when a test says: mapped devices of kinds that the kernel has for
tests, and drivers that do it themselves."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.clone_rs import linear_table
from harness.command import write_text
from harness.data import SECTOR
from harness.disk import Disk
from harness.disk_factories import CONFIGFS
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair

# What the drivers and the kinds of mapped devices say about it.
SAID = (
    r"(I/O|protection|critical (target|medium)|transport) error, dev |Buffer I/O error"
    r"|[Ss]ynchroniz|rejecting I/O|offline|DID_NO_CONNECT|\[sd\w+\]|^device-mapper: dust"
)

Place = tuple[int, int]


def allow_read_errors(log: Guard) -> None:
    """What is said about errors of a copy."""
    log.allow(OURS + "copy: ")
    log.allow(SAID)


def allow_errors(log: Guard) -> None:
    """The same, and what is said about a clone that is detached, or can't be flushed."""
    log.allow(OURS + "(copy: |clone device |flush of )")
    log.allow(SAID)


class Faulty:
    """A mapped device over a whole disk; the places that fail are (sector, count).

    As long as nothing fails it is a dm-linear.
    """

    def __init__(self, rig: Rig, below: Disk):
        self.below = below
        self._device = rig.linear(below)
        self.disk = self._device.disk
        self.heal()

    def bad(self, sector: int, count: int) -> str:
        """The line of the table for a place that fails."""
        return f"{sector} {count} error"

    def fail(self, *places: Place) -> None:
        """From now on these places fail, and no others."""
        self._load({place: self.bad(*place) for place in places})

    def fail_flushes(self) -> None:
        """From now on flushes fail, and writes to the last 8 sectors: a flush goes to each line of
        the table, and to a dm-linear that is not there no longer."""
        place = (self.below.sectors - 8, 8)
        self._load({place: f"{place[0]} 8 flakey {self.below.path} {place[0]} 0 1 1 error_writes"})

    def heal(self) -> None:
        """From now on nothing fails."""
        self._load({})

    def _load(self, places: dict[Place, str]) -> None:
        lines, at = [], 0
        for (sector, count), line in sorted(places.items()):
            if sector > at:
                lines.append(linear_table(self.below, at, sector - at, start=at))
            lines.append(line)
            at = sector + count
        if at < self.below.sectors:
            lines.append(linear_table(self.below, at, start=at))
        self._device.reload("\n".join(lines))


class Flakey(Faulty):
    """dm-flakey in its intervals of failure, which have no end."""

    def bad(self, sector: int, count: int) -> str:
        """The line of the table for a place that fails."""
        return f"{sector} {count} flakey {self.below.path} {sector} 0 1"


class FlakeyReads(Faulty):
    """The same, for reads only."""

    def bad(self, sector: int, count: int) -> str:
        """The line of the table for a place that fails."""
        return f"{sector} {count} flakey {self.below.path} {sector} 0 1 1 error_reads"


class FlakeyWrites(Faulty):
    """The same, for writes only; flushes fail as well."""

    def bad(self, sector: int, count: int) -> str:
        """The line of the table for a place that fails."""
        return f"{sector} {count} flakey {self.below.path} {sector} 0 1 1 error_writes"


class Dust:
    """dm-dust: bad logical blocks. They can't be read until they are written; with `writes` it is
    writes that fail, so many times. Block 0 is healed by a flush."""

    def __init__(self, rig: Rig, below: Disk, writes: int = 0):
        self.below = below
        self._writes = writes
        size = below.block * SECTOR
        self._device = rig.mapped(f"0 {below.sectors} dust {below.path} 0 {size}")
        self.disk = self._device.disk
        self._device.message("quiet")
        self._device.message("enable")

    def fail(self, *places: Place) -> None:
        """From now on these places fail, and no others."""
        self.heal()
        for sector, count in places:
            first, last = sector // self.below.block, (sector + count - 1) // self.below.block
            for block in range(first, last + 1):
                writes = f" {self._writes}" if self._writes else ""
                self._device.message(f"addbadblock {block}{writes}")

    def heal(self) -> None:
        """From now on nothing fails."""
        self._device.message("clearbadblocks")


class DustWrites(Dust):
    """dm-dust whose bad blocks fail writes."""

    def __init__(self, rig: Rig, below: Disk):
        super().__init__(rig, below, writes=255)


class BadBlocks:
    """A null_blk disk's own bad blocks."""

    def __init__(self, rig: Rig, below: Disk):
        self.disk = self.below = below
        below.set_queue("nomerges", 2)
        self._rig = rig
        self._bad: list[Place] = []

    def fail(self, *places: Place) -> None:
        """From now on these places fail, and no others."""
        self.heal()
        self._bad = list(places)
        for sector, count in places:
            self._rig.badblocks(self.disk, sector, sector + count - 1)

    def heal(self) -> None:
        """From now on nothing fails."""
        for sector, count in self._bad:
            self._rig.no_badblocks(self.disk, sector, sector + count - 1)
        self._bad = []


AnyFaulty = Faulty | Dust | BadBlocks

# What fails reads, and what fails writes.
READS: dict[str, type] = {
    "error": Faulty,
    "flakey": FlakeyReads,
    "dust": Dust,
    "badblocks": BadBlocks,
}
WRITES: dict[str, type] = {
    "error": Faulty,
    "flakey": FlakeyWrites,
    "dust": DustWrites,
    "badblocks": BadBlocks,
}


def power_off(disk: Disk) -> None:
    """Take a null_blk disk away under its users."""
    write_text(CONFIGFS / "nullb" / disk.name / "power", 0)


def unplug(disk: Disk) -> None:
    """Take a SCSI disk away under its users."""
    write_text(disk.sys / "device/delete", 1)


# Disks of so many MiB, and how they are taken away.
VANISHING: dict[str, tuple[Callable[[Rig, int], Disk], Callable[[Disk], None]]] = {
    "null_blk": (lambda rig, size: rig.null_blk(size), power_off),
    "scsi": (lambda rig, size: rig.scsi_debug(size, per_host_store=1), unplug),
}


@contextlib.contextmanager
def offline(disk: Disk) -> Iterator[None]:
    """A SCSI disk that does not answer for the time of a with block, and then does again."""
    write_text(disk.sys / "device/state", "offline\n")
    try:
        yield
    finally:
        write_text(disk.sys / "device/state", "running\n")


@contextlib.contextmanager
def unreachable(disk: Disk) -> Iterator[None]:
    """A scsi_debug disk whose reads end with an error of the transport, for the time of a with
    block."""
    errors = Path("/sys/kernel/debug/scsi_debug") / (disk.sys / "device").resolve().name / "error"
    # The commands READ(10) fail, any number of times, with DID_TRANSPORT_FAILFAST.
    write_text(errors, "2 1 0x28 0x0f 0 0 0 0 0\n")
    try:
        yield
    finally:
        write_text(errors, "- 2 0x28\n")


class FaultyPair(Pair):
    """A pair of two null_blk disks, one of which, or both, are faulty."""

    def __init__(
        self,
        rig: Rig,
        kind: Callable[[Rig, Disk], AnyFaulty],
        side: str,
        features: tuple,
        size: int = 2,
        spare: int = 0,
        **queue: object,
    ):
        disks = {name: rig.null_blk(size, **queue) for name in ("backing", "clone")}
        self.bare = dict(disks)
        self.faulty = kind(rig, disks[side])
        disks[side] = self.faulty.disk
        super().__init__(rig, **disks, length=(size << 11) - spare, features=features)
