# SPDX-License-Identifier: GPL-2.0
"""What is told of an error is exact: the list, the counters, state, health and events, for each
kind of faulty device, each side and each of the policies on_read_error and on_clone_error.

With one job at a time, whose run is one region, all of it is known beforehand.
"""

import errno
from collections.abc import Iterable

import pytest

from harness import io
from harness.clone_rs import ErrorList, Failure, Status
from harness.command import write_text
from harness.data import stamped
from harness.dm import Device
from harness.dm_ioctl import Command, call
from harness.faulty import READS, WRITES, Faulty, FaultyPair, allow_errors, offline
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
REGIONS = 4096 // REGION
EXACT = ("region_size", REGION, "depth", 1, "batch", REGION)
SMALL = ("region_size", 8, "depth", 1, "batch", 8)
SKIP = ("on_read_error", "skip")
# Side, feature, and what is in sync when copying has come to the end of 20 regions, where the next
# one fails.
POLICIES = {
    "stop": ("backing", ("on_read_error", "stop"), 20),
    "skip": ("backing", SKIP, REGIONS - 1),
    "detach": ("clone", ("on_clone_error", "detach"), 0),
    "clone-stop": ("clone", ("on_clone_error", "stop"), 20),
}
# What scsi_debug does wrong.
OPTS = "/sys/bus/pseudo/drivers/scsi_debug/opts"
COUNTERS = {"backing": "read_errors", "clone": "clone_errors"}


def wait_for_event(device: Device, number: int) -> None:
    """Events are raised after the state has changed."""
    wait_until(lambda: device.info().event >= number, f"event {number}")


def outcome(device: Device, sector: int) -> str:
    """What a user gets who reads there."""
    try:
        io.read(device.disk, sector, 1)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def failures(side: str, sectors: Iterable[int], size: int) -> list[Failure]:
    """EIO at runs of one size."""
    return [Failure(side, errno.EIO, sector, size) for sector in sectors]


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        pytest.param(policy, kind, marks=[] if kind in ("error", "dust") else pytest.mark.long)
        for policy, (side, _, _) in POLICIES.items()
        for kind in (READS if side == "backing" else WRITES)
    ],
)
def test_single_bad_block(rig: Rig, kernel_log: Guard, policy: str, kind: str) -> None:
    """One bad block: what has been copied, what is in sync, what is told. After it is healed,
    `start` forgets it and copies the rest."""
    allow_errors(kernel_log)
    side, feature, in_sync = POLICIES[policy]
    kinds = READS if side == "backing" else WRITES
    pair = FaultyPair(rig, kinds[kind], side, (*EXACT, *feature))
    bad = 20 * REGION + 13
    pair.faulty.fail((bad, 1))
    event = pair.device.info().event
    pair.device.start()
    wait_for_event(pair.device, event + 1)
    status = pair.device.wait_paused()
    # With `skip` it is narrowed down to the sector.
    place, count = (bad, 1) if policy == "skip" else (20 * REGION, REGION)
    wanted = dict.fromkeys(status.counters, 0)
    wanted["copied"] = REGIONS * REGION - 1 if policy == "skip" else 20 * REGION
    wanted["bad"] = 1 if policy == "skip" else 0
    assert status.counters == wanted | {COUNTERS[side]: count}
    assert (status.in_sync, status.skipped, status.total) == (in_sync, 0, REGIONS)
    assert status.health == ("detached" if policy == "detach" else "errors")
    assert pair.device.errors() == ErrorList(failures(side, [place], count), 0)
    assert outcome(pair.device, bad) == ("EIO" if side == "backing" else "ok")
    assert pair.device.info().event == event + 1
    pair.faulty.heal()
    check_healed(pair, status, event)


def check_healed(pair: Pair, before: Status, event: int) -> None:
    """After `start` there are no errors, and what was not in sync is copied."""
    status = pair.device.start_and_wait()
    assert pair.device.errors() == ErrorList([], 0)
    assert status.health == "ok"
    # What was copied of a region with a bad block does not make it one that was copied.
    again = 0 if before.counters["bad"] else before.counters["copied"] - before.in_sync * REGION
    copied = before.counters["copied"] + before.dirty * REGION
    assert status.counters == before.counters | {"copied": copied, "recopied": again}
    wait_for_event(pair.device, event + 2)
    assert pair.device.info().event == event + 2
    pair.expect_copy()
    pair.check("healed")


