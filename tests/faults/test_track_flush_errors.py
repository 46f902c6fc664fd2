# SPDX-License-Identifier: GPL-2.0
"""A flush of the clone that fails: what was written since the last one is dirty again, it is
listed, the copy is never `complete`, and no other flush is tried before the next `start`.

Writes succeed all the while: a clone that fails flushes is a mapped device with a line of its table
behind the range of the target, to which a flush goes as well.
"""

import errno

import pytest

from harness import io
from harness.bio_trace import BioTrace
from harness.clone_rs import TRACK, ErrorList, Failure, Status, linear_table
from harness.faulty import SAID, Faulty, FaultyPair
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.refusals import OURS
from harness.rig import Rig
from harness.wait import wait_until

REGION = 64
SPARE = 64
REGIONS = 4096 // REGION - 1
LENGTH = REGIONS * REGION
FEATURES = ("region_size", REGION, "depth", 2, "batch", REGION)
POLICIES = {"detach": "detached", "stop": "errors"}
FAILED = ErrorList([Failure("clone", errno.EIO, 0, 0)], 0)


class Flushed:
    """A pair whose clone fails flushes, and its flushes."""

    def __init__(self, rig: Rig, log: Guard, policy: str, *features: str):
        log.allow(OURS + "(copy: |clone device |flush of )")
        log.allow(SAID)
        self.rig = rig
        self.health = POLICIES[policy]
        features = (*FEATURES, *features, "on_clone_error", policy)
        self.pair = FaultyPair(rig, Faulty, "clone", features, spare=SPARE, cache_size=1)
        self.device = self.pair.device
        self.pair.faulty.fail_flushes()
        self.trace: BioTrace = rig.bio_trace(self.pair.faulty.disk)

    def flushes(self) -> int:
        """How many the clone got."""
        return sum(bio.kind.startswith("F") for bio in self.trace.bios(self.pair.faulty.disk))

    def failed(self, state: str = "paused") -> Status:
        """Wait until a flush has failed; check what is told."""
        self.device.wait_for(
            lambda status: status.health != "ok" and status.state != "copying", "told of the error"
        )
        assert_quiet(*self.pair.below)
        status = self.device.clone_status()
        assert (status.state, status.health, status.copying) == (state, self.health, 0)
        assert status.counters["clone_errors"] == 0
        assert self.device.errors() == FAILED
        return status

    def check_complete(self) -> Status:
        """With flushes that work `start` completes."""
        before = self.flushes()
        self.pair.faulty.heal()
        status = self.device.start_and_wait()
        assert self.flushes() == before + 1
        assert status.health == "ok"
        assert status.counters["copied"] == LENGTH + status.counters["recopied"]
        assert self.device.errors() == ErrorList([], 0)
        self.pair.expect_copy()
        self.pair.check("after a flush that worked")
        return status


