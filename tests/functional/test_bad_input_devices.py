# SPDX-License-Identifier: GPL-2.0
"""Tables that ask for what there is not: memory, ranges, devices, are refused as
test_bad_input_table.py says, and leave nothing behind.

What can't be built here is tested by KUnit alone, in abstractions/kernel/block.rs: a region below
the clone's logical block (no device of this kernel has blocks above 4096 bytes, which is the
smallest region).
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import io
from harness.clone_rs import TRACK, clone_table
from harness.command import CommandFailed, run
from harness.data import stamped
from harness.disk import Disk
from harness.dm_ioctl import DmError
from harness.fault_injection import failing_requests
from harness.image import Image
from harness.kernel_log import Guard
from harness.partitions import add_partition
from harness.refusals import LENGTH, Below, allow_refusals, check_refusal, is_ours, refused
from harness.rig import Rig

BLKROSET = 0x125D
SECTOR = "Invalid device sector"
LOOKUP = "Device lookup failed"
TOO_MUCH = "depth times batch and the regions take more than an eighth of the memory"
# Lines with a place for one word; what is left are {b} and {c}.
OFFSETS = pytest.mark.parametrize(
    "place",
    ["{{b}} {} {{c}} 0 2 mode track", "{{b}} 0 {{c}} {} 2 mode track"],
    ids=["backing", "clone"],
)
DEVICES = pytest.mark.parametrize(
    "place",
    ["{} 0 {{c}} 0 2 mode track", "{{b}} 0 {} 0 2 mode track"],
    ids=["backing", "clone"],
)


@pytest.fixture
def below(rig: Rig, kernel_log: Guard) -> Below:
    """Two disks without any peculiarity."""
    return Below(rig, kernel_log)


def test_more_memory_than_there_is(below: Below) -> None:
    """A pipeline of 2 GiB in a smaller machine is ENOMEM, not the end of some process, and nothing
    is allocated."""
    total, before = memory("MemTotal"), memory("MemFree")
    if total > 2 << 20:
        pytest.fail(f"{total} KiB are too much memory for this test")
    error = refused(below.device, below.line("{b} 0 {c} 0 6 mode track depth 256 batch 16384"))
    words = ["256 jobs of 16384 sectors and 32 regions are too much"]
    check_refusal(error, errno.ENOMEM, TOO_MUCH, words)
    assert not any("Out of memory" in line or "oom" in line for line in error.log), error
    below.unused.check()
    # It has also pushed out caches, so more may be free than before.
    assert memory("MemFree") > before - (32 << 10)


def memory(name: str) -> int:
    """A line of /proc/meminfo, in KiB."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    return next(int(words[1]) for words in lines if words[0] == f"{name}:")


# Ranges.


@pytest.mark.parametrize("side", ["backing", "clone"])
@pytest.mark.parametrize("offset", [1, LENGTH, 1 << 40, (1 << 63), (1 << 64) - 1 - LENGTH])
def test_range_past_the_end(below: Below, side: str, offset: int) -> None:
    """One sector and very much behind the end of a device: the log has the device's size, and what
    the table wants."""
    places = {"backing": f"{{b}} {offset} {{c}} 0", "clone": f"{{b}} 0 {{c}} {offset}"}
    text = f"{side.capitalize()} device is too small"
    words = (f"{side} device", f"{LENGTH} sectors", f"{LENGTH} from sector {offset} ")
    below.refuse_line(f"{places[side]} 2 mode track", text, *words)


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_device_too_small(rig: Rig, kernel_log: Guard, side: str) -> None:
    """The one device has a sector less than the target."""
    disks = {"backing": rig.null_blk(size=3), "clone": rig.null_blk(size=3), side: rig.null_blk(2)}
    below = Below(rig, kernel_log, **disks)
    table = below.line("{b} 0 {c} 0 2 mode track", length=LENGTH + 1)
    text = f"{side.capitalize()} device is too small"
    below.refuse(table, text, f"{LENGTH} sectors", f"{LENGTH + 1} from sector 0 ")