def test_still_bad(rig: Rig, kernel_log: Guard) -> None:
    """`start` tries again and fails again: the list has it once, the counter each time, and there
    is an event each time."""
    allow_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "backing", EXACT)
    pair.faulty.fail((0, 1))
    event = pair.device.info().event
    for number in range(1, 4):
        pair.device.start()
        wait_for_event(pair.device, event + number)
        status = pair.device.wait_paused()
        assert status.counters["read_errors"] == number * REGION
        assert pair.device.errors() == ErrorList(failures("backing", [0], REGION), 0)
    assert pair.device.info().event == event + 3


def test_more_than_fit(rig: Rig, kernel_log: Guard) -> None:
    """With on_read_error skip many sectors fail in one pass: the first 64 runs are listed, the
    others counted, and all together are one event. A reload keeps the list."""
    allow_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "backing", (*SMALL, *SKIP))
    bad = range(16, 4096, 48)
    pair.faulty.fail(*((sector + 3, 2) for sector in bad))
    event = pair.device.info().event
    pair.device.start()
    status = pair.device.wait_paused()
    assert status.counters["read_errors"] == status.counters["bad"] == len(bad) * 2
    assert status.counters["copied"] == 4096 - len(bad) * 2
    assert status.dirty == len(bad)
    places = [sector + 3 for sector in bad]
    # Each of the two sectors is left out by itself.
    listed = ErrorList(failures("backing", places[:64], 2), 2 * (len(bad) - 64))
    assert pair.device.errors() == listed
    wait_for_event(pair.device, event + 1)
    assert pair.device.info().event == event + 1
    pair.device.reload(pair.table)
    assert pair.device.errors() == listed
    assert pair.device.clone_status() == status
    pair.device.suspend()
    assert pair.device.errors() == listed
    pair.device.resume()


def test_more_than_fit_on_the_clone(rig: Rig, kernel_log: Guard) -> None:
    """The same with writes, of one range that was asked for: it is gone through to its end."""
    allow_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "clone", (*SMALL, "on_clone_error", "stop"))
    bad = range(16, 4096, 48)
    pair.faulty.fail(*((sector + 3, 2) for sector in bad))
    event = pair.device.info().event
    status = pair.device.copy_and_wait(0, 4096)
    assert status.counters["clone_errors"] == len(bad) * 8
    assert status.counters["copied"] == 4096 - len(bad) * 8
    assert (status.state, status.health, status.dirty) == ("idle", "errors", len(bad))
    assert pair.device.errors() == ErrorList(failures("clone", bad[:64], 8), len(bad) - 64)
    wait_for_event(pair.device, event + 1)
    assert pair.device.info().event == event + 1


def test_adjacent_ones_are_joined(rig: Rig, kernel_log: Guard) -> None:
    """What fails one after the other is one entry; those apart, and those of the other side, are
    entries of their own."""
    allow_errors(kernel_log)
    disks = [Faulty(rig, rig.null_blk(2)) for _ in range(2)]
    features = (*EXACT, *SKIP, "on_clone_error", "stop")
    pair = Pair(rig, *(disk.disk for disk in disks), features=features)
    disks[0].fail((5 * REGION + 1, 2 * REGION), (10 * REGION, 1))
    disks[1].fail((8 * REGION, REGION))
    pair.device.start()
    status = pair.device.wait_paused()
    bad = failures("backing", [5 * REGION + 1], 2 * REGION)
    listed = [*bad, *failures("clone", [512], REGION)]
    assert pair.device.errors() == ErrorList(listed, 0)
    assert status.counters["read_errors"] == 2 * REGION
    assert status.counters["clone_errors"] == REGION
    disks[1].heal()
    pair.device.start()
    status = pair.device.wait_paused()
    # A start goes on with the next region, and comes to the first ones last.
    assert sorted(pair.device.errors().failures) == [*bad, *failures("backing", [640], 1)]
    assert status.counters["read_errors"] == 4 * REGION + 1
    assert status.dirty == 4


