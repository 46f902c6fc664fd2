# SPDX-License-Identifier: GPL-2.0
"""A clone that fails, hangs or goes away while it mirrors: users see the backing device alone, what
was missed or not flushed is dirty, and `start` copies that and no more. A backing device that can't
be read is answered for by the clone.
"""

import errno
import os

import pytest

from harness import io
from harness.clone_rs import linear_table
from harness.data import stamped
from harness.faulty import SAID, Faulty, FlakeyReads
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
LENGTH = 4096
FEATURES = ("region_size", REGION, "depth", 1, "batch", REGION)


class FaultyMirror(Pair):
    """A complete mirror whose clone, or backing device, can be made to fail."""

    def __init__(self, rig: Rig, log: Guard, side: str, kind: type = Faulty, **queue: object):
        log.allow(OURS + "(copy: |clone device |flush of )")
        log.allow(SAID)
        queue = {"cache_size": 1} | queue
        disks = {name: rig.null_blk(2, **queue) for name in ("backing", "clone")}
        self.faulty = kind(rig, disks[side])
        disks[side] = self.faulty.disk
        super().__init__(rig, **disks, features=FEATURES, mode="mirror")
        self.device.start_and_wait()


def test_detached(rig: Rig, kernel_log: Guard) -> None:
    """A write that the clone refuses succeeds; from then on nothing reaches the clone, and `start`
    copies what was written meanwhile."""
    pair = FaultyMirror(rig, kernel_log, "clone")
    before = pair.device.clone_status()
    event = pair.device.info().event
    pair.faulty.fail((0, LENGTH))
    pair.write(5 * REGION, stamped("missed", 0, 8))
    status = pair.device.wait_for(lambda status: status.health == "detached", "detached")
    assert status.counters["clone_errors"] == 8
    assert pair.device.info().event > event
    assert pair.device.errors().failures[0][:2] == ("clone", errno.EIO)
    pair.write(9 * REGION, stamped("missed", 1, 8))
    assert pair.device.clone_status().in_sync <= before.in_sync - 2
    pair.faulty.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")


def test_no_more_than_what_was_missed(rig: Rig, kernel_log: Guard) -> None:
    """Of a clone that was flushed only what was written since is copied again."""
    pair = FaultyMirror(rig, kernel_log, "clone")
    copied = pair.device.clone_status().counters["copied"]
    pair.write(20 * REGION, stamped("before", 0, 8))
    pair.faulty.fail((0, LENGTH))
    pair.write(40 * REGION, stamped("missed", 0, 8))
    pair.faulty.heal()
    status = pair.device.start_and_wait()
    assert status.counters["copied"] - copied <= 4 * REGION
    pair.expect_copy()
    pair.check("after start")


def test_flush_fails(rig: Rig, kernel_log: Guard) -> None:
    """A flush that the clone fails succeeds for users; what it should secure is dirty by then."""
    pair = FaultyMirror(rig, kernel_log, "clone")
    pair.write(20 * REGION, stamped("user", 0, 8))
    assert pair.device.clone_status().state == "complete"
    pair.faulty.fail_flushes()
    with io.direct(pair.device.disk) as fd:
        os.fsync(fd)
    status = pair.device.clone_status()
    assert status.state != "complete"
    assert status.in_sync < status.total
    pair.faulty.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")


def test_reads_are_answered(rig: Rig, kernel_log: Guard) -> None:
    """A read that fails on the backing device gets the clone's data where that is in sync, and is
    counted; where it is not, the error."""
    pair = FaultyMirror(rig, kernel_log, "backing", FlakeyReads)
    kernel_log.allow("Buffer I/O error|I/O error")
    pair.faulty.fail((0, 2 * REGION))
    assert io.read(pair.device.disk, 8, 64) == pair.backing.content(8, 64)
    assert pair.device.clone_status().counters["fallback"] == 64
    pair.device.pause()
    pair.device.copy(0, 8)
    wait_until(lambda: pair.device.clone_status().in_sync < LENGTH // REGION, "a dirty region")
    with pytest.raises(OSError) as caught:
        io.read(pair.device.disk, 8, 8)
    assert caught.value.errno == errno.EIO
    assert pair.device.clone_status().counters["fallback"] == 64


def test_hangs(rig: Rig, kernel_log: Guard) -> None:
    """A clone that hangs holds mirrored writes, and nothing else; the suspend that waits for them
    can be interrupted, and they end when the clone fails."""
    kernel_log.allow(OURS + "(copy: |clone device |flush of )")
    kernel_log.allow(SAID)
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=FEATURES, gated=True, mode="mirror")
    pair.device.start_and_wait()
    trace = rig.bio_trace(*pair.below)
    pair.clone_gate.suspend()
    write = rig.background(pair.write, 0, stamped("user", 0, 8))
    wait_until(lambda: trace.bios(pair.below[1]), "the write to hang")
    assert io.read(pair.device.disk, 64, 8) == pair.backing.content(64, 8)
    pair.device.pause()
    assert pair.device.clone_status().copying == 0
    child = rig.suspend_in_child(pair.device)
    child.wait_until_waiting()
    child.interrupt()
    assert child.errno() == errno.EINTR
    assert write.running
    pair.clone_gate.make_errors()
    write.result()
    status = pair.device.wait_for(lambda status: status.health == "detached", "detached")
    assert status.counters["clone_errors"] == 8


def test_detached_between_two_pieces(rig: Rig, kernel_log: Guard) -> None:
    """Zeroes over two runs that are in sync, in one bio: when the first run has them the clone was
    detached meanwhile, by another write. The second run does not get them, and is dirty."""
    kernel_log.allow(OURS + "(copy: |clone device |flush of )")
    kernel_log.allow(SAID)
    half = LENGTH // 2
    gate, faulty = rig.gate(rig.loop(1)), Faulty(rig, rig.loop(1))
    parts = (linear_table(gate.disk), linear_table(faulty.disk, start=half))
    clone = rig.mapped("\n".join(parts)).disk
    pair = Pair(rig, rig.loop(2), clone, features=FEATURES, mode="mirror")
    device = pair.device
    before = device.start_and_wait()
    faulty.fail((0, half))
    shut = rig.shut(gate)
    # What is being copied between the two runs is not in sync.
    device.copy(REGION, REGION)
    shut.wait_for(1)
    zeroes = rig.background(pair.write_zeroes, 0, 3 * REGION)
    shut.wait_for(2)
    pair.write(half, stamped("missed", 0, 8))
    device.wait_for(lambda status: status.health == "detached", "detached")
    shut.open()
    zeroes.result()
    device.wait_idle()
    assert device.clone_status().in_sync == before.in_sync - 4
    faulty.heal()
    device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")
