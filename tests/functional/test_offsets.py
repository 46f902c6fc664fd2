# SPDX-License-Identifier: GPL-2.0
"""Every sector of the mapped device is the right sector of the right backing device.

Writes and reads of one sector, and of a page and a region and one sector less and more, at the
borders of pages, regions and the device, at offsets of all sorts. After each round the backing
devices are compared as a whole: also what lies outside the mapped range, and the clone, which must
not be touched by user I/O in track mode.
"""

from itertools import product

import pytest

from harness import io
from harness.clone_rs import clone_table
from harness.data import assert_same, stamped
from harness.disk import Disk
from harness.image import Image
from harness.kernel_log import Guard
from harness.rig import Rig

REGION = 128
PAGE = 8
LENGTH = 5 * REGION + 24


def places(block: int) -> list[tuple[int, int]]:
    """(first sector, count) around every border that could matter."""
    borders = [0, PAGE, REGION, 2 * REGION, LENGTH]
    counts = {
        size + more * block
        for size in (PAGE, REGION, 2 * REGION)
        for more in (-1, 0, 1)
        if size + more * block > 0
    } | {block}
    starts = {border + more * block for border, more in product(borders, (-1, 0, 1))}
    starts |= {LENGTH - count for count in counts}
    return [
        (start, count)
        for start, count in product(sorted(starts), sorted(counts))
        if start >= 0 and start + count <= LENGTH
    ]


@pytest.mark.parametrize("offset", [0, 1, 7, 8, 100, 1000])
def test_borders(rig: Rig, offset: int) -> None:
    """Borders at a 512-byte backing device, for each offset of the range."""
    backing, clone = rig.null_blk(size=2), rig.null_blk(size=2)
    _borders(rig, backing, clone, offset)


@pytest.mark.parametrize("offset", [0, 8, 1000])
def test_borders_4096(rig: Rig, offset: int) -> None:
    """The same on blocks of 4096 bytes."""
    backing, clone = rig.null_blk(size=2, blocksize=4096), rig.null_blk(size=2)
    _borders(rig, backing, clone, offset)


def _borders(rig: Rig, backing: Disk, clone: Disk, offset: int) -> None:
    wanted, untouched = Image(backing, "backing"), Image(clone, "clone")
    ours = rig.clone(backing, clone, backing_offset=offset, clone_offset=8, length=LENGTH)
    assert ours.disk.sectors == LENGTH
    with io.direct(ours.disk) as fd:
        for number, (sector, count) in enumerate(places(backing.block)):
            assert_same(
                wanted.content(offset + sector, count),
                io.pread(fd, sector, count),
                f"read of {sector}+{count} at offset {offset}",
                sector,
            )
            data = stamped(f"w{number}", sector, count)
            io.pwrite(fd, sector, data)
            wanted.expect(offset + sector, data)
    assert_same(
        wanted.content(offset, LENGTH), io.read(ours.disk), "read of the whole mapped device"
    )
    wanted.check(f"after writes at offset {offset}")
    untouched.check("user I/O in track mode")


def test_segments(rig: Rig) -> None:
    """I/O that crosses from one segment into the next reaches both, each at its own offset."""
    lengths = [REGION, 3 * REGION + 7, 1, 2 * REGION]
    offsets = [16, 0, 333, 5]
    disks = [rig.null_blk(size=1) for _ in lengths]
    clone = rig.null_blk(size=1)
    images = [Image(disk, f"disk{number}") for number, disk in enumerate(disks)]
    lines, start, starts = [], 0, []
    for disk, length, offset in zip(disks, lengths, offsets, strict=True):
        lines.append(clone_table(disk, clone, offset, start, length, start))
        starts.append(start)
        start += length
    ours = rig.clone_of("\n".join(lines))
    assert ours.disk.sectors == start

    def write(sector: int, data: bytes) -> None:
        io.write(ours.disk, sector, data)
        for image, first, length, offset in zip(images, starts, lengths, offsets, strict=True):
            low, high = max(sector, first), min(sector + len(data) // 512, first + length)
            if low < high:
                part = data[(low - sector) * 512 : (high - sector) * 512]
                image.expect(offset + low - first, part)

    for number, border in enumerate(starts[1:]):
        for before, after in ((1, 1), (8, 3), (100, 120)):
            low, high = max(0, border - before), min(start, border + after)
            write(low, stamped(f"s{number}x{before}", low, high - low))
    for image in images:
        image.check("after writes across segments")
    whole = b"".join(
        image.content(offset, length)
        for image, offset, length in zip(images, offsets, lengths, strict=True)
    )
    assert_same(whole, io.read(ours.disk), "read across the segments")


@pytest.mark.parametrize("name", ["BLKDISCARD", "BLKZEROOUT"])
def test_zeroing_stays_in_its_range(rig: Rig, kernel_log: Guard, name: str) -> None:
    """Discard and write zeroes clear what they are told to and nothing beside it."""
    # tmpfs can't zero a range: the first attempt fails, and zeroes are written instead.
    kernel_log.allow(r"operation not supported error, dev loop")
    backing = rig.loop(size=2)
    wanted = Image(backing, "backing")
    offset = 8
    ours = rig.clone(backing, rig.null_blk(size=2), backing_offset=offset, length=2000)
    with io.direct(ours.disk) as fd:
        for sector, count in ((0, 8), (120, 16), (256, 512), (2000 - 64, 64)):
            io.range_ioctl(fd, getattr(io, name), sector, count)
            wanted.expect(offset + sector, bytes(count * 512))
    wanted.check(name)