def test_run_of_many_regions(rig: Rig, kernel_log: Guard) -> None:
    """Of a run of many regions only that with the bad sector is left dirty."""
    allow_errors(kernel_log)
    features = ("region_size", 8, "depth", 1, "batch", 256, *SKIP)
    pair = FaultyPair(rig, Faulty, "backing", features)
    pair.faulty.fail((256 + 100, 1))
    pair.device.start()
    status = pair.device.wait_paused()
    assert pair.device.errors() == ErrorList(failures("backing", [256 + 100], 1), 0)
    assert status.counters["read_errors"] == 1
    assert status.dirty == 1


@pytest.mark.parametrize("side", COUNTERS)
def test_region_of_many_pieces(rig: Rig, kernel_log: Guard, side: str) -> None:
    """Where a region is larger than a job's memory, the entry is the piece that failed, and the
    region is dirty as a whole."""
    allow_errors(kernel_log)
    features = ("region_size", 1024, "depth", 1, "batch", 64, "on_clone_error", "stop")
    pair = FaultyPair(rig, Faulty, side, features)
    pair.faulty.fail((1024 + 128 + 5, 1))
    pair.device.start()
    status = pair.device.wait_paused()
    assert pair.device.errors() == ErrorList(failures(side, [1024 + 128], 64), 0)
    assert status.counters[COUNTERS[side]] == 64
    assert status.counters["copied"] == 1024 + 128
    assert (status.in_sync, status.dirty) == (1, 3)
    pair.faulty.heal()
    assert pair.device.start_and_wait().counters["copied"] == 4096 + 128
    pair.expect_copy()
    pair.check("after an error in the middle of a region")


def test_the_kind_of_error(rig: Rig, kernel_log: Guard) -> None:
    """A medium error is told apart from an I/O error: the number is the block layer's own."""
    allow_errors(kernel_log)
    parameters = {"medium_error_start": 1000, "medium_error_count": 4, "per_host_store": 1}
    backing = rig.scsi_debug(2, **parameters)
    pair = Pair(rig, backing, rig.null_blk(2), features=(*EXACT, *SKIP))
    # Medium errors.
    write_text(OPTS, 2)
    pair.device.start()
    pair.device.wait_paused()
    write_text(OPTS, 0)
    listed = [Failure("backing", errno.ENODATA, 1000, 4)]
    assert pair.device.errors() == ErrorList(listed, 0)
    with offline(backing):
        pair.device.start()
        pair.device.wait_paused()
    listed = [Failure("backing", errno.EIO, 1000 // REGION * REGION, REGION)]
    assert pair.device.errors() == ErrorList(listed, 0)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after two kinds of errors")


def test_waiting_for_events(rig: Rig, kernel_log: Guard) -> None:
    """`dmsetup wait` returns for the first error since `start`, for a clone that is detached, and
    when all is copied."""
    allow_errors(kernel_log)
    disks = [Faulty(rig, rig.null_blk(2)) for _ in range(2)]
    pair = Pair(rig, *(disk.disk for disk in disks), features=(*EXACT, *SKIP))
    device = pair.device
    disks[0].fail((0, 1))
    disks[1].fail((2 * REGION, 1))

    def waiting():
        number = device.info().event
        return rig.background(call, Command.DEV_WAIT, device.name, event=number)

    first = waiting()
    device.copy(0, REGION)
    first.result()
    assert device.wait_idle().health == "errors"
    second = waiting()
    device.copy(0, 2 * REGION)
    assert device.wait_idle().counters["read_errors"] == 2
    assert second.running, "an event for the second error"
    device.copy(2 * REGION, REGION)
    second.result()
    assert device.clone_status().health == "detached"
    for disk in disks:
        disk.heal()
    third = waiting()
    device.start()
    third.result()
    assert device.clone_status().state == "complete"
    fourth = waiting()
    pair.write(0, stamped("user", 0, 8))
    fourth.result()
    assert device.wait_complete().health == "ok"
    pair.expect_copy()
    pair.check("after all events")
