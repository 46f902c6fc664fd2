# SPDX-License-Identifier: GPL-2.0
"""What the status claims is true: so many regions are equal at least, `complete` means all of them,
on the medium, and `dmsetup wait` hears of it."""

import subprocess
import time
from itertools import pairwise

import pytest

from harness import io
from harness.clone_rs import linear_table
from harness.data import stamped
from harness.dm_ioctl import Command, call
from harness.fio import STEADY
from harness.quiet import assert_quiet
from harness.rig import Rig
from harness.track import Pair, segments
from harness.wait import wait_until

# Writes now and then, so that the copy is complete in between.
SPARSE = STEADY | {"bsrange": "512-8k", "thinktime": 1000000, "thinktime_blocks": 8, "iodepth": 4}


def frozen(pair: Pair) -> tuple[object, int]:
    """The status and how many regions are equal, at a moment when nothing moves below."""
    pair.clone_gate.suspend()
    pair.backing_gate.suspend()
    # A write that was let through may still be on its way back to the target.
    through = pair.backing_gate.disk.counters().writes
    wait_until(lambda: pair.device.disk.counters().writes == through, "writes to be known")
    status = pair.status()
    equal = pair.equal_regions()
    pair.backing_gate.resume()
    pair.clone_gate.resume()
    return status, equal


@pytest.mark.parametrize("region_size", [8, 128])
def test_in_sync_is_true(rig: Rig, region_size: int) -> None:
    """While fio writes and the copy goes on, everything below is stopped now and then: at least as
    many regions as are said to be in sync are equal."""
    pair = Pair(
        rig,
        rig.null_blk(4),
        rig.null_blk(4),
        features=("region_size", region_size, "batch", 64),
        gated=True,
    )
    load = rig.fio(pair.device.disk, **STEADY)
    load.wait_for_load()
    pair.device.tune("rate", 4096)
    pair.device.start()
    seen = []
    for _ in range(6):
        status, equal = frozen(pair)
        assert equal >= status.in_sync, f"{equal} regions are equal: {status}"
        seen.append(status.in_sync)
        wait_until(
            lambda last=status: pair.status().counters["copied"] > last.counters["copied"],
            "more to be copied",
        )
    assert any(0 < count < status.total for count in seen), seen
    load.finish()


def test_complete_is_true(rig: Rig) -> None:
    """While fio writes, each time that the copy is complete and then nothing moves below, the
    ranges are equal; without anybody waiting for anything."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("region_size", 8), gated=True)
    load = rig.fio(pair.device.disk, **SPARSE)
    load.wait_for_load()
    pair.device.start()
    complete = 0
    deadline = time.monotonic() + 90
    while complete < 4:
        assert time.monotonic() < deadline, f"complete {complete} times only"
        pair.device.wait_complete()
        status, equal = frozen(pair)
        if status.state == "complete":
            assert (equal, status.in_sync) == (status.total, status.total)
            complete += 1
        writes = pair.device.disk.counters().writes
        wait_until(lambda: pair.device.disk.counters().writes > writes, "fio to write")  # noqa: B023
    assert pair.status().counters["recopied"]
    load.finish()


def test_counts(rig: Rig) -> None:
    """Numbers that only grow do; regions that were copied count once in `copied` and, when they are
    copied again, in both."""
    pair = Pair(
        rig, rig.slow(2, 1), rig.null_blk(2), (0, 8), 4001, ("region_size", 32, "batch", 32)
    )
    seen = [pair.status()]
    assert (seen[0].state, seen[0].in_sync, seen[0].total) == ("idle", 0, 126)
    pair.device.start()
    wait_until(lambda: seen.append(pair.status()) or seen[-1].state == "complete", "complete")
    for earlier, later in pairwise(seen):
        assert earlier.in_sync <= later.in_sync
        assert earlier.counters["copied"] <= later.counters["copied"]
        # What was being copied then may have been in sync a moment after that.
        assert earlier.counters["copied"] <= (later.in_sync + earlier.copying) * 32
    assert {status.state for status in seen[1:-1]} == {"copying"}
    assert seen[-1].counters["copied"] == 4001
    assert seen[-1].counters["recopied"] == 0
    pair.write_regions("again", 0, 125)
    status = pair.device.wait_complete()
    assert status.counters["copied"] == 4001 + 32 + 1
    assert status.counters["recopied"] == 32 + 1
    pair.expect_copy()
    pair.check("copied")


def test_complete_again_by_itself(rig: Rig) -> None:
    """Each write after the copy is complete makes it incomplete until it is copied, without any
    message; a read does not."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("region_size", 8))
    pair.device.start_and_wait()
    for number in range(5):
        io.read(pair.device.disk)
        assert pair.status().state == "complete"
        data = stamped(f"w{number}", 700 * number, 13)
        pair.write(700 * number, data)
        pair.device.wait_complete()
        pair.expect_copy()
        pair.check(f"write {number}")