def test_half_a_block_at_the_end(rig: Rig, kernel_log: Guard) -> None:
    """A clone that ends within a logical block: that one can't be written, those before it can."""
    clone = rig.loop(LENGTH >> 11, block=4096)
    file = (clone.sys / "loop/backing_file").read_text().strip()
    os.truncate(file, (LENGTH + 3) << 9)
    run("losetup", "--set-capacity", clone.path)
    assert clone.sectors == LENGTH + 3
    below = Below(rig, kernel_log, backing=rig.null_blk(3), clone=clone)
    table = below.line("{b} 0 {c} 0 2 mode track", length=LENGTH + 1)
    text = "Clone device is too small"
    below.refuse(table, text, f"{LENGTH + 3} sectors", f"{LENGTH + 1} from sector 0 ")
    below.device.load(below.line("{b} 0 {c} 0 2 mode track", length=LENGTH))


@OFFSETS
def test_offset_plus_length_overflows(below: Below, place: str) -> None:
    """A sum above 2^64: with the largest offset, and with the smallest one that is too large."""
    for offset in ((1 << 64) - 1, (1 << 64) - LENGTH):
        below.refuse_line(place.format(offset), "Offset plus length overflows", "offset")


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, (1 << 64) - 1), (0, 1 << 63), (0, 1 << 54), (8, (1 << 64) - 8), (0, 0)],
)
def test_impossible_length(below: Below, start: int, length: int) -> None:
    """start + length that overflows, and no length at all: the core does not even ask us."""
    error = refused(below.device, below.line("{b} 0 {c} 0 2 mode track", start, length))
    assert error.errno == errno.EINVAL
    assert not any(is_ours(line) for line in error.log), error
    below.unused.check()


@pytest.mark.parametrize(
    ("length", "features"),
    [
        ((1 << 34) + 1, "4 mode track region_size 8"),
        ((1 << 54) - 1, "4 mode track region_size 2097152"),
        ((1 << 54) - 1, "2 mode track"),
    ],
)
def test_too_many_regions(below: Below, length: int, features: str) -> None:
    """More regions than can be counted, be they asked for or not."""
    table = below.line(f"{{b}} 0 {{c}} 0 {features}", length=length)
    below.refuse(table, "Too many regions: region_size is too small", "region_size")


