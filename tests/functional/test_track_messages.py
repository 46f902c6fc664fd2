# SPDX-License-Identifier: GPL-2.0
"""What an administrator says to a running copy: start, pause, copy and skip, depth, batch and rate.
Each does what it says, at once, any number of times, and nothing that was not said."""

import time

import pytest

from harness.command import read_text, write_text
from harness.data import stamped
from harness.fio import STEADY
from harness.quiet import assert_quiet
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
SMALL = ("region_size", REGION, "batch", REGION)


def pair_of(rig: Rig, *features: object, size: int = 2, **how: object) -> Pair:
    """Two small disks."""
    return Pair(rig, rig.null_blk(size), rig.null_blk(size), features=(*SMALL, *features), **how)


# Start and pause.


def test_nothing_before_start(rig: Rig) -> None:
    """A table alone copies nothing, whatever is written."""
    pair = pair_of(rig)
    pair.write_regions("w", 1, 2)
    assert_quiet(pair.backing.disk, pair.clone.disk)
    assert (pair.status().state, pair.status().dirty) == ("idle", 64)
    pair.check("nothing was started")


def test_pause_and_go_on(rig: Rig) -> None:
    """After `pause` the jobs in flight end, and the clone gets nothing any more; after `start` the
    rest is copied, and only that."""
    pair = pair_of(rig, "depth", 4, gated=True)
    device = pair.device
    for number in range(1, 4):
        shut = rig.shut(pair.clone_gate)
        device.start()
        shut.wait_for(4)
        assert pair.status().state == "copying"
        device.pause()
        shut.open()
        before = device.wait_paused()
        pair.write(pair.length - 1, stamped("late", pair.length - 1, 1))
        assert_quiet(pair.clone.disk)
        assert pair.status() == before
        assert before.in_sync == number * 4
        assert before.counters["copied"] == before.in_sync * REGION
    device.start()
    assert device.wait_complete().counters["copied"] == pair.length
    pair.expect_copy()
    pair.check("after pauses")


def test_pause_lets_jobs_end(rig: Rig) -> None:
    """The jobs in flight are not thrown away: `copying` falls to 0 when the clone answers."""
    pair = pair_of(rig, "depth", 4, gated=True)
    shut = rig.shut(pair.clone_gate)
    pair.device.start()
    shut.wait_for(4)
    pair.device.pause()
    assert (pair.status().state, pair.status().copying) == ("paused", 4)
    shut.open()
    status = pair.device.wait_paused()
    assert (status.in_sync, status.counters["copied"]) == (4, 4 * REGION)
    pair.expect_copy(0, 4 * REGION)
    pair.check("four jobs")


