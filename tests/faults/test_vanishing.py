# SPDX-License-Identifier: GPL-2.0
"""A device below goes away, shrinks or grows while the target uses it.

The user gets what dm-linear over the same device gives; where it is the clone that goes, nothing. A
copy ends with errors, and the device can be suspended, reloaded and removed.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, clone_table, linear_table
from harness.command import read_text, run
from harness.data import stamped
from harness.disk import Disk
from harness.dm import Device
from harness.dm_ioctl import DmError
from harness.faulty import VANISHING, power_off
from harness.image import Image
from harness.kernel_log import Guard
from harness.refusals import CORE, OURS, allow_refusals, check_refusal, refused
from harness.rig import Rig
from harness.wait import wait_until

LENGTH = 4096
# Each job is one region.
FEATURES = (*TRACK, "region_size", 64, "depth", 4, "batch", 64)
STOP = (*FEATURES, "on_clone_error", "stop")


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def user_io(device: Device) -> list[object]:
    """One of each, on the open node."""
    calls: list[Callable[[int], object]] = [
        lambda fd: io.pread(fd, 0, 8),
        lambda fd: io.pread(fd, LENGTH - 1, 1),
        lambda fd: io.pwrite(fd, 8, stamped("user", 8, 64)),
        os.fsync,
        lambda fd: io.range_ioctl(fd, io.BLKDISCARD, 0, 64),
        lambda fd: io.range_ioctl(fd, io.BLKZEROOUT, 0, 64),
    ]
    with io.direct(device.disk) as fd:
        return [outcome(lambda call=call: call(fd)) for call in calls]


def allow_errors(log: Guard) -> None:
    """What is said about I/O to a device that is not there."""
    log.allow(OURS + "(copy: |flush of clone device |clone device .* is detached)")
    log.allow("I/O error, dev |Buffer I/O error|[Ss]ynchroniz|rejecting I/O")
    log.allow(r"offline|DID_NO_CONNECT|\[sd\w+\]")


@pytest.mark.parametrize("kind", VANISHING)
def test_backing_goes(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """The user's I/O fails as over dm-linear, and a copy counts errors of its reads."""
    allow_errors(kernel_log)
    make, take = VANISHING[kind]
    backing, clone = make(rig, 2), Image(rig.null_blk(size=2), "clone")
    device = rig.clone(backing, clone.disk, features=FEATURES)
    linear = rig.linear(backing)
    take(backing)
    found = user_io(device)
    assert found == user_io(linear)
    assert found[0] == "EIO"
    status = device.copy_and_wait(0, LENGTH)
    assert status.counters["read_errors"] == LENGTH
    assert status.counters["copied"] == status.counters["clone_errors"] == 0
    assert (status.state, status.health, status.in_sync) == ("idle", "errors", 0)
    clone.check("nothing could be read")
    device.suspend()
    device.resume()
    linear.remove()
    device.remove()


@pytest.mark.parametrize("features", [STOP, FEATURES], ids=["stop", "detach"])
@pytest.mark.parametrize("kind", VANISHING)
def test_clone_goes(rig: Rig, kernel_log: Guard, kind: str, features: tuple) -> None:
    """The user's I/O goes on, a copy counts errors of its writes; the table can be changed to
    another clone, which gets all."""
    allow_errors(kernel_log)
    make, take = VANISHING[kind]
    backing, clone = Image(rig.null_blk(size=2), "backing"), make(rig, 2)
    # Made now, as a later one may get the number of the one that goes.
    other = Image(rig.null_blk(size=2), "other")
    device = rig.clone(backing.disk, clone, features=features)
    assert device.copy_and_wait(0, LENGTH).state == "complete"
    take(clone)
    status = device.copy_and_wait(0, LENGTH)
    assert status.counters["copied"] == LENGTH
    assert status.counters["read_errors"] == 0
    if features == STOP:
        assert (status.health, status.in_sync) == ("errors", 0)
        assert status.counters["clone_errors"] == LENGTH
    else:
        assert status.health == "detached"
        # What was in flight.
        assert 64 <= status.counters["clone_errors"] <= 4 * 64
    data = stamped("user", 100, 300)
    io.write(device.disk, 100, data)
    backing.expect(100, data)
    assert io.read(device.disk) == backing.content()
    device.reload(clone_table(backing.disk, other.disk, features=FEATURES))
    device.copy_and_wait(0, LENGTH)
    other.expect_copy(0, backing, 0, LENGTH)
    other.check("the clone that came for the one that went")
    device.remove()


