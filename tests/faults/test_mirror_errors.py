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
from harness.disk import Disk
from harness.faulty import VANISHING, Faulty, FlakeyReads, allow_errors, power_off
from harness.fio import STEADY
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
LENGTH = 4096
FEATURES = ("region_size", REGION, "depth", 1, "batch", REGION)


class FaultyMirror(Pair):
    """A complete mirror whose clone, or backing device, can be made to fail."""

    def __init__(
        self,
        rig: Rig,
        log: Guard,
        side: str,
        kind: type = Faulty,
        features: tuple = (),
        **queue: object,
    ):
        allow_errors(log)
        queue = {"cache_size": 1} | queue
        disks = {name: rig.null_blk(2, **queue) for name in ("backing", "clone")}
        self.faulty = kind(rig, disks[side])
        disks[side] = self.faulty.disk
        super().__init__(rig, **disks, features=(*FEATURES, *features), mode="mirror")
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


def test_stop(rig: Rig, kernel_log: Guard) -> None:
    """With `on_clone_error stop` copying pauses, but writes go on to reach the clone where both
    are the same; `start` copies what the clone has refused."""
    pair = FaultyMirror(rig, kernel_log, "clone", features=("on_clone_error", "stop"))
    before = pair.device.clone_status()
    event = pair.device.info().event
    pair.faulty.fail((5 * REGION, REGION))
    trace = rig.bio_trace(*pair.below)
    pair.write(5 * REGION, stamped("missed", 0, 8))
    status = pair.device.wait_for(lambda status: status.health != "ok", "unhealthy")
    assert (status.state, status.health) == ("paused", "errors")
    assert (status.counters["clone_errors"], status.in_sync) == (8, before.in_sync - 1)
    assert pair.device.info().event > event
    assert pair.device.errors().failures == [("clone", errno.EIO, 5 * REGION, 8)]
    trace.clear()
    # The one is in sync, the other is not any more.
    pair.write(9 * REGION, stamped("both", 0, 8))
    pair.write(5 * REGION + 8, stamped("missed", 1, 8))
    sent = [
        [(bio.sector, bio.count) for bio in trace.bios(disk) if bio.count] for disk in pair.below
    ]
    assert sent == [[(9 * REGION, 8), (5 * REGION + 8, 8)], [(9 * REGION, 8)]]
    assert pair.device.clone_status() == status
    pair.faulty.heal()
    status = pair.device.start_and_wait()
    assert (status.health, pair.device.errors().failures) == ("ok", [])
    assert status.counters["copied"] - before.counters["copied"] == REGION
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


def test_reads_that_nobody_answers(rig: Rig, kernel_log: Guard) -> None:
    """Where the clone can't be read either the user gets the error of the backing device; that is
    no error of the copy."""
    pair = FaultyMirror(rig, kernel_log, "backing", FlakeyReads)
    pair.faulty.fail((0, 2 * REGION))
    rig.badblocks(pair.clone.disk, 40, 47)
    before = pair.device.clone_status()
    with pytest.raises(OSError) as caught:
        io.read(pair.device.disk, 8, 64)
    assert caught.value.errno == errno.EIO
    assert pair.device.clone_status() == before
    # Beside that it answers.
    assert io.read(pair.device.disk, 48, 8) == pair.backing.content(48, 8)
    assert pair.device.clone_status().counters["fallback"] == 8
    rig.no_badblocks(pair.clone.disk, 40, 47)
    assert io.read(pair.device.disk, 8, 64) == pair.backing.content(8, 64)
    assert pair.device.clone_status().counters["fallback"] == 8 + 64


def test_slow(rig: Rig) -> None:
    """A clone that takes its time for all: what fio writes reads back, before and after the copy is
    complete, and nothing fails."""
    clone = rig.null_blk(2)
    slow = rig.mapped(f"0 {LENGTH} delay {clone.path} 0 20").disk
    features = ("region_size", REGION, "depth", 4, "batch", REGION)
    pair = Pair(rig, rig.null_blk(2), slow, features=features, mode="mirror")
    load = rig.fio(pair.device.disk, size=f"{LENGTH // 4}k", **STEADY)
    load.wait_for_load()
    pair.device.start_and_wait(60)
    written = clone.counters().sectors_written
    wait_until(
        lambda: clone.counters().sectors_written > written + REGION or not load.running,
        "writes to both devices",
    )
    load.finish()
    assert pair.device.errors().failures == []
    pair.device.suspend()
    pair.check_finished("a slow clone")
    pair.device.resume()


