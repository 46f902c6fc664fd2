# SPDX-License-Identifier: GPL-2.0
"""A backing device, its clone and the target above both, and what has to be true of them."""

from collections.abc import Callable

from harness import io
from harness.clone_rs import CloneDevice, Status, clone_table
from harness.data import SECTOR, assert_same, stamped
from harness.disk import Disk
from harness.image import Image
from harness.rig import Rig


class Pair:
    """Two disks with unlike contents, which are known, and a target that clones a range of one to
    a range of the other. With `gated` both are behind gates.

    Without `device` the target is still to be put into a table, see `segments`.
    """

    device: CloneDevice

    def __init__(
        self,
        rig: Rig,
        backing: Disk,
        clone: Disk,
        offsets: tuple[int, int] = (0, 0),
        length: int | None = None,
        features: tuple = (),
        gated: bool = False,
        device: bool = True,
        mode: str = "track",
    ):
        self.backing = Image(backing, "backing")
        self.clone = Image(clone, "clone")
        self.offsets = offsets
        if length is None:
            length = min(backing.sectors - offsets[0], clone.sectors - offsets[1])
        self.length = length
        # brd drops whole pages only, and QEMU what its options say.
        self.may_keep_discarded = backing.name.startswith(("ram", "vd"))
        self.below = (backing, clone)
        if gated:
            self.backing_gate, self.clone_gate = rig.gate(backing), rig.gate(clone)
            self.below = (self.backing_gate.disk, self.clone_gate.disk)
        self.mode = mode
        self.features = ("mode", mode, *features)
        self.table = self.line()
        self.start = self.number = 0
        if device:
            self.become_part_of(rig.clone_of(self.table), 0, 0)

    def become_part_of(self, device: CloneDevice, start: int, number: int) -> None:
        """The target is that line of a device's table, at that sector."""
        self.device, self.start, self.number = device, start, number
        self.region_size = self.status().region_size

    @property
    def lead(self) -> int:
        """How far within a logical block of the clone the target begins: the first region is as
        much shorter."""
        return self.offsets[1] % self.clone.disk.block

    def region_start(self, region: int) -> int:
        """The first sector of a region."""
        return max(0, region * self.region_size - self.lead)

    def region_of(self, sector: int) -> int:
        """The region that a sector is in."""
        return (self.lead + sector) // self.region_size

    def line(self, start: int = 0, **changed: object) -> str:
        """The table line of this pair, or one that differs in something."""
        backing, clone = self.offsets
        how = {
            "backing_offset": backing,
            "clone_offset": clone,
            "length": self.length,
            "features": self.features,
        }
        return clone_table(*self.below, start=start, **(how | changed))

    def status(self) -> Status:
        """The target's."""
        return self.device.clone_status(self.number)

    def write(self, sector: int, data: bytes) -> None:
        """Write through the mapped device."""
        io.write(self.device.disk, self.start + sector, data)
        self.backing.expect(self.offsets[0] + sector, data)

    def write_zeroes(self, sector: int, count: int) -> None:
        """Write zeroes through the mapped device, as one bio that may not be split."""
        mode = io.FALLOC_FL_PUNCH_HOLE | io.FALLOC_FL_KEEP_SIZE
        with io.direct(self.device.disk) as fd:
            io.fallocate(fd, mode, self.start + sector, count)
        self.backing.expect(self.offsets[0] + sector, bytes(count * SECTOR))

    def write_regions(self, name: str, *regions: int) -> None:
        """Write the first block of some regions, so that they are dirty."""
        for region in regions:
            sector = self.region_start(region)
            self.write(sector, stamped(name, sector, self.device.disk.block))

    def expect_copy(self, sector: int = 0, count: int | None = None) -> None:
        """From now on a range of the clone has to hold what the backing device has to hold."""
        if count is None:
            count = self.length - sector
        backing, clone = self.offsets
        self.clone.expect_copy(clone + sector, self.backing, backing + sector, count)

    def check(self, what: str) -> None:
        """Both disks hold what is expected."""
        self.backing.check(what)
        self.clone.check(what)

    def check_equal(self, what: str, skipped: int = 0) -> None:
        """Whatever was written through the mapped device: the clone's range is equal to the backing
        device's, and outside of them both are as they were.

        So many regions may be unlike that were discarded on the backing device, which reads as
        zeroes there, but on some devices.
        """
        found, copied = self._ranges()
        self.backing.expect(self.offsets[0], found)
        if skipped:
            unlike = self._unlike(found, copied)
            for part in unlike:
                sector = self.offsets[1] + part.start // SECTOR
                if self.mode == "mirror":
                    # What was written there since the discard is on both.
                    self._check_written(found[part], copied[part], what, sector)
                elif any(found[part]) and not self.may_keep_discarded:
                    assert_same(found[part], copied[part], what, sector)
            assert len(unlike) <= skipped, f"{what}: {len(unlike)} regions, {skipped} skipped"
            found = copied
        self.clone.expect(self.offsets[1], found)
        self.check(what)

    def _check_written(self, found: bytes, copied: bytes, what: str, sector: int) -> None:
        """Of a skipped region: each sector that does not read as zeroes is the same."""
        if self.may_keep_discarded:
            return
        for at in range(0, len(found), SECTOR):
            part = slice(at, at + SECTOR)
            if any(found[part]):
                assert_same(found[part], copied[part], what, sector + at // SECTOR)

    def equal_regions(self) -> int:
        """How many regions are equal on both disks."""
        return len(self._regions()) - len(self._unlike(*self._ranges()))

    def _regions(self) -> list[slice]:
        """The bytes of each region."""
        count = -(-(self.lead + self.length) // self.region_size)
        starts = [self.region_start(region) for region in range(count)]
        ends = (*starts[1:], self.length)
        return [slice(a * SECTOR, b * SECTOR) for a, b in zip(starts, ends, strict=True)]

    def _unlike(self, wanted: bytes, found: bytes) -> list[slice]:
        """The bytes of the regions that differ."""
        return [part for part in self._regions() if wanted[part] != found[part]]

    def _ranges(self) -> tuple[bytes, bytes]:
        backing, clone = self.offsets
        return (
            io.read(self.backing.disk, backing, self.length),
            io.read(self.clone.disk, clone, self.length),
        )

    def finish(self, what: str) -> Status:
        """Have a suspend copy the rest, and compare; return the status of the suspended target."""
        self.device.finish(at=self.start)
        self.device.suspend()
        return self.check_finished(what)

    def check_finished(self, what: str) -> Status:
        """The suspend has copied the rest."""
        status = self.status()
        assert status.state == "complete", f"{what}: {status}"
        assert status.in_sync + status.skipped == status.total, f"{what}: {status}"
        assert (status.health, status.copying) == ("ok", 0), f"{what}: {status}"
        self.check_equal(what, status.skipped)
        return status


def segments_table(pairs: list[Pair]) -> str:
    """A table of one line for each pair, one after the other."""
    lines, start = [], 0
    for pair in pairs:
        lines.append(pair.line(start))
        start += pair.length
    return "\n".join(lines)


def segments(rig: Rig, pairs: list[Pair]) -> CloneDevice:
    """A mapped device with a target for each pair, which were made without a device."""
    device = rig.clone_of(segments_table(pairs))
    start = 0
    for number, pair in enumerate(pairs):
        pair.become_part_of(device, start, number)
        start += pair.length
    return device


def virtio(number: int) -> Disk:
    """A disk that vm/run --disk has given to the guest."""
    return Disk("vd" + "bcdefgh"[number])


def _scsi(rig: Rig, size: int) -> tuple[Disk, Disk]:
    provisioned = {"lbpu": 1, "lbpws": 1, "lbprz": 1, "per_host_store": 1}
    return rig.scsi_debug(size, **provisioned), rig.scsi_debug(size, **provisioned)


# Kinds of backing device and clone, by name; a disk has so many MiB.
PAIRS: dict[str, Callable[[Rig, int], tuple[Disk, Disk]]] = {
    "null_blk-512": lambda rig, size: (rig.null_blk(size, discard=1), rig.null_blk(size)),
    "null_blk-4096": lambda rig, size: (
        rig.null_blk(size, blocksize=4096, discard=1),
        rig.null_blk(size, blocksize=4096),
    ),
    "null_blk-4096-512": lambda rig, size: (
        rig.null_blk(size, blocksize=4096, discard=1),
        rig.null_blk(size, cache_size=1),
    ),
    "null_blk-512-4096": lambda rig, size: (
        rig.null_blk(size, cache_size=1, fua=1),
        rig.null_blk(size, blocksize=4096),
    ),
    "null_blk-write-cache": lambda rig, size: (
        rig.null_blk(size, cache_size=1, fua=1, discard=1),
        rig.null_blk(size, cache_size=1),
    ),
    "brd": lambda rig, size: (rig.brd(size), rig.brd(size)),
    "loop": lambda rig, size: (rig.loop(size), rig.loop(size)),
    "scsi": _scsi,
}
if virtio(1).sys.is_dir():
    PAIRS["virtio"] = lambda rig, size: (virtio(0), virtio(1))
