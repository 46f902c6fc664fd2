# SPDX-License-Identifier: GPL-2.0
"""A reload with the same devices, offsets and region size goes on with what is known: the region
map, the counters, the errors and whether copying is started. Any other table begins anew, with all
regions dirty, and says so in the log."""

import time
from collections.abc import Callable

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, Status, clone_table, linear_table
from harness.data import stamped
from harness.disk import Disk
from harness.faulty import SAID
from harness.fio import STEADY
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair, segments, segments_table

REGION = 128
FEATURES = ("region_size", REGION, "rate", 1)
DIRTY = (3, 4, 20, 40)
SKIPPED = 8


def in_use(rig: Rig, features: tuple = FEATURES, **how: object) -> Pair:
    """A pair that was copied; after that some regions were written and some skipped, and nothing is
    copied for a minute."""
    pair = Pair(rig, rig.null_blk(4), rig.null_blk(4), features=features, **how)
    device = pair.device
    device.tune("rate", 0)
    device.start_and_wait()
    pair.expect_copy()
    pair.write_regions("before", 1)
    device.wait_complete()
    pair.expect_copy()
    device.tune("rate", 1)
    pair.write_regions("before", 0)
    device.wait_complete()
    pair.expect_copy()
    device.skip(50 * REGION, SKIPPED * REGION)
    pair.write_regions("more", *DIRTY)
    return pair


def known(status: Status) -> tuple:
    """What has to survive."""
    regions = status.in_sync, status.total, status.skipped, status.copying
    return status.state, status.health, regions, status.counters


@pytest.mark.parametrize("noflush", [False, True])
@pytest.mark.parametrize("paused", [False, True])
def test_same_table(rig: Rig, kernel_log: Guard, noflush: bool, paused: bool) -> None:
    """All is kept, also with other features; what is dirty is copied after that, and no more."""
    pair = in_use(rig)
    device = pair.device
    if paused:
        device.pause()
    before = device.clone_status()
    assert (before.dirty, before.skipped) == (len(DIRTY), SKIPPED)
    assert before.state == ("paused" if paused else "copying")
    assert before.counters["recopied"] == 2 * REGION
    device.load(pair.table)
    device.suspend(noflush)
    device.resume(noflush)
    status = device.clone_status()
    # A new bound begins with a region.
    if not paused:
        copied = before.counters["copied"]
        status = device.wait_for(
            lambda now: now.counters["copied"] > copied and not now.copying, "waiting for the rate"
        )
        assert (status.counters["copied"] - copied, status.dirty) == (REGION, len(DIRTY) - 1)
    else:
        assert known(status) == known(before)
        assert_quiet(pair.clone.disk)
    assert kernel_log.text().count("the state of the table before is kept") == 1
    device.reload(pair.line(features=("mode", "track", "region_size", REGION, "depth", 2)))
    assert device.clone_status().tunables["depth"] == 2
    device.start()
    status = device.wait_complete()
    assert (status.skipped, status.in_sync) == (SKIPPED, status.total - SKIPPED)
    assert status.counters["copied"] - before.counters["copied"] == len(DIRTY) * REGION
    pair.expect_copy()
    pair.check("after reloads")


def test_complete(rig: Rig) -> None:
    """A complete copy is complete after the reload, with nothing copied."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2))
    before = pair.device.start_and_wait()
    writes = pair.clone.disk.counters()
    pair.device.reload(pair.table)
    assert known(pair.status()) == known(before)
    assert_quiet(pair.clone.disk)
    assert pair.clone.disk.counters() == writes
    pair.write_regions("after", 5)
    pair.device.wait_complete()
    pair.expect_copy()
    pair.check("a write after the reload")


@pytest.mark.parametrize("before", ["idle", "paused", "copying"])
def test_autostart(rig: Rig, before: str) -> None:
    """The feature starts what nobody has started or paused yet."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("rate", 1))
    if before != "idle":
        pair.device.start()
    if before == "paused":
        pair.device.pause()
    pair.device.reload(pair.line(features=(*pair.features, "autostart")))
    assert pair.status().state == ("paused" if before == "paused" else "copying")
    again = rig.clone_of(pair.line(features=("mode", "track", "autostart")))
    again.wait_complete()
    pair.expect_copy()
    pair.check("autostart")


