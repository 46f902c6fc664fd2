# SPDX-License-Identifier: GPL-2.0
"""Errors of either device during a copy: counted, and kept away from the user and from the rest.

Errors come from a patch of dm-error in the device below, which fails always, and from dm-dust and
dm-flakey, which can be switched.
"""

import time

import pytest

from harness import io
from harness.clone_rs import TRACK, Status
from harness.data import SECTOR, assert_same, stamped
from harness.fio import STEADY, fio
from harness.image import Image
from harness.kernel_log import Guard
from harness.rig import Rig

BATCH = 128
FEATURES = (*TRACK, "batch", BATCH, "depth", 4)
LENGTH = 4096
# The target may log the first errors; nothing else may.
LOGGED = (
    r"clone.rs: \d+:\d+: copy: (read|write) of \d+ sectors at sector \d+ of \d+:\d+ failed with -5"
)


def disks(rig: Rig) -> tuple[Image, Image]:
    """A backing device and a clone with different contents."""
    return Image(rig.null_blk(size=2), "backing"), Image(rig.null_blk(size=2), "clone")


def check_around(backing: Image, clone: Image, first: int, count: int) -> None:
    """All is copied but the job that met the error, which is at most a batch to each side; in that
    job each sector is the old one or the source's; the bad sectors themselves are the old ones."""
    found = io.read(clone.disk)
    low, high = max(0, first - BATCH), min(LENGTH, first + count + BATCH)
    for start, end in ((0, low), (high, LENGTH)):
        assert_same(
            backing.content(start, end - start),
            found[start * SECTOR : end * SECTOR],
            f"the clone at a distance from the error at {first}+{count}",
            start,
        )
    for sector in range(low, high):
        have = found[sector * SECTOR : (sector + 1) * SECTOR]
        old = have == clone.content(sector, 1)
        new = have == backing.content(sector, 1)
        assert old or (new and not first <= sector < first + count), f"sector {sector}"


def check_counters(status: Status, side: str, bad: int) -> None:
    """The error is counted on its side only, and what failed is not counted as copied."""
    other = {"read_errors": "clone_errors", "clone_errors": "read_errors"}[side]
    assert status.counters[side] >= 1
    assert status.counters[other] == 0
    assert status.health == "errors"
    assert status.state == "idle"
    assert LENGTH - 2 * BATCH - bad <= status.counters["copied"] <= LENGTH - bad


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1000, 1), (2040, 300), (LENGTH - 1, 1)])
def test_read_error(rig: Rig, kernel_log: Guard, first: int, count: int) -> None:
    """A bad patch on the backing device: the rest of the range is copied."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    bad = rig.with_errors(backing.disk, first, count)
    ours = rig.clone(bad, clone.disk, features=FEATURES)
    status = ours.copy_and_wait(0, LENGTH)
    check_counters(status, "read_errors", count)
    check_around(backing, clone, first, count)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1000, 1), (2040, 300), (LENGTH - 1, 1)])
def test_clone_error(rig: Rig, kernel_log: Guard, first: int, count: int) -> None:
    """A bad patch on the clone: the user does not notice, the rest of the range is copied."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    bad = rig.with_errors(clone.disk, first, count)
    ours = rig.clone(backing.disk, bad, features=FEATURES)
    status = ours.copy_and_wait(0, LENGTH)
    check_counters(status, "clone_errors", count)
    check_around(backing, clone, first, count)
    data = stamped("user", first, count)
    io.write(ours.disk, first, data)
    assert_same(data, io.read(ours.disk, first, count), "user I/O where the clone is bad", first)


@pytest.mark.parametrize("side", ["read_errors", "clone_errors"])
def test_all_fails(rig: Rig, kernel_log: Guard, side: str) -> None:
    """Every bio of the copy fails: it ends, counts, logs in bounds, and user I/O is not touched."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    dead = rig.mapped(f"0 {LENGTH} error").disk
    below = (dead, clone.disk) if side == "read_errors" else (backing.disk, dead)
    ours = rig.clone(*below, features=FEATURES)
    status = ours.copy_and_wait(0, LENGTH)
    assert status.counters["copied"] == 0
    assert status.counters[side] >= 1
    assert status.health == "errors"
    assert len(kernel_log.text().splitlines()) < 30
    clone.check("nothing could be copied")
    if side == "clone_errors":
        fio(ours.disk, rw="randrw", bs="4k", size="1m", verify="crc32c")


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
    check_counters(failed, "read_errors", 1)
    dust.message("disable")
    status = ours.copy_and_wait(0, LENGTH)
    assert status.counters["read_errors"] == failed.counters["read_errors"]
    clone.expect_copy(0, backing, 0, LENGTH)
    clone.check("after the backing device is well again")


def test_error_below_a_driver(rig: Rig, kernel_log: Guard) -> None:
    """The same from a request-based driver, whose completions come from its own context."""
    kernel_log.allow(LOGGED)
    kernel_log.allow(r"I/O error, dev nullb")
    backing, clone = disks(rig)
    ours = rig.clone(backing.disk, clone.disk, features=FEATURES)
    rig.badblocks(clone.disk, 1000, 1007)
    status = ours.copy_and_wait(0, LENGTH)
    check_counters(status, "clone_errors", 8)
    rig.no_badblocks(clone.disk, 1000, 1007)
    check_around(backing, clone, 1000, 8)


@pytest.mark.long
def test_flakey_clone_under_load(rig: Rig, kernel_log: Guard) -> None:
    """The clone fails and works in turn while fio verifies user I/O and copies go on."""
    kernel_log.allow(LOGGED)
    backing, clone = disks(rig)
    flakey = rig.mapped(f"0 {LENGTH} flakey {clone.disk.path} 0 1 1")
    ours = rig.clone(backing.disk, flakey.disk, features=FEATURES)
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
    assert io.read(ours.disk, 0, 64) == backing.content(0, 64)
    ours.remove()