def test_pause_flushes(rig: Rig) -> None:
    """What was copied before a `pause` is flushed then."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2, cache_size=1), features=(*SMALL, "rate", 64))
    trace = rig.bio_trace(pair.clone.disk)
    pair.device.start()
    pair.device.wait_for(lambda status: status.counters["copied"], "copying")
    pair.device.pause()
    pair.device.wait_paused()

    def last() -> str:
        return trace.bios(pair.clone.disk)[-1].kind

    wait_until(lambda: last().startswith("F"), "a flush of the clone")


def test_said_twice(rig: Rig) -> None:
    """`start` of what goes on and `pause` of what is paused change nothing; `pause` of what nobody
    has started leaves it idle."""
    pair = pair_of(rig, "rate", 320)
    device = pair.device
    device.pause()
    assert pair.status().state == "idle"
    for _ in range(3):
        device.start()
        assert pair.status().state == "copying"
    device.wait_for(lambda status: status.counters["copied"], "copying")
    for _ in range(3):
        device.pause()
        assert pair.status().state == "paused"
    device.tune("rate", 0)
    for _ in range(3):
        device.start()
        assert device.wait_complete().counters["copied"] == pair.length
    pair.expect_copy()
    pair.check("said twice")


@pytest.mark.parametrize("noflush", [False, True])
def test_while_suspended(rig: Rig, noflush: bool) -> None:
    """`start` begins at the resume, `pause` holds after it; `rate` is taken."""
    pair = pair_of(rig)
    device = pair.device
    device.suspend(noflush)
    device.start()
    device.tune("rate", 64)
    assert_quiet(pair.backing.disk, pair.clone.disk)
    assert (pair.status().state, pair.status().copying) == ("copying", 0)
    device.resume()
    device.wait_for(lambda status: status.counters["copied"], "copying")
    device.suspend(noflush)
    device.pause()
    before = pair.status()
    device.resume()
    assert_quiet(pair.clone.disk)
    assert pair.status() == before
    device.tune("rate", 0)
    device.start_and_wait()
    pair.expect_copy()
    pair.check("said while suspended")


# Copy and skip.


def regions_of(sector: int, count: int) -> range:
    """The regions that a range touches."""
    return range(sector // REGION, -(-(sector + count) // REGION))


@pytest.mark.parametrize("before", ["idle", "paused"])
@pytest.mark.parametrize(
    ("sector", "count"), [(0, 1), (63, 2), (64, 64), (100, 1000), (4000, 1), (0, 4001)]
)
def test_copy(rig: Rig, before: str, sector: int, count: int) -> None:
    """The regions that the range touches are copied, and no other; nothing is started by that."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), (3, 7), 4001, SMALL)
    if before == "paused":
        pair.device.suspend()
        pair.device.start()
        pair.device.pause()
        pair.device.resume()
    pair.device.copy(sector, count)
    regions = regions_of(sector, count)
    status = pair.device.wait_for(lambda status: status.in_sync >= len(regions), "copied")
    status = pair.device.wait_idle()
    assert status.in_sync == len(regions)
    assert status.state == ("complete" if status.in_sync == status.total else before)
    assert status.dirty == 63 - len(regions)
    end = min(len(regions) * REGION, pair.length - regions[0] * REGION)
    pair.expect_copy(regions[0] * REGION, end)
    pair.check("a range")


def test_copy_what_is_in_sync(rig: Rig) -> None:
    """It is copied again: who asks knows why."""
    pair = pair_of(rig)
    pair.device.start_and_wait()
    pair.clone.fill("spoilt")
    pair.device.copy(100, 200)
    status = pair.device.wait_complete()
    assert status.counters["recopied"] == 4 * REGION
    pair.expect_copy(64, 4 * REGION)
    pair.check("copied again")


def test_copy_comes_first(rig: Rig) -> None:
    """While the whole device is being copied a range that is asked for comes before the rest."""
    pair = pair_of(rig, "depth", 1, gated=True)
    trace = rig.bio_trace(pair.clone.disk)
    shut = rig.shut(pair.clone_gate)
    pair.device.start()
    shut.wait_for(1)
    for sector in (3500, 2000):
        pair.device.copy(sector, 10)
    shut.open()
    pair.device.wait_complete()
    sectors = [bio.sector for bio in trace.bios(pair.clone.disk) if bio.count]
    assert sectors[:4] == [0, 3456, 1984, 64]
    pair.expect_copy()
    pair.check("ranges first")


def test_skip(rig: Rig) -> None:
    """Regions that lie whole in the range are left alone, until somebody writes to them."""
    pair = pair_of(rig)
    device = pair.device
    device.skip(100, 1000)
    device.skip(4095, 1)
    device.skip(640, 64)
    assert pair.status().skipped == 15
    status = device.start_and_wait()
    assert (status.skipped, status.in_sync) == (15, 49)
    pair.expect_copy(0, 128)
    pair.expect_copy(1088)
    pair.check("a range was skipped")
    pair.write_regions("w", 2, 16)
    status = device.wait_complete()
    assert (status.skipped, status.in_sync) == (13, 51)
    for region in (2, 16):
        pair.expect_copy(region * REGION, REGION)
    pair.check("written to")
    device.copy(0, 4096)
    device.wait_complete()
    pair.expect_copy()
    pair.check("asked for")


def test_skip_the_rest(rig: Rig) -> None:
    """With nothing left but what is skipped the copy is complete; what was in sync is skipped as
    well."""
    pair = pair_of(rig, "rate", 1)
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync == 1, "one region in sync")
    pair.device.skip(0, 4096)
    status = pair.device.wait_complete()
    assert (status.in_sync, status.skipped) == (0, 64)


# Depth, batch and rate.


