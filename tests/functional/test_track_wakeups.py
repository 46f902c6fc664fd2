# SPDX-License-Identifier: GPL-2.0
"""Nothing waits for what has happened already: a suspend, a message, a write that comes at a bad
moment.

The device of most tests here has millions of regions, so that the scheduler is busy looking through
them for some milliseconds each time, and nearly all are skipped, so that it has little to copy.
"""

import os
import time

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, linear_table
from harness.dm_ioctl import is_busy
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig
from harness.wait import wait_until

REGIONS = 1 << 23
FEATURES = ("mode", "track", "region_size", 8, "depth", 2)


@pytest.fixture
def large(rig: Rig) -> CloneDevice:
    """A complete device on null_blk disks that keep no data."""
    disks = [rig.null_blk(REGIONS * 8 >> 11, memory_backed=0) for _ in range(2)]
    device = rig.clone(*disks, features=FEATURES)
    device.skip(0, REGIONS * 8)
    device.start()
    device.wait_complete()
    return device


def write(device: CloneDevice, region: int) -> None:
    """Make one region dirty."""
    handle = os.open(device.disk.path, os.O_WRONLY)
    try:
        os.pwrite(handle, bytes(4096), region * 4096)
        os.fsync(handle)
    finally:
        os.close(handle)


def test_suspends_end_while_the_scheduler_looks(large: CloneDevice, brief: bool) -> None:
    """Each suspend comes at another moment of the look for what a write has left."""
    for number in range(8 if brief else 60):
        write(large, number * 100_000 % REGIONS)
        large.suspend()
        assert large.clone_status().copying == 0
        large.resume()
    status = large.wait_complete()
    assert status.in_sync + status.skipped == REGIONS


def test_writes_are_found_whenever_they_end(large: CloneDevice, brief: bool) -> None:
    """Writes end all the while that the scheduler looks, flushes, completes and goes to rest."""
    for number in range(8 if brief else 60):
        for region in range(number % 7 + 1):
            write(large, region * 999_983 + number)
        assert large.wait_complete().dirty == 0


def test_a_rate_is_lifted_at_once(rig: Rig, brief: bool) -> None:
    """With this rate the next job would begin in an hour."""
    device = rig.clone(
        rig.null_blk(8), rig.null_blk(8), features=("mode", "track", "region_size", 8192)
    )
    for _ in range(4 if brief else 20):
        device.tune("rate", 1)
        device.copy(0, device.disk.sectors)
        device.start()
        device.tune("rate", 0)
        device.wait_complete()


def test_pause_ends_a_final_copy(rig: Rig, kernel_log: Guard) -> None:
    """A suspend copies the rest to a clone that hangs: when the clone goes on, what was in flight
    is the last, as `pause` has come meanwhile."""
    kernel_log.expect("finish: the rest could not be copied")
    clone = rig.gate(rig.null_blk(8))
    # After the first job the next one would begin in a minute.
    features = ("mode", "track", "depth", 1, "batch", 128, "rate", 1)
    device = rig.clone(rig.null_blk(8), clone.disk, features=features)
    device.start()
    device.wait_for(lambda status: status.in_sync and not status.copying, "waiting for the rate")
    shut = rig.shut(clone)
    device.finish()
    suspend = rig.background(device.suspend)
    shut.wait_for(1)
    device.pause()
    assert suspend.running
    shut.open()
    suspend.result()
    status = device.clone_status()
    assert (status.state, status.in_sync, status.copying) == ("paused", 2, 0)


@pytest.mark.parametrize("finish", [False, True])
def test_a_discard_ends_before_the_jobs(rig: Rig, kernel_log: Guard, finish: bool) -> None:
    """A `copy` can't have one of its two regions for a discard, which ends while the other one is
    still being written to a clone that hangs: after that nothing tells of the discard any more. It
    is copied all the same, also where a suspend has taken note of the last job's end."""
    kernel_log.allow(OURS + "message refused")
    disk, clone = rig.null_blk(2, discard=1), rig.gate(rig.null_blk(2))
    held = rig.gate(disk)
    halves = linear_table(disk, 0, 64), linear_table(held.disk, 64, 64, start=64)
    backing = rig.mapped("\n".join(halves)).disk
    features = (*TRACK, "region_size", 64, "batch", 64)
    device = rig.clone(backing, clone.disk, features=features)
    trace = rig.bio_trace(clone.disk)
    clone.suspend()
    held.suspend()
    with io.direct(device.disk) as fd:
        discard = rig.background(io.range_ioctl, fd, io.BLKDISCARD, 64, 64)
        wait_until(lambda: device.clone_status().skipped, "the discard")
        device.copy(0, 128)
        wait_until(lambda: len(trace.bios(clone.disk)) == 1, "the write of the one region")
        held.resume()
        discard.result()
    device.start()
    # Only where the scheduler has looked before the job ends is anything tested.
    time.sleep(0.2)
    if finish:
        device.finish()
        suspend = rig.background(device.suspend)
        # It has come to the target after all I/O of users has ended.
        wait_until(lambda: is_busy(device.finish), "the suspend to wait for the job")
        clone.resume()
        suspend.result()
        status = device.clone_status()
        assert (status.state, status.in_sync, status.dirty) == ("complete", 2, 0)
    else:
        clone.resume()
        assert device.wait_complete().in_sync == 2
