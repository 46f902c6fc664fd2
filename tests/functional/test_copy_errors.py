# SPDX-License-Identifier: GPL-2.0
"""Errors of either device during a copy: counted, listed, and kept away from the user and from the
rest. Here ranges are asked for with `copy`, of which the others go on.

Errors come from a patch of dm-error in the device below, which fails always, and from dm-dust and
dm-flakey, which can be switched.
"""

import errno
import time

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, ErrorList, Status, whole_regions
from harness.data import SECTOR, assert_same, stamped
from harness.dm_ioctl import DmError
from harness.fio import STEADY, fio
from harness.image import Image
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.rig import Rig

# Each job is one region.
BATCH = REGION = 128
FEATURES = (*TRACK, "region_size", REGION, "batch", BATCH, "depth", 4)
STOP = (*FEATURES, "on_clone_error", "stop")
LENGTH = 4096
# The target may log the first errors; nothing else may.
LOGGED = (
    r"clone.rs: \d+:\d+: (copy: (read|write) of \d+ sectors at sector \d+ of \d+:\d+ failed with -5"
    r"|flush of clone device \d+:\d+ failed with -5|clone device \d+:\d+ is detached)$"
)
SIDES = {"backing": "read_errors", "clone": "clone_errors"}


def disks(rig: Rig) -> tuple[Image, Image]:
    """A backing device and a clone with different contents."""
    return Image(rig.null_blk(size=2), "backing"), Image(rig.null_blk(size=2), "clone")


def check_around(backing: Image, clone: Image, first: int, count: int) -> None:
    """All is copied but the regions that met the error; in these each sector is the old one or the
    source's; the bad sectors themselves are the old ones."""
    found = io.read(clone.disk)
    low, size = whole_regions(first, count, REGION, LENGTH)
    high = low + size
    for start, end in ((0, low), (high, LENGTH)):
        assert_same(
            backing.content(start, end - start),
            found[start * SECTOR : end * SECTOR],
            f"the clone outside of the regions with the error at {first}+{count}",
            start,
        )
    for sector in range(low, high):
        have = found[sector * SECTOR : (sector + 1) * SECTOR]
        old = have == clone.content(sector, 1)
        new = have == backing.content(sector, 1)
        assert old or (new and not first <= sector < first + count), f"sector {sector}"


def check_account(device: CloneDevice, status: Status, side: str, first: int, count: int) -> None:
    """The regions with the error are counted on its side only and listed, they are dirty, and not
    counted as copied; all others are in sync."""
    low, size = whole_regions(first, count, REGION, LENGTH)
    wanted = dict.fromkeys(SIDES.values(), 0) | {SIDES[side]: size}
    assert {name: status.counters[name] for name in SIDES.values()} == wanted
    assert status.counters["copied"] == LENGTH - size
    assert (status.in_sync, status.dirty) == ((LENGTH - size) // REGION, size // REGION)
    assert (status.state, status.health) == ("idle", "errors")
    listed = device.errors()
    assert listed.left_out == 0
    assert {(failure.side, failure.errno) for failure in listed.failures} == {(side, errno.EIO)}
    ranges = [range(each.sector, each.sector + each.count) for each in listed.failures]
    assert sorted(sector for each in ranges for sector in each) == list(range(low, low + size))


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1000, 1), (2040, 300), (LENGTH - 1, 1)])
def test_read_error(rig: Rig, kernel_log: Guard, first: int, count: int) -> None:
    """A bad patch on the backing device: the rest of the range is copied."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    bad = rig.with_errors(backing.disk, first, count)
    ours = rig.clone(bad, clone.disk, features=FEATURES)
    status = ours.copy_and_wait(0, LENGTH)
    check_account(ours, status, "backing", first, count)
    check_around(backing, clone, first, count)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1000, 1), (2040, 300), (LENGTH - 1, 1)])
def test_clone_error(rig: Rig, kernel_log: Guard, first: int, count: int) -> None:
    """A bad patch on the clone: the user does not notice, the rest of the range is copied."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    bad = rig.with_errors(clone.disk, first, count)
    ours = rig.clone(backing.disk, bad, features=STOP)
    status = ours.copy_and_wait(0, LENGTH)
    check_account(ours, status, "clone", first, count)
    check_around(backing, clone, first, count)
    data = stamped("user", first, count)
    io.write(ours.disk, first, data)
    assert_same(data, io.read(ours.disk, first, count), "user I/O where the clone is bad", first)


