# SPDX-License-Identifier: GPL-2.0
"""A clone that fails is detached: the device works on as dm-linear would, and no bio goes to the
clone. `start` goes on with it where it answers again, and copies no more than what is dirty or was
not flushed.
"""

import errno
import os
from collections.abc import Callable

import pytest

from harness import io
from harness.bio_trace import BioTrace
from harness.clone_rs import ErrorList, Failure
from harness.data import stamped
from harness.dm import Device
from harness.dm_ioctl import DmError
from harness.faulty import Faulty, FaultyPair, allow_errors
from harness.fio import STEADY
from harness.image import Image
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

LENGTH = 4096
REGION = 64
EXACT = ("region_size", REGION, "depth", 1, "batch", REGION)


def flushes(trace: BioTrace, pair: Pair) -> int:
    """How many flushes the clone got."""
    return sum(bio.kind.startswith("F") for bio in trace.bios(pair.below[1]))


def detached(rig: Rig, log: Guard, **queue: object) -> FaultyPair:
    """A pair whose clone was detached at the first job, and is healed."""
    allow_errors(log)
    pair = FaultyPair(rig, Faulty, "clone", EXACT, discard=1, cache_size=1, **queue)
    pair.faulty.fail((0, LENGTH))
    pair.device.start()
    assert pair.device.wait_paused().health == "detached"
    pair.faulty.heal()
    return pair


def user_io(device: Device) -> list[object]:
    """One of each kind of I/O; what became of it."""
    data = stamped("user", 100, 300)
    calls: list[Callable[[int], object]] = [
        lambda fd: io.pwrite(fd, 100, data),
        lambda fd: io.pwrite(fd, 500, data, os.RWF_DSYNC),
        os.fsync,
        lambda fd: io.range_ioctl(fd, io.BLKDISCARD, 1024, 512),
        lambda fd: io.range_ioctl(fd, io.BLKZEROOUT, 2048, 100),
        lambda fd: io.pread(fd, 0, 2048),
        lambda fd: io.pread(fd, LENGTH - 1, 8),
    ]
    found: list[object] = []
    with io.direct(device.disk) as fd:
        for call in calls:
            try:
                found.append(call(fd))
            except OSError as error:
                found.append(error.errno)
    return found


def test_works_as_linear(rig: Rig, kernel_log: Guard) -> None:
    """I/O of each kind, messages, suspends and a reload: users get what dm-linear gives, and the
    clone, which would answer again, gets nothing."""
    pair = detached(rig, kernel_log)
    kernel_log.allow(OURS + "message refused")
    trace = rig.bio_trace(pair.bare["clone"], pair.faulty.disk)
    found = user_io(pair.device)
    for message in ("pause", "rate 100", "rate 0", "depth 4", "batch 128", "skip 0 64"):
        pair.device.message(message)
    for message, number in (("finish", errno.EINVAL), ("copy 0 64", errno.EBUSY)):
        with pytest.raises(DmError) as caught:
            pair.device.message(message)
        assert caught.value.errno == number
    for noflush in (False, True):
        pair.device.suspend(noflush)
        pair.device.resume()
        pair.device.reload(pair.table, noflush)
    assert pair.device.clone_status().health == "detached"
    load = rig.fio(pair.device.disk, size="2m", **STEADY)
    load.wait_for_load()
    assert_quiet(pair.bare["clone"])
    load.finish()
    assert trace.bios(pair.bare["clone"]) == trace.bios(pair.faulty.disk) == []
    pair.device.start_and_wait()
    assert trace.bios(pair.faulty.disk) != [], "nothing would have been seen"
    pair.check_equal("after start", pair.device.clone_status().skipped)
    twin = Image(rig.null_blk(2, discard=1, cache_size=1), "backing")
    assert found == user_io(rig.linear(twin.disk))


