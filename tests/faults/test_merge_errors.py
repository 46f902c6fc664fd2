# SPDX-License-Identifier: GPL-2.0
"""A clone that fails where less than one of its blocks is to be written: what it has there can't be
read, or the block not be written. Users see nothing of it, and nothing counts as in sync.
"""

import errno

import pytest

from harness import io
from harness.clone_rs import linear_table
from harness.data import stamped
from harness.disk import Disk
from harness.faulty import Faulty, FlakeyReads, FlakeyWrites, allow_errors
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.track import Pair

REGION = 64
EXACT = ("region_size", REGION, "depth", 1, "batch", REGION)
OFFSETS, LENGTH = (3, 21), 2000


def parted(rig: Rig, clone: Disk, backing: Disk | None = None) -> Pair:
    """A mirror that begins and ends within blocks of the clone."""
    return Pair(rig, backing or rig.null_blk(2), clone, OFFSETS, LENGTH, EXACT, mode="mirror")


@pytest.mark.parametrize("kind", [FlakeyReads, FlakeyWrites])
@pytest.mark.parametrize("place", [(0, 1), (500, 4), (LENGTH - 1, 1)], ids=str)
def test_mirrored_write(rig: Rig, kernel_log: Guard, kind: type, place: tuple[int, int]) -> None:
    """The write succeeds, the clone is detached; what it misses is copied later."""
    allow_errors(kernel_log)
    faulty = kind(rig, rig.null_blk(2, blocksize=4096))
    pair = parted(rig, faulty.disk)
    pair.device.start_and_wait()
    faulty.fail((0, faulty.below.sectors))
    pair.write(place[0], stamped("missed", *place))
    status = pair.device.wait_for(lambda status: status.health == "detached", "detached")
    assert status.counters["clone_errors"] == place[1]
    assert pair.device.errors().failures == [("clone", errno.EIO, *place)]
    failed = "read" if kind is FlakeyReads else "write"
    assert f"copy: {failed} of {place[1]} sectors at sector " in kernel_log.text()
    assert status.in_sync < status.total
    faulty.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")


@pytest.mark.parametrize("kind", [FlakeyReads, FlakeyWrites])
@pytest.mark.parametrize(("block", "piece"), [(16, (0, 3)), (2016, (1995, 5))])
def test_job(rig: Rig, kernel_log: Guard, kind: type, block: int, piece: tuple[int, int]) -> None:
    """The first and the last block of the target: their regions stay dirty, and the error is the
    clone's."""
    allow_errors(kernel_log)
    faulty = kind(rig, rig.null_blk(2, blocksize=4096))
    pair = parted(rig, faulty.disk)
    faulty.fail((block, 8))
    pair.device.copy(*piece)
    status = pair.device.wait_for(lambda status: status.health == "detached", "detached")
    assert (status.in_sync, status.counters["clone_errors"]) == (0, piece[1])
    assert pair.device.errors().failures == [("clone", errno.EIO, *piece)]
    faulty.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")


def test_detached_meanwhile(rig: Rig, kernel_log: Guard) -> None:
    """The clone is lost while what it has is being read: nothing is written to it any more, and the
    write ends."""
    allow_errors(kernel_log)
    # The first half can be made to fail, the other one has a gate.
    below = rig.null_blk(2, blocksize=4096)
    faulty, gate = Faulty(rig, below), rig.gate(below)
    half = below.sectors // 4
    lines = [linear_table(faulty.disk, 0, half), linear_table(gate.disk, half, start=half)]
    clone = rig.mapped("\n".join(lines)).disk
    pair = parted(rig, clone)
    pair.device.start_and_wait()
    shut = rig.shut(gate)
    write = rig.background(pair.write, 1500, stamped("held", 1500, 1))
    shut.wait_for(1)
    faulty.fail((0, half))
    pair.write(100, stamped("missed", 100, 1))
    pair.device.wait_for(lambda status: status.health == "detached", "detached")
    assert write.running
    shut.open()
    write.result()
    shut.wait_for(1)
    faulty.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")


def test_reads_of_parts(rig: Rig, kernel_log: Guard) -> None:
    """A read that fails on the backing device is answered by the clone where it is whole blocks of
    that; else the error counts."""
    allow_errors(kernel_log)
    kernel_log.allow("Buffer I/O error|I/O error")
    faulty = FlakeyReads(rig, rig.null_blk(2))
    pair = parted(rig, rig.null_blk(2, blocksize=4096), faulty.disk)
    pair.device.start_and_wait()
    faulty.fail((0, 1000))
    trace = rig.bio_trace(pair.below[1])
    assert io.read(pair.device.disk, 3, 16) == pair.backing.content(OFFSETS[0] + 3, 16)
    for place in ((0, 1), (4, 8), (11, 9)):
        with pytest.raises(OSError) as caught:
            io.read(pair.device.disk, *place)
        assert caught.value.errno == errno.EIO
    assert pair.device.clone_status().counters["fallback"] == 16
    assert [bio[1:] for bio in trace.bios(pair.below[1])] == [(OFFSETS[1] + 3, 16)]
    faulty.heal()