@pytest.mark.parametrize("side", SIDES)
def test_all_fails(rig: Rig, kernel_log: Guard, side: str) -> None:
    """Every bio of the copy fails: it ends, counts, logs in bounds, and user I/O is not touched."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    dead = rig.mapped(f"0 {LENGTH} error").disk
    below = (dead, clone.disk) if side == "backing" else (backing.disk, dead)
    ours = rig.clone(*below, features=STOP)
    status = ours.copy_and_wait(0, LENGTH)
    check_account(ours, status, side, 0, LENGTH)
    assert len(kernel_log.text().splitlines()) < 30
    clone.check("nothing could be copied")
    if side == "clone":
        fio(ours.disk, rw="randrw", bs="4k", size="1m", verify="crc32c")


def test_detached(rig: Rig, kernel_log: Guard) -> None:
    """Without `on_clone_error stop` the first error of the clone ends it all: what was asked for is
    forgotten, no more bios go there, and user I/O is not touched."""
    kernel_log.allow(LOGGED)
    kernel_log.expect("is detached$")
    backing, clone = disks(rig)
    bad = rig.with_errors(clone.disk, 0, REGION)
    ours = rig.clone(backing.disk, bad, features=FEATURES)
    ours.copy(0, LENGTH)
    status = ours.wait_idle()
    assert (status.state, status.health) == ("idle", "detached")
    assert status.counters["clone_errors"] == REGION
    # Nothing was flushed since.
    assert status.in_sync == 0
    # The worker that hears of the error may be late.
    assert status.counters["copied"] <= LENGTH - REGION
    assert_quiet(clone.disk)
    fio(ours.disk, rw="randrw", bs="4k", size="1m", verify="crc32c")
    kernel_log.expect("message refused: the clone is detached")
    before = ours.clone_status()
    with pytest.raises(DmError) as caught:
        ours.copy(LENGTH - REGION, REGION)
    assert caught.value.errno == errno.EBUSY
    assert ours.clone_status() == before
    assert_quiet(clone.disk, seconds=0)
    # So that nothing of the pass begins.
    ours.suspend()
    ours.start()
    ours.pause()
    ours.resume()
    status = ours.copy_and_wait(LENGTH - REGION, REGION)
    assert (status.state, status.health, status.in_sync) == ("paused", "ok", 1)


def test_user_gets_the_backing_error(rig: Rig, kernel_log: Guard) -> None:
    """A user's read of a bad backing sector fails as on the backing device, beside a copy, too."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    bad = rig.with_errors(backing.disk, 1000, 8)
    ours = rig.clone(bad, clone.disk, features=FEATURES)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            io.read(ours.disk, 1000, 8)
        assert io.read(ours.disk, 992, 8) == backing.content(992, 8)
        ours.copy(0, LENGTH)
    ours.wait_idle()


def test_errors_pass(rig: Rig, kernel_log: Guard) -> None:
    """dm-dust below: sectors go bad and are good again; a copy after that is whole."""
    kernel_log.allow(LOGGED)
    kernel_log.allow(r"device-mapper: dust: ")
    backing, clone = disks(rig)
    dust = rig.mapped(f"0 {LENGTH} dust {backing.disk.path} 0 512")
    dust.message("addbadblock 700")
    ours = rig.clone(dust.disk, clone.disk, features=FEATURES)
    dust.message("enable")
    failed = ours.copy_and_wait(0, LENGTH)
    check_account(ours, failed, "backing", 700, 1)
    listed = ours.errors()
    dust.message("disable")
    status = ours.copy_and_wait(0, LENGTH)
    assert status.counters["read_errors"] == failed.counters["read_errors"]
    assert (status.state, status.health) == ("complete", "errors")
    assert ours.errors() == listed
    ours.start()
    assert ours.clone_status().health == "ok"
    assert ours.errors() == ErrorList([], 0)
    clone.expect_copy(0, backing, 0, LENGTH)
    clone.check("after the backing device is well again")


def test_error_below_a_driver(rig: Rig, kernel_log: Guard) -> None:
    """The same from a request-based driver, whose completions come from its own context."""
    kernel_log.allow(LOGGED)
    kernel_log.allow(r"I/O error, dev nullb")
    backing, clone = disks(rig)
    # Jobs that became one request would fail together.
    clone.disk.set_queue("nomerges", 2)
    ours = rig.clone(backing.disk, clone.disk, features=STOP)
    rig.badblocks(clone.disk, 1000, 1007)
    status = ours.copy_and_wait(0, LENGTH)
    check_account(ours, status, "clone", 1000, 8)
    rig.no_badblocks(clone.disk, 1000, 1007)
    check_around(backing, clone, 1000, 8)


@pytest.mark.long
def test_flakey_clone_under_load(rig: Rig, kernel_log: Guard) -> None:
    """The clone fails and works in turn while fio verifies user I/O and copies go on."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    flakey = rig.mapped(f"0 {LENGTH} flakey {clone.disk.path} 0 1 1")
    ours = rig.clone(backing.disk, flakey.disk, features=STOP)
    load = rig.fio(ours.disk, size="1m", **STEADY)
    load.wait_for_load()
    deadline = time.monotonic() + 20
    errors = copies = 0
    while time.monotonic() < deadline:
        errors = ours.copy_and_wait(0, LENGTH).counters["clone_errors"]
        copies += 1
    load.finish()
    assert errors, "the clone never failed"
    assert copies > 1


def test_device_gone(rig: Rig, kernel_log: Guard) -> None:
    """The clone's table is replaced by errors under us, as when it was pulled: the copy ends with
    errors, user I/O goes on, and the device can be removed."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    gate = rig.gate(clone.disk)
    ours = rig.clone(backing.disk, gate.disk, features=FEATURES)
    gate.make_errors()
    status = ours.copy_and_wait(0, LENGTH)
    assert status.counters["clone_errors"] >= 1
    assert status.health == "detached"
    assert io.read(ours.disk, 0, 64) == backing.content(0, 64)
    ours.remove()