def cached(rig: Rig, size: int) -> Disk:
    """A null_blk disk with a write cache."""
    return rig.null_blk(size, cache_size=1)


GOING = VANISHING | {"null_blk-write-cache": (cached, power_off)}


@pytest.mark.parametrize("first", ["write", "flush"])
@pytest.mark.parametrize("kind", GOING)
def test_vanishes(rig: Rig, kernel_log: Guard, kind: str, first: str) -> None:
    """The clone of a complete mirror goes away: users' writes and flushes succeed, and it is
    detached by the first that has something to do there; `start` fails, and hurts nobody."""
    allow_errors(kernel_log)
    make, take = GOING[kind]
    pair = Pair(rig, rig.null_blk(2, cache_size=1), make(rig, 2), features=FEATURES, mode="mirror")
    device = pair.device
    device.start_and_wait()
    # So that no job comes to see it.
    device.pause()
    # What it has in its cache.
    pair.write(30 * REGION, stamped("before", 0, 8))
    flushes = pair.clone.disk.queue("write_cache") == "write back"
    event = device.info().event
    take(pair.clone.disk)

    def flush() -> None:
        with io.direct(device.disk) as fd:
            os.fsync(fd)

    def detached() -> None:
        status = device.wait_for(
            lambda status: status.health == "detached" and not status.copying, "detached"
        )
        assert status.state == "paused"
        assert status.dirty > 0
        failures = device.errors().failures
        assert {failure.side for failure in failures} == {"clone"}
        assert {failure.errno for failure in failures} <= {errno.EIO, errno.ENODEV}

    if first == "flush":
        flush()
        if flushes:
            # Its user had not heard of its end before.
            assert device.clone_status().health == "detached"
            detached()
    for turn in range(2):
        pair.write(5 * REGION, stamped(f"after{turn}", 0, 8))
        detached()
        flush()
        assert io.read(device.disk) == pair.backing.content()
        assert device.info().event > event
        # It is tried again.
        device.start()
    detached()
    pair.backing.check("the clone has gone")
    device.suspend()
    device.resume()
    device.remove()


def test_hangs(rig: Rig, kernel_log: Guard) -> None:
    """A clone that hangs holds mirrored writes and what has to wait for them, flushes of a complete
    copy, and nothing else; the suspend that waits for them can be interrupted, and all end when the
    clone fails. Then it is copied again."""
    allow_errors(kernel_log)
    disks = rig.null_blk(2, cache_size=1), rig.null_blk(2, cache_size=1)
    pair = Pair(rig, *disks, features=FEATURES, gated=True, mode="mirror")
    device = pair.device
    device.start_and_wait()
    trace = rig.bio_trace(*pair.below)
    shut = rig.shut(pair.clone_gate)
    write = rig.background(pair.write, 0, stamped("user", 0, 8))
    shut.wait_for(1)

    def fsync() -> None:
        with io.direct(device.disk) as fd:
            os.fsync(fd)

    flush = rig.background(fsync)
    shut.wait_for(2)
    behind = rig.background(pair.write, 4, stamped("behind", 0, 8))
    beside = rig.background(pair.write, 32, stamped("beside", 0, 8))
    shut.wait_for(3)
    hanging = [write, flush, behind, beside]
    assert sorted(bio.count for bio in shut.held()) == [0, 8, 8]
    assert (4, 8) not in [(bio.sector, bio.count) for bio in trace.bios(pair.below[0])]
    assert io.read(pair.device.disk, 64, 8) == pair.backing.content(64, 8)
    device.pause()
    assert device.clone_status().copying == 0
    child = rig.suspend_in_child(device)
    child.wait_until_waiting()
    child.interrupt()
    assert child.errno() == errno.EINTR
    assert not device.suspended
    child = rig.suspend_in_child(device)
    child.wait_until_waiting()
    assert all(call.running for call in hanging)
    pair.clone_gate.make_errors()
    assert child.errno() == 0
    for call in hanging:
        call.result()
    status = device.clone_status()
    assert status.health == "detached"
    assert status.counters["clone_errors"] == 16
    device.resume()
    # What was written last, whichever thread came to say so first.
    pair.backing.expect(4, stamped("behind", 0, 8))
    pair.clone_gate.reload(linear_table(pair.clone.disk))
    device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")


def test_detached_between_two_pieces(rig: Rig, kernel_log: Guard) -> None:
    """Zeroes over two runs that are in sync, in one bio: when the first run has them the clone was
    detached meanwhile, by another write. The second run does not get them, and is dirty."""
    allow_errors(kernel_log)
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