@pytest.mark.parametrize("length", [8191, 8064, 8000, 4096, 200, 1])
def test_shorter(rig: Rig, length: int) -> None:
    """Of a shorter table the common part is kept; what is beyond is left alone."""
    pair = in_use(rig)
    counters = pair.status().counters
    pair.device.pause()
    pair.device.reload(pair.line(length=length))
    status = pair.status()
    regions = -(-length // REGION)
    dirty = len([region for region in DIRTY if region < regions])
    skipped = len([region for region in range(50, 58) if region < regions])
    assert (status.total, status.dirty, status.skipped) == (regions, dirty, skipped)
    assert status.counters == counters
    pair.device.tune("rate", 0)
    pair.device.start_and_wait()
    for region in DIRTY:
        if region < regions:
            pair.expect_copy(region * REGION, min(REGION, length - region * REGION))
    pair.check("a shorter table")


@pytest.mark.parametrize("length", [8000, 7936, 129])
def test_longer(rig: Rig, length: int) -> None:
    """Of a longer table the common part is kept; what was added is dirty, as is a region of which a
    part was there before."""
    pair = Pair(
        rig, rig.null_blk(4), rig.null_blk(4), length=length, features=("region_size", REGION)
    )
    before = pair.device.start_and_wait()
    pair.expect_copy()
    pair.device.pause()
    pair.length = 8192
    pair.device.reload(pair.line())
    status = pair.status()
    assert (status.total, status.in_sync) == (64, length // REGION)
    assert status.state == "paused"
    assert status.counters == before.counters
    trace = rig.bio_trace(pair.clone.disk)
    pair.device.start_and_wait()
    written = [bio for bio in trace.bios(pair.clone.disk) if bio.count]
    assert min(bio.sector for bio in written) == length // REGION * REGION
    pair.expect_copy()
    pair.check("a longer table")


OTHERS: dict[str, Callable[[Pair], str]] = {
    "backing_offset": lambda pair: pair.line(backing_offset=8, length=4000),
    "clone_offset": lambda pair: pair.line(clone_offset=8, length=4000),
    "smaller_regions": lambda pair: pair.line(features=("mode", "track", "region_size", 64)),
    "larger_regions": lambda pair: pair.line(features=("mode", "track", "region_size", 256)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_table(rig: Rig, kernel_log: Guard, other: str) -> None:
    """With another offset or region size it begins anew, is idle, and says so."""
    pair = in_use(rig)
    pair.device.reload(OTHERS[other](pair))
    status = pair.status()
    assert (status.state, status.in_sync, status.skipped) == ("idle", 0, 0)
    assert set(status.counters.values()) == {0}
    assert "is kept" not in kernel_log.text()
    assert kernel_log.text().count(f"all {status.total} regions are dirty") >= 1
    pair.check("nothing was started")


def test_another_clone(rig: Rig, kernel_log: Guard) -> None:
    """With another clone device, too; the old one is left alone."""
    pair = in_use(rig)
    other = Pair(rig, rig.null_blk(4), rig.null_blk(4), device=False)
    other.backing = pair.backing
    other.below = (pair.backing.disk, other.clone.disk)
    pair.device.reload(other.line())
    other.become_part_of(pair.device, 0, 0)
    assert (other.status().state, other.status().in_sync) == ("idle", 0)
    assert "is kept" not in kernel_log.text()
    pair.device.start_and_wait()
    other.expect_copy()
    other.check("the new clone")
    pair.check("the old clone")


def test_by_way_of_linear(rig: Rig, kernel_log: Guard) -> None:
    """Detached and attached again it begins anew: nobody saw what was written meanwhile."""
    pair = in_use(rig)
    pair.device.reload(linear_table(pair.backing.disk))
    pair.write_regions("between", 30, 31)
    pair.device.reload(pair.table)
    status = pair.status()
    assert (status.state, status.in_sync, status.skipped) == ("idle", 0, 0)
    assert "is kept" not in kernel_log.text()
    pair.device.tune("rate", 0)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("attached again")


def test_a_table_that_was_never_live(rig: Rig) -> None:
    """A table that is loaded and cleared, or replaced before it is resumed, takes nothing away."""
    pair = in_use(rig)
    pair.device.pause()
    before = known(pair.status())
    pair.device.load(pair.table)
    pair.device.clear()
    pair.device.load(pair.line(clone_offset=8, length=4000))
    pair.device.reload(pair.table)
    assert known(pair.status()) == before


def test_segments(rig: Rig) -> None:
    """Each segment goes on with its own state; one that is new or has changed begins anew."""
    pairs = [
        Pair(
            rig,
            rig.null_blk(1),
            rig.null_blk(1),
            (number, 0),
            1024,
            ("region_size", 8),
            device=False,
        )
        for number in range(3)
    ]
    device = segments(rig, pairs)
    for pair in pairs:
        device.start(at=pair.start)
        device.wait_complete(line=pair.number)
        pair.expect_copy()
        device.pause(at=pair.start)
        pair.write_regions("before", *range(1 + pair.number))
    before = [known(pair.status()) for pair in pairs]
    assert [pair.status().dirty for pair in pairs] == [1, 2, 3]
    device.reload(segments_table(pairs))
    assert [known(pair.status()) for pair in pairs] == before
    pairs[1].features = ("mode", "track", "region_size", 16)
    device.reload(segments_table(pairs))
    pairs[1].become_part_of(device, pairs[1].start, 1)
    assert pairs[1].status().dirty == 64
    assert [known(pairs[number].status()) for number in (0, 2)] == [before[0], before[2]]
    for pair in pairs:
        device.start(at=pair.start)
        device.wait_complete(line=pair.number)
        pair.expect_copy()
        pair.check(f"segment {pair.number}")


def test_swapped_segments(rig: Rig) -> None:
    """Two segments that change places are others: where a target begins counts."""
    pairs = [
        Pair(rig, rig.null_blk(1), rig.null_blk(1), length=1024, device=False) for _ in range(2)
    ]
    device = segments(rig, pairs)
    for pair in pairs:
        device.start(at=pair.start)
        device.wait_complete(line=pair.number)
    device.reload(segments_table(pairs[::-1]))
    assert [device.clone_status(line).in_sync for line in (0, 1)] == [0, 0]


def test_under_load(rig: Rig, brief: bool) -> None:
    """Reloads in the middle of writes and of the copy, of both kinds: no write is missed."""
    pair = Pair(rig, rig.null_blk(4), rig.null_blk(4), (8, 0), features=("region_size", 8))
    load = rig.fio(pair.device.disk, **STEADY)
    load.wait_for_load()
    pair.device.start()
    for number in range(5 if brief else 20):
        pair.device.reload(pair.table, noflush=bool(number % 2))
        if number % 5 == 4:
            pair.finish(f"reload {number}")
            pair.device.resume()
    load.finish()
    pair.device.wait_complete()
    pair.check_equal("at rest")


def test_what_was_written_while_suspended_elsewhere(rig: Rig) -> None:
    """State that was taken over wrongly would be seen: a sector written behind the target's back
    is not on the clone."""
    pair = in_use(rig)
    io.write(pair.backing.disk, 3000, stamped("behind", 3000, 1))
    pair.device.reload(pair.table)
    with pytest.raises(AssertionError, match="sector 3000: "):
        pair.finish("a write behind the target's back")


LARGE = 8 << 26


def large_and_small(rig: Rig) -> tuple[Callable[..., str], Disk, Disk]:
    """What makes a table, of a target so large that its state takes a while to be taken over, and
    after it a small one with some features; and the small one's disks."""
    huge = [rig.mapped(f"0 {LARGE} zero").disk for _ in range(2)]
    first = clone_table(*huge, features=(*TRACK, "region_size", 8, "depth", 1, "batch", 8))
    disks = rig.null_blk(2), rig.null_blk(2)

    def table(*features: object) -> str:
        features = (*TRACK, "region_size", REGION, "batch", REGION, *features)
        return "\n".join((first, clone_table(*disks, start=LARGE, features=features)))

    return table, *disks


def timed_reload(device: CloneDevice, table: str) -> float:
    """Reload; how many seconds it takes until the new table has the old one's state."""
    device.load(table)
    device.suspend()
    began = time.monotonic()
    device.resume()
    return time.monotonic() - began


def act_in_reload(
    rig: Rig, device: CloneDevice, table: str, seconds: float, act: Callable[[], None]
) -> None:
    """Reload, and act when the new table is live for so long."""
    device.load(table)
    device.suspend()
    resume = rig.background(device.resume)
    time.sleep(seconds)
    act()
    resume.result()


# Parts of that time, others in other rounds; where something comes later nothing is tested.
MOMENTS = (0.3, 0.5, 0.7)


def test_start_between_the_tables(rig: Rig, kernel_log: Guard) -> None:
    """A `start` may come when the new table is live and has not yet taken over the state of the old
    one: what has failed before is tried again."""
    kernel_log.allow(OURS + "(copy: |clone device )")
    kernel_log.allow(SAID)
    table_of, backing, clone = large_and_small(rig)
    table = table_of("on_read_error", "skip")
    device = rig.clone_of(table)

    def start() -> None:
        device.start(at=LARGE)

    for part in MOMENTS:
        rig.badblocks(backing, 2 * REGION, 2 * REGION)
        rig.badblocks(clone, 0, 0)
        device.copy(0, 4 * REGION, at=LARGE)
        device.wait_for(lambda now: now.health == "detached" and not now.copying, "ended", line=1)
        rig.no_badblocks(backing, 2 * REGION, 2 * REGION)
        rig.no_badblocks(clone, 0, 0)
        takes = timed_reload(device, table)
        assert device.clone_status(1).health == "detached"
        act_in_reload(rig, device, table, takes * part, start)
        assert device.wait_complete(line=1).health == "ok"


def test_pause_between_the_tables(rig: Rig) -> None:
    """The same for a `pause`, of copying that goes on all the time."""
    table = large_and_small(rig)[0]("rate", 4)
    device = rig.clone_of(table)

    def pause() -> None:
        device.pause(at=LARGE)

    for part in MOMENTS:
        device.start(at=LARGE)
        act_in_reload(rig, device, table, timed_reload(device, table) * part, pause)
        assert device.clone_status(1).state == "paused"


def test_start_and_pause_between_the_tables(rig: Rig) -> None:
    """What was asked for of the old table is forgotten, also where a `start` came before the
    `pause`."""
    table = large_and_small(rig)[0]("rate", 4)
    device = rig.clone_of(table)

    def start_and_pause() -> None:
        device.start(at=LARGE)
        device.pause(at=LARGE)

    for part in MOMENTS:
        device.copy(REGION, 8 * REGION, at=LARGE)
        act_in_reload(rig, device, table, timed_reload(device, table) * part, start_and_pause)
        status = device.clone_status(1)
        assert (status.state, status.copying) == ("paused", 0)


def test_pause_before_autostart(rig: Rig) -> None:
    """What would start by itself does not, where a `pause` came before."""
    table_of, *_ = large_and_small(rig)
    device = rig.clone_of(table_of())

    def pause() -> None:
        device.pause(at=LARGE)

    for part in MOMENTS:
        takes = timed_reload(device, table_of())
        act_in_reload(rig, device, table_of("rate", 4, "autostart"), takes * part, pause)
        assert device.clone_status(1).state in ("idle", "paused")
