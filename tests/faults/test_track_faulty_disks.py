# SPDX-License-Identifier: GPL-2.0
"""Faulty devices below a device that is copied while it is written to: fio gets back what it wrote,
the lists and counters agree, and when the device is healed all is copied and equal.
"""

import errno

import pytest

from harness import io
from harness.clone_rs import TRACK, Failure, clone_table
from harness.faulty import READS, VANISHING, WRITES, FaultyPair, allow_errors, offline
from harness.fio import STEADY, Fio
from harness.image import Image
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.rig import Rig
from harness.track import Pair

LENGTH = 8192
REGION = 64
FEATURES = ("region_size", REGION, "depth", 4, "batch", REGION)
COUNTERS = {"backing": "read_errors", "clone": "clone_errors"}


def steady(rig: Rig, pair: Pair) -> Fio:
    """Load on the first half of the device."""
    load = rig.fio(pair.device.disk, size=f"{LENGTH // 4}k", **STEADY)
    load.wait_for_load()
    return load


def check_list(pair: Pair, side: str, counted: int) -> list[Failure]:
    """The list accounts for all that was counted, on that side only."""
    listed = pair.device.errors()
    assert listed.left_out == 0
    assert sum(failure.count for failure in listed.failures) == counted > 0
    assert {failure.side for failure in listed.failures} == {side}
    assert all(failure.sector % REGION == 0 for failure in listed.failures)
    return listed.failures


@pytest.mark.parametrize(
    ("side", "kind"),
    [
        pytest.param(side, kind, marks=[] if kind == "flakey" else pytest.mark.long)
        for side, kinds in (("backing", READS), ("clone", WRITES))
        for kind in kinds
    ],
)
def test_under_load(rig: Rig, kernel_log: Guard, side: str, kind: str) -> None:
    """Bad blocks in the second half: copying pauses or the clone is detached, fio goes on, and
    after healing the copy is finished under that load."""
    allow_errors(kernel_log)
    kinds = READS if side == "backing" else WRITES
    pair = FaultyPair(rig, kinds[kind], side, FEATURES, size=LENGTH >> 11)
    bad = range(LENGTH // 2 + 5 * REGION + 1, LENGTH, 9 * REGION)
    pair.faulty.fail(*((sector, 1) for sector in bad))
    load = steady(rig, pair)
    pair.device.start()
    pair.device.wait_paused()
    # The last of the jobs in flight have ended then.
    pair.device.suspend()
    pair.device.resume()
    status = pair.device.clone_status()
    assert status.state == "paused"
    assert status.health == ("detached" if side == "clone" else "errors")
    assert [status.counters[name] for name in COUNTERS.values()].count(0) == 1
    failures = check_list(pair, side, status.counters[COUNTERS[side]])
    runs = {sector // REGION * REGION for sector in bad}
    assert {failure.sector for failure in failures} <= runs
    assert_quiet(pair.bare["clone"])
    pair.faulty.heal()
    pair.device.start()
    pair.device.wait_for(lambda status: status.dirty <= LENGTH // 2 // REGION, "nearly done")
    status = pair.finish("healed, under load")
    pair.device.resume()
    load.finish()
    assert pair.device.errors().failures == []


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_delay(rig: Rig, side: str) -> None:
    """dm-delay: all takes longer, nothing fails, and a suspend finishes the copy."""
    disks = {name: rig.null_blk(LENGTH >> 11) for name in COUNTERS}
    slow = disks[side]
    below = rig.mapped(f"0 {LENGTH} delay {slow.path} 0 20").disk
    pair = Pair(rig, **(disks | {side: below}), features=FEATURES)
    load = steady(rig, pair)
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync >= 60, "on the way")
    pair.finish("a slow device")
    pair.device.resume()
    load.finish()
    assert pair.device.clone_status().health == "ok"
    assert pair.device.errors().failures == []


@pytest.mark.parametrize("kind", VANISHING)
def test_clone_vanishes(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """While it is copied to: fio goes on, `start` fails again, and a table with another clone has
    all of it copied there."""
    allow_errors(kernel_log)
    make, take = VANISHING[kind]
    disks = rig.null_blk(LENGTH >> 11), make(rig, LENGTH >> 11)
    pair = Pair(rig, *disks, features=(*FEATURES, "rate", 400))
    # Made now, as a later one may get the number of the one that goes.
    other = Image(rig.null_blk(LENGTH >> 11), "other")
    load = steady(rig, pair)
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync >= 3, "on the way")
    take(pair.clone.disk)
    counted = 0
    for _ in range(2):
        status = pair.device.wait_for(
            lambda status: status.health == "detached" and not status.copying, "detached"
        )
        assert status.state == "paused"
        # The list begins anew with each start.
        failures = check_list(pair, "clone", status.counters["clone_errors"] - counted)
        counted = status.counters["clone_errors"]
        assert {failure.errno for failure in failures} <= {errno.EIO, errno.ENODEV}
        pair.device.start()
    pair.device.wait_paused()
    pair.clone = other
    pair.device.reload(clone_table(pair.backing.disk, other.disk, features=(*TRACK, *FEATURES)))
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync >= LENGTH // 2 // REGION, "on the way")
    pair.finish("the other clone")
    pair.device.resume()
    load.finish()


@pytest.mark.parametrize("kind", VANISHING)
def test_backing_vanishes(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """Users get EIO, as from dm-linear; copying pauses, and suspend and remove work."""
    allow_errors(kernel_log)
    make, take = VANISHING[kind]
    disks = make(rig, LENGTH >> 11), rig.null_blk(LENGTH >> 11)
    pair = Pair(rig, *disks, features=(*FEATURES, "rate", 400))
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync >= 3, "on the way")
    take(pair.backing.disk)
    status = pair.device.wait_paused()
    with pytest.raises(OSError, match="Input/output error"):
        io.read(pair.device.disk, 0, 8)
    pair.device.suspend()
    pair.device.resume()
    status = pair.device.clone_status()
    assert (status.state, status.health) == ("paused", "errors")
    check_list(pair, "backing", status.counters["read_errors"])
    pair.expect_copy(0, status.counters["copied"])
    pair.clone.check("what could be read")
    pair.device.remove()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_goes_and_comes_back(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A SCSI disk that is offline for a while: with `start` the same table goes on."""
    allow_errors(kernel_log)
    disks = {name: rig.null_blk(LENGTH >> 11) for name in COUNTERS}
    disks[side] = rig.scsi_debug(LENGTH >> 11, per_host_store=1)
    pair = Pair(rig, **disks, features=(*FEATURES, "rate", 400))
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync >= 3, "on the way")
    with offline(disks[side]):
        pair.device.wait_paused()
        # The last of the jobs in flight have ended then.
        pair.device.suspend()
        pair.device.resume()
        status = pair.device.clone_status()
        assert status.health == ("detached" if side == "clone" else "errors")
        check_list(pair, side, status.counters[COUNTERS[side]])
        if side == "clone":
            load = steady(rig, pair)
    pair.device.tune("rate", 0)
    if side == "backing":
        load = steady(rig, pair)
    pair.device.start()
    pair.device.wait_for(lambda status: status.dirty <= LENGTH // 2 // REGION, "nearly done")
    pair.finish("it came back")
    pair.device.resume()
    load.finish()