def test_comes_back_with_its_number(rig: Rig, kernel_log: Guard) -> None:
    """device-mapper still has the open file of the disk that went, and gives it to a table with the
    new one's number: that is refused, as its size is 0. By way of another table it can be had."""
    allow_errors(kernel_log)
    allow_refusals(kernel_log)
    backing, gone = Image(rig.null_blk(size=2), "backing"), rig.null_blk(size=2)
    device = rig.clone(backing.disk, gone, features=FEATURES)
    number = gone.number
    power_off(gone)
    new = Image(rig.null_blk(size=2), "new")
    assert new.disk.number == number
    table = clone_table(backing.disk, new.disk, features=FEATURES)
    error = refused(device, table)
    check_refusal(error, errno.EINVAL, "Clone device is too small", [number, "0 sectors"])
    device.reload(linear_table(backing.disk))
    device.reload(table)
    device.copy_and_wait(0, LENGTH)
    new.expect_copy(0, backing, 0, LENGTH)
    new.check("the disk that came back")


@pytest.mark.parametrize("side", ["backing", "clone"])
@pytest.mark.parametrize("end", ["remove", "suspend"])
def test_goes_during_a_copy(rig: Rig, kernel_log: Guard, side: str, end: str) -> None:
    """With a copy in flight and more of it waiting, and the user's I/O in flight if it is the
    backing device: the copy ends soon, so do a suspend and a remove."""
    allow_errors(kernel_log)
    disks = {"backing": rig.null_blk(size=2), "clone": rig.null_blk(size=2)}
    disks[side] = rig.slow(2, mbps=1)
    device = rig.clone(disks["backing"], disks["clone"], features=STOP)
    device.copy(0, LENGTH)
    wait_until(lambda: device.clone_status().counters["copied"], "the copy to advance")
    load = rig.background(user_io, device)
    begin = time.monotonic()
    power_off(disks[side])
    found = load.result()
    if side == "clone":
        assert found[0] != "EIO"
        assert found[3] is None
    if end == "suspend":
        device.suspend()
        assert device.clone_status().copying == 0
        device.resume()
        status = device.wait_idle()
        name = {"backing": "read_errors", "clone": "clone_errors"}[side]
        assert status.counters[name] >= 64
        # What the suspend put back is tried again.
        assert status.counters["copied"] + status.counters[name] >= LENGTH
    device.remove()
    assert time.monotonic() - begin < 20


def test_load_after_it_went(rig: Rig, kernel_log: Guard) -> None:
    """A table with a device that has gone is refused, and the live table goes on."""
    allow_errors(kernel_log)
    kernel_log.allow(OURS + "cannot open ")
    kernel_log.allow(CORE)
    backing, clone = Image(rig.null_blk(size=2), "backing"), rig.null_blk(size=2)
    device = rig.clone(backing.disk, rig.null_blk(size=2), features=FEATURES)
    table = clone_table(backing.disk, clone, features=FEATURES)
    power_off(clone)
    with pytest.raises(DmError) as caught:
        device.load(table)
    assert caught.value.errno in (errno.ENOENT, errno.ENXIO)
    assert device.copy_and_wait(0, LENGTH).counters["copied"] == LENGTH
    assert io.read(device.disk) == backing.content()


# Sizes that change.