def test_flushed_before_complete(rig: Rig) -> None:
    """The last thing that the clone gets before `complete` is a flush: after each write to it."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2, cache_size=1))
    trace = rig.bio_trace(pair.clone.disk)
    pair.device.start()
    for number in range(3):
        pair.device.wait_complete()
        kinds = [bio.kind for bio in trace.bios(pair.clone.disk)]
        assert any(kind.startswith("W") for kind in kinds), kinds
        assert kinds[-1].startswith("F"), kinds
        trace.clear()
        pair.write_regions(f"w{number}", number)


def test_not_complete_before_the_flush_has_ended(rig: Rig) -> None:
    """While the flush is under way all regions are in sync, and the copy is not complete; a write
    meanwhile needs another flush."""
    # A flush goes to each line of the table below, a write to the first one.
    clone, gate = rig.null_blk(2, cache_size=1), rig.gate(rig.null_blk(1, cache_size=1))
    spare = linear_table(gate.disk, 0, 8, start=clone.sectors)
    below = rig.mapped(f"{linear_table(clone)}\n{spare}").disk
    pair = Pair(rig, rig.null_blk(2), clone, device=False)
    pair.below = (pair.backing.disk, below)
    device = segments(rig, [pair])
    trace = rig.bio_trace(below)
    shut = rig.shut(gate)
    device.start()
    shut.wait_for(1)
    status = device.clone_status()
    assert (status.state, status.in_sync) == ("copying", status.total)
    pair.write_regions("w", 3)
    # Nothing is left for the clone to do but that.
    wait_until(lambda: not clone.counters().in_flight, "the clone to have flushed")
    assert_quiet(clone)
    assert device.clone_status().state == "copying"
    shut.open()
    device.wait_complete()
    # The first flush, after it a pass, and the second one.
    assert [bio.kind[0] for bio in trace.bios(below)][-3:] == ["F", "W", "F"]
    assert len([bio for bio in trace.bios(below) if bio.kind[0] == "F"]) == 2
    pair.expect_copy()
    pair.check("complete")


def test_a_mirror_waits_for_earlier_writes(rig: Rig) -> None:
    """What was sent in `track` will make its region dirty when it ends: in `mirror`, where a
    complete copy stays so, it is waited for."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), gated=True)
    pair.device.start_and_wait()
    shut = rig.shut(pair.backing_gate)
    write = rig.background(pair.write, 64, stamped("late", 64, 8))
    shut.wait_for(1)
    assert pair.status().state == "complete"
    pair.device.set_mode("mirror")
    for _ in range(10):
        assert pair.status().state == "copying"
        time.sleep(0.05)
    shut.open()
    write.result()
    wait_until(lambda: pair.status().counters["recopied"] == pair.region_size, "it to be copied")
    pair.device.wait_complete()
    pair.expect_copy()
    pair.check("after the late write")
    assert_quiet(pair.clone.disk)


def test_events(rig: Rig) -> None:
    """Who waits for an event is woken when the copy is complete, each time that it becomes so."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2))
    device = pair.device
    event = device.info().event
    for number in range(3):
        waiting = rig.background(call, Command.DEV_WAIT, device.name, event=event)
        if number:
            pair.write_regions(f"w{number}", number)
        else:
            device.start()
        reply = waiting.result()
        assert reply.event == event + 1
        assert device.clone_status().state == "complete"
        event = reply.event
        pair.expect_copy()
        pair.check(f"event {number}")


def test_dmsetup_wait(rig: Rig) -> None:
    """The same with dmsetup."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2))
    waiting = subprocess.Popen(["dmsetup", "wait", pair.device.name, str(pair.device.info().event)])
    rig.at_end(waiting.kill)
    pair.device.start()
    assert waiting.wait(30) == 0
    assert pair.status().state == "complete"


def test_an_event_of_a_finished_suspend(rig: Rig) -> None:
    """A suspend that finishes the copy raises one as well."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("rate", 1))
    pair.device.start()
    event = pair.device.info().event
    pair.finish("a suspend")
    assert pair.device.info().event == event + 1