def test_the_most_regions(rig: Rig, kernel_log: Guard) -> None:
    """As many regions of 4 KiB as an eighth of the memory holds, at a byte each, are made, and
    copied at the very end. Twice as many are ENOMEM, so are 2^31, which can still be counted."""
    allow_refusals(kernel_log)
    regions = 1 << (memory("MemTotal") * 1024 // 8).bit_length() - 1
    backing, clone = (rig.mapped(f"0 {8 << 31} zero").disk for _ in range(2))
    features = (*TRACK, "region_size", 8, "depth", 1, "batch", 8)
    ours = rig.clone(backing, clone, length=8 * regions, features=features)
    assert ours.clone_status().total == regions
    status = ours.copy_and_wait(8 * regions - 1, 1)
    assert (status.counters["copied"], status.in_sync) == (8, 1)
    for too_many in (2 * regions, 1 << 31):
        table = clone_table(backing, clone, length=8 * too_many, features=features)
        error = refused(ours, table)
        check_refusal(error, errno.ENOMEM, TOO_MUCH, [f"and {too_many} regions are too much"])


@pytest.mark.parametrize("mode", ["track", "mirror"])
def test_a_block_of_two_targets(rig: Rig, kernel_log: Guard, mode: str) -> None:
    """Where another target clones to a part of a block of 4096 bytes, the rest of the block is not
    to be had; other blocks are, and its own one after a reload."""
    below = Below(rig, kernel_log, clone=rig.null_blk(size=LENGTH >> 11, blocksize=4096))
    first = rig.clone(rig.null_blk(2), below.clone, 0, 100, 501, features=("mode", mode))
    text = "Another target clones to a part of the same logical block"
    for offset, length in ((601, 100), (607, 1), (0, 100), (0, 97), (98, 1)):
        table = below.line(f"{{b}} 0 {{c}} {offset} 2 mode {mode}", length=length)
        error = refused(below.device, table)
        check_refusal(error, errno.EBUSY, text, [f"{first.disk.number} clones to a part"])
    for offset, length in ((608, 100), (0, 96)):
        below.device.load(below.line(f"{{b}} 0 {{c}} {offset} 2 mode {mode}", length=length))
        below.device.clear()
    first.reload(first.table_text())
    first.reload(first.table_text().replace("0 501 ", "0 480 "))
    below.device.load(below.line(f"{{b}} 0 {{c}} 584 2 mode {mode}", length=100))


@pytest.mark.parametrize(("length", "offset"), [(LENGTH - 1, 0), (LENGTH - 8, 1)])
def test_not_whole_blocks_of_the_backing(
    rig: Rig, kernel_log: Guard, length: int, offset: int
) -> None:
    """The same for the backing device is refused by the core, which has then called our
    constructor with success and has to take it all back."""
    kernel_log.allow("^device-mapper: core: Cannot calculate initial queue limits")
    kernel_log.allow("^device-mapper: ioctl: unable to set up device queue for new table")
    below = Below(rig, kernel_log, backing=rig.null_blk(size=LENGTH >> 11, blocksize=4096))
    table = below.line(f"{{b}} {offset} {{c}} 0 2 mode track", length=length)
    error = refused(below.device, table)
    assert error.errno == errno.EINVAL
    assert any("logical block size" in line for line in error.log), error
    below.unused.check()


def test_second_target_refused(below: Below) -> None:
    """A good target before the bad one is taken back, too."""
    half = LENGTH // 2
    good = below.line("{b} 0 {c} 0 2 mode track", 0, half)
    bad = below.line(f"{{b}} {half} {{c}} {half}x 2 mode track", half, half)
    below.refuse(f"{good}\n{bad}", SECTOR, f"{half}x")


def test_gap_in_the_table(below: Below) -> None:
    """A target that does not begin where the one before it ends is refused by the core."""
    half = LENGTH // 2
    good = below.line("{b} 0 {c} 0 2 mode track", 0, half)
    bad = below.line(f"{{b}} {half} {{c}} {half} 2 mode track", half + 8, half - 8)
    error = refused(below.device, f"{good}\n{bad}")
    assert error.errno == errno.EINVAL
    assert any("Gap in table" in line for line in error.log), error
    below.unused.check()


# Devices.

MISSING = {
    "no-such-node": ("/dev/no-such-node", errno.ENOENT),
    "relative": ("no-such-node", errno.ENOENT),
    "folder": ("/dev", errno.ENOTBLK),
    "character-device": ("/dev/null", errno.ENOTBLK),
    "below-a-file": ("/dev/null/x", errno.ENOTDIR),
    "no-such-number": ("511:1048575", errno.ENXIO),
    "impossible-number": ("4096:0", errno.EOVERFLOW),
    "long-name": ("/dev/" + "x" * 300, errno.ENAMETOOLONG),
}


@pytest.mark.parametrize("what", MISSING)
@DEVICES
def test_missing_device(below: Below, place: str, what: str) -> None:
    """The errno is that of the look-up; the log has the name. Where the clone is missing, the
    backing device was open already."""
    path, number = MISSING[what]
    below.refuse_line(place.format(path), LOOKUP, path, number=number)


@DEVICES
def test_device_that_went_away(below: Below, place: str) -> None:
    """The number of a disk that was there before."""
    with contextlib.ExitStack() as stack:
        number = stack.enter_context(disk_that_goes()).number
    below.refuse_line(place.format(number), LOOKUP, number, number=errno.ENXIO)


@contextlib.contextmanager
def disk_that_goes() -> Iterator[Disk]:
    """A disk of its own rig."""
    rig = Rig()
    try:
        yield rig.null_blk(size=1)
    finally:
        rig.close()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_mounted_device(below: Below, tmp_path: Path, side: str) -> None:
    """A mounted device is EBUSY, and stays mounted; after umount it can be used."""
    disk = below.backing if side == "backing" else below.clone
    run("mkfs.ext4", "-q", disk.path)
    table = below.line("{b} 0 {c} 0 2 mode track")
    with below.rig.mounted(disk, tmp_path / "mnt") as folder:
        error = refused(below.device, table)
        check_refusal(error, errno.EBUSY, LOOKUP, [disk.path])
        (folder / "file").write_text("it works")
    below.unused.check()
    below.device.load(table)
    below.device.clear()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_claimed_device(below: Below, side: str) -> None:
    """A device that somebody has open with O_EXCL is EBUSY; the other one is given back."""
    disk, other = below.backing, below.clone
    if side == "clone":
        disk, other = other, disk
    claim = os.open(disk.path, os.O_RDONLY | os.O_EXCL)
    try:
        error = refused(below.device, below.line("{b} 0 {c} 0 2 mode track"))
        check_refusal(error, errno.EBUSY, LOOKUP, [disk.path])
        os.close(os.open(other.path, os.O_RDONLY | os.O_EXCL))
    finally:
        os.close(claim)
    below.unused.check()


@pytest.mark.parametrize(
    "line",
    [
        "{0.path} 0 {0.path} 0 2 mode track",
        "{0.path} 0 {0.number} 0 2 mode track",
        "{0.path} 0 {0.path} 2048 2 mode track",
    ],
    ids=["same-name", "other-name", "other-place"],
)
def test_same_device(below: Below, line: str) -> None:
    """Backing and clone may not be one device, by whatever name and at whatever place."""
    table = below.line(line.format(below.backing), length=1024)
    text = "Backing and clone are the same device"
    below.refuse(table, text, below.backing.number)


@DEVICES
def test_itself_in_its_table(below: Below, place: str) -> None:
    """The device itself, by number and with a table that is live, is refused by the core."""
    reply = below.device.info()
    own = f"{os.major(reply.device)}:{os.minor(reply.device)}"
    below.refuse_line(place.format(own), LOOKUP, own)
    below.device.load(f"0 {LENGTH} zero")
    below.device.resume()
    assert below.device.disk.number == own
    below.refuse_line(place.format(own), LOOKUP, own)
    below.refuse_line(place.format(below.device.path), LOOKUP, below.device.path)


def test_disk_and_its_partition(below: Below) -> None:
    """A whole disk and a partition of it share sectors: refused in both orders."""
    with add_partition(below.backing, 1, 0, 2048) as part:
        disk = below.backing.path
        for words in (f"{disk} 0 {part.path} 0", f"{part.path} 0 {disk} 0"):
            table = below.line(f"{words} 2 mode track", length=1024)
            error = refused(below.device, table)
            # The kernel's own rules for claiming make the second one busy.
            assert error.errno in (errno.EBUSY, errno.EINVAL), error
        below.unused.check()


def test_partitions_of_one_disk(below: Below) -> None:
    """Two partitions of a disk that do not overlap are fine, and a copy gets from one to the other;
    a range that reaches into the other one is refused."""
    image = Image(below.backing, "disk")
    with (
        add_partition(below.backing, 1, 0, 1024) as first,
        add_partition(below.backing, 2, 1024, 1024) as second,
    ):
        for words in (f"{first.path} 1 {second.path} 0", f"{second.path} 0 {first.path} 1"):
            table = below.line(f"{words} 2 mode track", length=1024)
            error = refused(below.device, table)
            assert error.errno == errno.EINVAL
            assert any("has 1024 sectors" in line for line in error.log if is_ours(line)), error
            below.unused.check()
        table = below.line(f"{first.path} 0 {second.path} 0 2 mode track", length=1024)
        ours = below.rig.clone_of(table)
        ours.copy_and_wait(0, 1024)
        ours.remove()
    image.expect(1024, image.content(0, 1024))
    image.check("the first partition is copied to the second")


def set_read_only(disk: Disk, read_only: bool) -> None:
    """What `blockdev --setro` and --setrw do."""
    fd = os.open(disk.path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, BLKROSET, struct.pack("=i", read_only))
    finally:
        os.close(fd)


def test_read_only_clone(below: Below) -> None:
    """EACCES, and nothing was written to it; made writable again it is accepted."""
    table = below.line("{b} 0 {c} 0 2 mode track")
    set_read_only(below.clone, True)
    text = "Clone device is read-only"
    below.refuse(table, text, below.clone.number, number=errno.EACCES)
    assert below.clone.counters().writes == 0
    set_read_only(below.clone, False)
    below.device.load(table)
    below.device.clear()
    below.unused.check()


def test_clone_that_cannot_be_written(below: Below, kernel_log: Guard) -> None:
    """What somebody wrote to the clone and is still in the page cache is written before the table
    is used; where that fails the table is refused with the error, and the device given back."""
    kernel_log.allow("I/O error")
    table = below.line("{b} 0 {c} 0 2 mode track")
    with open(below.clone.path, "wb", buffering=0) as node:
        node.write(bytes(4096))
        with failing_requests(below.clone, probability=100, times=-1):
            error = refused(below.device, table)
        check_refusal(error, errno.EIO, "Clone device cannot be written to", [below.clone.number])
        node.write(bytes(4096))
        below.device.load(table)
        below.device.clear()
    below.unused.check()


def test_read_only_backing(below: Below) -> None:
    """The backing device may be read-only, as for dm-linear: it can be read and copied."""
    data = stamped("ro", 0, 64)
    io.write(below.backing, 0, data)
    set_read_only(below.backing, True)
    ours = below.rig.clone(below.backing, below.clone)
    assert io.read(ours.disk, 0, 64) == data
    ours.copy_and_wait(0, 64)
    assert io.read(below.clone, 0, 64) == data
    ours.remove()
    set_read_only(below.backing, False)


def test_read_only_table(below: Below) -> None:
    """`dmsetup create --readonly` is refused by the core: the target has to write."""
    table = below.line("{b} 0 {c} 0 2 mode track")
    with pytest.raises(DmError) as caught:
        below.device.load(table, readonly=True)
    assert caught.value.errno == errno.EINVAL
    said = "clone-rs: target type may not be included in a read-only table"
    assert any(said in line for line in caught.value.log)
    below.unused.check()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_zoned_device(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A device with zones, host-managed as null_blk's are, is refused on either side."""
    zoned = rig.null_blk(size=8, zoned=1, zone_size=4)
    below = Below(rig, kernel_log, **{side: zoned})
    text = f"Zoned {side} device is not supported"
    below.refuse_line("{b} 0 {c} 0 2 mode track", text, zoned.number)


def test_refusals_for_both_devices_name_the_right_one(rig: Rig, kernel_log: Guard) -> None:
    """With something wrong on both sides the first one is named, and both are given back."""
    zoned = rig.null_blk(size=8, zoned=1, zone_size=4)
    below = Below(rig, kernel_log, backing=zoned)
    set_read_only(below.clone, True)
    text = "Zoned backing device is not supported"
    below.refuse_line("{b} 0 {c} 0 2 mode track", text, zoned.number)
    set_read_only(below.clone, False)


# dmsetup's own view of it.


def test_dmsetup_shows_the_errno(below: Below) -> None:
    """With dmsetup, as an administrator does it: it fails, prints the reason for the errno, leaves
    no device, and points to the log."""
    table = below.line("{b} 0 {c} 12x 2 mode track")
    with pytest.raises(CommandFailed, match="Invalid argument"):
        run("dmsetup", "create", "refused", "--table", table)
    with pytest.raises(CommandFailed, match=r"Read-only|Invalid argument"):
        run("dmsetup", "create", "refused", "--readonly", "--table", table.replace("12x", "0"))
    assert "refused" not in run("dmsetup", "ls").stdout
    below.unused.check()