@pytest.mark.parametrize("policy", POLICIES)
def test_at_the_end(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """All was written, and nothing is in sync; each `start` copies all and flushes once."""
    flushed = Flushed(rig, kernel_log, policy)
    device = flushed.device
    event = device.info().event
    for number in range(1, 4):
        device.start()
        device.wait_for(
            lambda status, number=number: status.counters["copied"] == number * LENGTH, "written"
        )
        status = flushed.failed()
        assert status.in_sync == 0
        assert status.counters["recopied"] == (number - 1) * LENGTH
        assert flushed.flushes() == number
        wait_until(lambda number=number: device.info().event == event + number, "an event")
    assert flushed.check_complete().counters["copied"] == 4 * LENGTH


@pytest.mark.parametrize("policy", POLICIES)
def test_after_a_range(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """A range that was asked for is dirty again; where the clone is not detached more can be
    copied, which is not flushed."""
    flushed = Flushed(rig, kernel_log, policy)
    flushed.device.copy(0, 8 * REGION)
    assert flushed.failed("idle").in_sync == 0
    if policy == "stop":
        assert flushed.device.copy_and_wait(8 * REGION, 8 * REGION).in_sync == 8
        assert_quiet(*flushed.pair.below)
        assert flushed.device.errors() == FAILED
    assert flushed.flushes() == 1
    assert flushed.check_complete().counters["recopied"] == 8 * REGION


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_at_a_pause(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """What was flushed before stays in sync, what was written after that does not. No message but
    `start` makes for another flush, nor do a user's write, a suspend and a reload."""
    flushed = Flushed(rig, kernel_log, policy)
    pair, device = flushed.pair, flushed.device
    pair.faulty.heal()
    device.copy_and_wait(0, 8 * REGION)
    wait_until(lambda: flushed.flushes() == 1, "a flush")
    wait_until(lambda: not pair.faulty.disk.counters().in_flight, "the end of the flush")
    pair.faulty.fail_flushes()
    device.tune("rate", 100)
    device.start()
    device.wait_for(lambda status: status.in_sync > 8, "going on")
    device.pause()
    assert flushed.failed().in_sync == 8
    device.pause()
    device.tune("rate", 0)
    pair.write_regions("user", 0)
    device.suspend()
    device.resume()
    device.reload(pair.table)
    assert_quiet(pair.faulty.disk)
    assert flushed.flushes() == 2
    status = device.clone_status()
    assert (status.state, status.health, status.in_sync) == ("paused", flushed.health, 7)
    flushed.check_complete()


@pytest.mark.parametrize("policy", POLICIES)
def test_in_a_suspend(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """A suspend that copies the rest ends without being complete, says so, and the device works
    on."""
    kernel_log.expect(OURS + "finish: the rest could not be copied")
    flushed = Flushed(rig, kernel_log, policy)
    pair, device = flushed.pair, flushed.device
    pair.faulty.heal()
    device.start_and_wait()
    # One region at once, the next in half a minute: so the rest is there for the suspend.
    device.tune("rate", 1)
    pair.write_regions("user", 0)
    device.wait_for(lambda status: status.counters["recopied"] == REGION, "copying again")
    device.wait_complete()
    pair.faulty.fail_flushes()
    pair.write_regions("user", 1, 2, 3)
    before = flushed.flushes()
    status = device.finish_and_suspend()
    assert flushed.flushes() == before + 1
    assert status == flushed.failed()
    assert status.in_sync == REGIONS - 3
    assert status.counters["copied"] == LENGTH + 4 * REGION
    device.resume()
    assert_quiet(*pair.below)
    device.tune("rate", 0)
    assert flushed.check_complete().counters["recopied"] == 7 * REGION


# Disks that store nothing.
LARGE = 1280 << 11
GIBIBYTE = 1 << 21
BATCH = 16384


@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
def test_each_gibibyte(rig: Rig, kernel_log: Guard, fails: bool) -> None:
    """While copying goes on there is a flush for each GiB; one that fails makes all of that dirty
    again, and ends the copying."""
    kernel_log.allow(OURS + "(clone device |flush of )")
    backing, store = (rig.null_blk(LARGE >> 11, memory_backed=0) for _ in range(2))
    cache = rig.null_blk(1, cache_size=1)
    last = "flakey {} 0 0 1 1 error_writes" if fails else "linear {} 0"
    clone = rig.mapped(f"{linear_table(store)}\n{LARGE} 8 {last.format(cache.path)}").disk
    device = rig.clone(backing, clone, features=(*TRACK, "depth", 2, "batch", BATCH))
    trace = rig.bio_trace(clone)
    device.start()
    device.wait_for(
        lambda status: status.state != "copying" and not status.copying, "at rest", timeout=60
    )
    assert_quiet(clone)
    status = device.clone_status()
    bios = trace.bios(clone)
    flushes = [number for number, bio in enumerate(bios) if bio.kind.startswith("F")]
    written = sum(bio.count for bio in bios[: flushes[0]])
    assert GIBIBYTE <= written <= GIBIBYTE + 4 * BATCH
    assert status.counters["copied"] == sum(bio.count for bio in bios)
    if fails:
        assert len(flushes) == 1
        assert (status.health, status.in_sync) == ("detached", 0)
        # Jobs go on until the failure is dealt with.
        assert written <= status.counters["copied"] <= LARGE
        assert device.errors() == FAILED
    else:
        assert len(flushes) == 2
        assert status.state == "complete"
        assert status.counters["copied"] == LARGE


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_found_there(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """What `delta` has found on the clone may have been in its cache only: when that can't be
    flushed it is dirty, as if it had been written. What is found there now may be what was lost,
    so it is written, until the copy is complete."""
    flushed = Flushed(rig, kernel_log, policy, "delta")
    flushed.pair.expect_copy()
    io.write(flushed.pair.below[1], 0, flushed.pair.clone.content(0, LENGTH))
    flushed.device.start()
    status = flushed.failed()
    assert (status.counters["copied"], status.counters["unchanged"]) == (0, LENGTH)
    assert status.dirty == REGIONS
    flushed.pair.faulty.heal()
    # Another table knows of it.
    flushed.device.reload(flushed.pair.table)
    status = flushed.device.start_and_wait()
    assert (status.counters["copied"], status.counters["unchanged"]) == (LENGTH, LENGTH)
    flushed.pair.check("after a flush that worked")
    flushed.device.copy(0, LENGTH)
    flushed.device.wait_for(
        lambda status: status.counters["unchanged"] == 2 * LENGTH, "comparing again"
    )
    flushed.device.wait_complete()
    assert flushed.device.clone_status().counters["copied"] == LENGTH