def resize(disk: Disk, sectors: int) -> None:
    """Change the size of a loop device as that of its file."""
    os.truncate(Path(read_text(disk.sys / "loop/backing_file")), sectors * 512)
    run("losetup", "--set-capacity", disk.path)
    wait_until(lambda: disk.sectors == sectors, f"the new size of {disk.name}")


def allow_beyond_the_end(log: Guard) -> None:
    """What the block layer says about I/O past the end, and we about a copy."""
    log.allow(OURS)
    log.allow(CORE)
    log.allow("attempt to access beyond end of device|callbacks suppressed")


def check_copied(device: CloneDevice, backing: Disk, clone: Disk, count: int) -> None:
    """A copy of so much works, and is right."""
    data = stamped("again", 0, count)
    io.write(backing, 0, data)
    before = device.clone_status().counters["copied"]
    assert device.copy_and_wait(0, count).counters["copied"] == before + count
    assert io.read(clone, 0, count) == data


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_shrinks(rig: Rig, kernel_log: Guard, side: str) -> None:
    """I/O past the new end fails, and only that, as over dm-linear; the old length can't be loaded
    again, the new one can."""
    allow_beyond_the_end(kernel_log)
    disks = {"backing": rig.null_blk(size=2), "clone": rig.null_blk(size=2)}
    disks[side] = shrinking = rig.loop(size=2)
    device = rig.clone(**disks, features=STOP)
    linear = rig.linear(disks["backing"])
    half = LENGTH // 2
    resize(shrinking, half)
    assert device.disk.sectors == LENGTH
    places = [(0, 8), (half - 8, 8), (half - 4, 8), (half, 8), (LENGTH - 8, 8)]
    for mapped in (device, linear):
        found = [outcome(lambda at=at: len(io.read(mapped.disk, *at))) for at in places]  # noqa: B023
        behind = ["EIO"] * 3 if side == "backing" else [4096] * 3
        assert found == [4096, 4096, *behind], mapped.name
    status = device.copy_and_wait(0, LENGTH)
    name = {"backing": "read_errors", "clone": "clone_errors"}[side]
    assert (status.counters[name], status.dirty) == (half, half // 64)
    assert status.counters["copied"] == half
    error = refused(device, clone_table(**disks, length=LENGTH, features=FEATURES))
    text = f"{side.capitalize()} device is too small"
    check_refusal(error, errno.EINVAL, text, [f"{half} sectors", f"wants {LENGTH} "])
    linear.remove()
    device.reload(clone_table(**disks, length=half, features=STOP))
    assert device.disk.sectors == half
    check_copied(device, disks["backing"], disks["clone"], half)


def test_grows(rig: Rig, kernel_log: Guard) -> None:
    """More room below changes nothing until a table with the new length is loaded; the user's data
    and a copy then reach to the new end."""
    allow_beyond_the_end(kernel_log)
    backing, clone = rig.loop(size=2), rig.loop(size=2)
    device = rig.clone(backing, clone, features=FEATURES)
    for disk in (backing, clone):
        resize(disk, 2 * LENGTH)
    assert device.disk.sectors == LENGTH
    check_copied(device, backing, clone, LENGTH)
    device.reload(clone_table(backing, clone, length=2 * LENGTH, features=FEATURES))
    assert device.disk.sectors == 2 * LENGTH
    check_copied(device, backing, clone, 2 * LENGTH)


def test_grows_under_linear(rig: Rig) -> None:
    """The way an LV grows: the device below is a mapped device that gets a longer table."""
    whole = [rig.null_blk(size=4) for _ in range(2)]
    parts = [rig.linear(disk, length=LENGTH) for disk in whole]
    device = rig.clone(parts[0].disk, parts[1].disk, features=FEATURES)
    for part, disk in zip(parts, whole, strict=True):
        part.reload(linear_table(disk, length=2 * LENGTH))
    device.reload(clone_table(parts[0].disk, parts[1].disk, features=FEATURES))
    assert device.disk.sectors == 2 * LENGTH
    check_copied(device, whole[0], whole[1], 2 * LENGTH)