def test_what_was_flushed_is_not_copied_again(rig: Rig, kernel_log: Guard) -> None:
    """What a flush has secured stays in sync when the clone is detached later, but where users
    wrote; `start` copies the rest, once."""
    allow_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "clone", EXACT, cache_size=1)
    trace = rig.bio_trace(pair.faulty.disk)
    # Eight seconds for all.
    pair.device.tune("rate", 256)
    pair.device.start()
    pair.device.wait_for(lambda status: status.counters["copied"] >= LENGTH // 8, "on the way")
    pair.device.pause()
    before = pair.device.wait_paused()
    pair.device.tune("rate", 0)
    wait_until(lambda: flushes(trace, pair), "the flush of a pause")
    assert flushes(trace, pair) == 1
    wait_until(lambda: not pair.faulty.disk.counters().in_flight, "the end of the flush")
    pair.faulty.fail((0, LENGTH))
    pair.device.start()
    status = pair.device.wait_paused()
    assert (status.health, status.in_sync) == ("detached", before.in_sync)
    assert status.counters["copied"] == before.counters["copied"] == before.in_sync * REGION
    pair.write_regions("user", 0, 1, 2)
    assert pair.device.clone_status().in_sync == before.in_sync - 3
    pair.faulty.heal()
    status = pair.device.start_and_wait()
    assert status.counters["copied"] == LENGTH + 3 * REGION
    assert status.counters["recopied"] == 3 * REGION
    assert status.counters["clone_errors"] == REGION
    pair.expect_copy()
    pair.check("after the rest was copied")


def test_what_was_not_flushed_is_copied_again(rig: Rig, kernel_log: Guard) -> None:
    """Without a flush in between all that was written before the error is dirty again."""
    allow_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "clone", EXACT, cache_size=1)
    trace = rig.bio_trace(pair.faulty.disk)
    pair.faulty.fail((LENGTH // 2, REGION))
    # Flushed; the rest of the first half is not.
    pair.device.copy_and_wait(0, 8 * REGION)
    wait_until(lambda: flushes(trace, pair), "a flush")
    wait_until(lambda: not pair.faulty.disk.counters().in_flight, "the end of the flush")
    pair.device.start()
    # What was lost is marked a moment after the error was told.
    status = pair.device.wait_for(
        lambda status: status.health == "detached" and status.in_sync == 8, "detached"
    )
    assert status.counters["copied"] == LENGTH // 2
    assert flushes(trace, pair) == 1
    pair.faulty.heal()
    status = pair.device.start_and_wait()
    assert status.counters["copied"] == LENGTH + LENGTH // 2 - 8 * REGION
    assert status.counters["recopied"] == LENGTH // 2 - 8 * REGION
    pair.expect_copy()
    pair.check("after start")


def test_stop_does_not_detach(rig: Rig, kernel_log: Guard) -> None:
    """With on_clone_error stop what was written stays in sync, and is flushed."""
    allow_errors(kernel_log)
    features = (*EXACT, "on_clone_error", "stop")
    pair = FaultyPair(rig, Faulty, "clone", features, cache_size=1)
    trace = rig.bio_trace(pair.faulty.disk)
    pair.faulty.fail((LENGTH // 2, REGION))
    pair.device.start()
    status = pair.device.wait_paused()
    assert (status.health, status.in_sync) == ("errors", LENGTH // 2 // REGION)
    wait_until(lambda: flushes(trace, pair), "a flush")
    pair.faulty.heal()
    status = pair.device.start_and_wait()
    assert (status.counters["copied"], status.counters["recopied"]) == (LENGTH, 0)
    pair.expect_copy()
    pair.check("after start")


@pytest.mark.parametrize("bad", [(0, 8), (3, 1)], ids=["all", "one"])
def test_jobs_in_flight(rig: Rig, kernel_log: Guard, bad: tuple[int, int]) -> None:
    """Of eight jobs in flight all fail, or one: each that failed is counted, those that ended well
    count as written but not as in sync, and soon none begins."""
    allow_errors(kernel_log)
    features = ("region_size", REGION, "depth", 8, "batch", REGION)
    below = Faulty(rig, rig.null_blk(2))
    clone = rig.gate(below.disk)
    pair = Pair(rig, rig.null_blk(2), clone.disk, features=features)
    shut = rig.shut(clone)
    pair.device.start()
    shut.wait_for(8)
    first, count = bad
    below.fail((first * REGION, count * REGION))
    shut.open()
    pair.device.wait_paused()
    # The last of them have ended then.
    pair.device.suspend()
    pair.device.resume()
    status = pair.device.clone_status()
    assert status.counters["clone_errors"] == count * REGION
    # Until the one that fails has been dealt with, others end and new ones begin.
    copied = status.counters["copied"] // REGION
    assert 8 - count <= copied <= (0 if count == 8 else LENGTH // REGION - count)
    assert (status.state, status.health, status.in_sync) == ("paused", "detached", 0)
    assert_quiet(clone.disk)
    assert len(shut.held()) == copied + count
    listed = pair.device.errors()
    assert sum(failure.count for failure in listed.failures) == count * REGION
    assert {failure[:2] for failure in listed.failures} == {("clone", errno.EIO)}
    below.heal()
    status = pair.device.start_and_wait()
    assert status.counters["copied"] == LENGTH + copied * REGION
    pair.expect_copy()
    pair.check("after start")


def test_still_failing(rig: Rig, kernel_log: Guard) -> None:
    """`start` while the clone still fails: one more error and detached again, each time."""
    allow_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "clone", EXACT)
    pair.faulty.fail((0, LENGTH))
    for number in range(1, 5):
        pair.device.start()
        status = pair.device.wait_for(
            lambda status, number=number: status.counters["clone_errors"] == number * REGION,
            "failing again",
        )
        status = pair.device.wait_paused()
        assert (status.health, status.counters["copied"]) == ("detached", 0)
        assert len(pair.device.errors().failures) == 1
        pair.device.suspend()
        pair.device.resume()
    assert pair.device.errors().left_out == 0


def test_detached_through_a_reload(rig: Rig, kernel_log: Guard) -> None:
    """The table that takes over knows of it: nothing is written, the list is kept. Also a table
    with another policy."""
    pair = detached(rig, kernel_log)
    listed = ErrorList([Failure("clone", errno.EIO, 0, REGION)], 0)
    for features in (pair.features, (*pair.features, "on_clone_error", "stop")):
        pair.device.reload(pair.line(features=features))
        assert pair.device.clone_status().health == "detached"
        assert pair.device.errors() == listed
    assert_quiet(pair.bare["clone"])
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after start")