@pytest.mark.parametrize(("depth", "batch"), [(1, 64), (3, 256), (16, 128), (7, 64), (2, 1024)])
def test_depth_and_batch(rig: Rig, depth: int, batch: int) -> None:
    """So many jobs are in flight, of so many sectors each, from the message on: the clone does not
    answer, so they can be counted; also where they were changed before."""
    pair = pair_of(rig, gated=True)
    device = pair.device
    for name, value in (("depth", 5), ("batch", 8), ("depth", depth), ("batch", batch)):
        device.tune(name, value)
        assert pair.status().tunables[name] == value
    assert f"depth {depth}" in device.table_text() or depth == 8
    shut = rig.shut(pair.clone_gate)
    device.start()
    shut.wait_for(depth)
    assert_quiet(pair.backing.disk)
    assert len(shut.held()) == depth
    assert pair.status().copying == depth * batch // REGION
    trace = rig.bio_trace(pair.clone.disk)
    shut.open()
    device.wait_complete()
    assert max(bio.count for bio in trace.bios(pair.clone.disk)) == batch
    pair.expect_copy()
    pair.check("depth and batch")


def test_changes_while_copying(rig: Rig, brief: bool) -> None:
    """They may change at any moment, with jobs of the old kind in flight and fio above."""
    pair = pair_of(rig, size=4)
    load = rig.fio(pair.device.disk, **STEADY)
    load.wait_for_load()
    pair.device.start()
    for number in range(10 if brief else 40):
        pair.device.tune("depth", 1 + number * 7 % 30)
        pair.device.tune("batch", 8 << number % 9)
        pair.device.tune("rate", (0, 100000)[number % 2])
    pair.device.tune("rate", 0)
    load.finish()
    pair.device.wait_complete()
    pair.check_equal("after changes")


def free_memory() -> int:
    """MiB that nobody uses, with what each processor keeps for itself, after all that can be had
    back was given back."""
    write_text("/proc/sys/vm/drop_caches", 3)
    lines = dict(line.split(":") for line in read_text("/proc/meminfo").splitlines())
    words = read_text("/proc/zoneinfo").split()
    kept = sum(int(words[at + 1]) for at, word in enumerate(words) if word == "count:")
    return (int(lines["MemFree"].split()[0]) + 4 * kept) >> 10


def test_memory(rig: Rig) -> None:
    """The memory of depth times batch is taken by the message, and given back by the next one."""
    pair = pair_of(rig)
    seen = [free_memory()]
    # What earlier tests have freed comes back in the background.
    wait_until(lambda: seen.append(free_memory()) or seen[-1] - seen[-2] < 1, "memory to settle")

    def take(name: str, value: int, taken: range) -> None:
        pair.device.tune(name, value)
        wait_until(lambda: seen[-1] - free_memory() in taken, f"{taken} MiB taken")

    small, large = range(-8, 13), range(56, 81)
    take("batch", 2048, small)
    for depth, taken in ((64, large), (1, small), (64, large)):
        take("depth", depth, taken)
    take("batch", 8, small)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("with other memory")


def test_rate(rig: Rig) -> None:
    """A bound is kept to, and made use of: at first, after a change, and none is none."""
    pair = Pair(rig, rig.null_blk(16), rig.null_blk(16), features=("rate", 256))
    device = pair.device
    device.start()
    # A quarter of the second one is far above the first one.
    for rate in (256, 2048):
        if rate > 256:
            device.tune("rate", rate)
        began = time.monotonic()
        first = pair.status()
        enough = first.counters["copied"] + 3 * rate
        last = device.wait_for(lambda now, enough=enough: now.counters["copied"] > enough, "more")
        seconds = time.monotonic() - began
        copied = last.counters["copied"] - first.counters["copied"]
        # Jobs may begin a moment early, of which the last has a tenth of a second's sectors, and
        # those in flight at first have begun before.
        early = (0.05 + 0.1) * rate * 2 + pair.region_size + first.copying * pair.region_size
        assert copied <= rate * 2 * seconds + early, f"{copied} sectors in {seconds} s: {rate}"
        assert copied >= rate * 2 * seconds / 4, f"{copied} sectors in {seconds} s: {rate}"
    device.tune("rate", 1)
    before = device.wait_for(lambda status: not status.copying, "nearly stopped")
    assert before.dirty
    device.tune("rate", 0)
    device.wait_complete()
    pair.expect_copy()
    pair.check("with all bounds")
