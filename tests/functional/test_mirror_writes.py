# SPDX-License-Identifier: GPL-2.0
"""Where each write goes in mode mirror: what is in sync reaches both devices, the rest the backing
device only, and overlapping writes reach both in one order.
"""

import os
import time
from collections.abc import Callable

import pytest

from harness import io
from harness.bio_trace import Bio, BioTrace
from harness.clone_rs import linear_table
from harness.data import SECTOR, assert_same, stamped
from harness.disk import Disk
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
LENGTH = 32 * REGION
EXACT = ("region_size", REGION, "depth", 1, "batch", REGION)
# At once; less than half of them may be in flight.
MANY = 2500


class Mirror(Pair):
    """A pair of null_blk disks in mode mirror, of which some regions are in sync, and a trace of
    what is written on both."""

    def __init__(
        self,
        rig: Rig,
        in_sync: tuple[int, int] | None = None,
        disks: tuple[Disk, Disk] | None = None,
    ):
        queue = {"discard": 1, "cache_size": 1}
        super().__init__(
            rig,
            *(disks or (rig.null_blk(1, **queue), rig.null_blk(1, **queue))),
            offsets=(8, 16),
            length=LENGTH - 64,
            features=EXACT,
            gated=True,
            mode="mirror",
        )
        if in_sync is None:
            self.device.start_and_wait()
        else:
            first, count = in_sync
            self.device.copy_and_wait(first * REGION, count * REGION)
        self.trace: BioTrace = rig.bio_trace(*self.below)

    def written(self) -> tuple[list[Bio], list[Bio]]:
        """What both have got since the last call, in sectors of the target, without reads."""
        found = []
        for disk, offset in zip(self.below, self.offsets, strict=True):
            found.append(
                [
                    bio._replace(sector=bio.sector - offset if bio.count else 0)
                    for bio in self.trace.bios(disk)
                    if not bio.kind.startswith("R")
                ]
            )
        self.trace.clear()
        return found[0], found[1]

    def check_mirrored(self, what: str) -> None:
        """Both devices hold what the backing device has to hold."""
        self.expect_copy()
        self.check(what)


def places(bios: list[Bio]) -> list[tuple[int, int]]:
    """Where they write."""
    return [(bio.sector, bio.count) for bio in bios]


def copy_in_vain(rig: Rig, pair: Mirror, region: int = 5) -> None:
    """Twice a write to a region ends while the region is copied; none is held."""
    held = pair.device.clone_status().counters["held"]
    for turn in range(2):
        pair.backing_gate.suspend()
        pair.device.copy(region * REGION, REGION)
        wait_until(lambda: pair.trace.bios(pair.below[0]), "the job's read")
        write = rig.background(pair.write, region * REGION, stamped(f"w{turn}", 0, 8))
        wait_until(lambda: len(pair.trace.bios(pair.below[0])) == 2, "the write")
        pair.backing_gate.resume()
        write.result()
        pair.device.wait_idle()
        assert pair.device.clone_status().counters["held"] == held
        pair.trace.clear()


def copy_below_a_write(rig: Rig, pair: Mirror, region: int) -> None:
    """A write to a region is on its way to the backing device from before the end of a copy of the
    region until after it."""
    copying = rig.shut(pair.clone_gate)
    pair.device.copy(region * REGION, REGION)
    copying.wait_for(1)
    writing = rig.shut(pair.backing_gate)
    write = rig.background(pair.write, region * REGION, stamped("below", 0, 8))
    writing.wait_for(1)
    copying.open()
    pair.device.wait_idle()
    writing.open()
    write.result()


def test_in_sync_reaches_both(rig: Rig) -> None:
    """A write to what is in sync is on both devices when it ends, and all stays in sync."""
    pair = Mirror(rig)
    for sector, count in ((0, 8), (100, 1), (REGION - 1, 2), (3 * REGION, 5 * REGION)):
        data = stamped("user", sector, count)
        pair.write(sector, data)
        backing, clone = pair.written()
        assert places(backing) == places(clone) == [(sector, count)]
        assert io.read(pair.clone.disk, 16 + sector, count) == data
    status = pair.device.clone_status()
    assert (status.state, status.in_sync) == ("complete", status.total)
    pair.expect_copy()
    pair.check("after the writes")


def test_behind_reaches_the_backing_device(rig: Rig) -> None:
    """A write to what is dirty goes to the backing device only, and is copied later."""
    pair = Mirror(rig, in_sync=(0, 4))
    pair.write(5 * REGION, stamped("user", 0, 16))
    assert [places(bios) for bios in pair.written()] == [[(5 * REGION, 16)], []]
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after the rest was copied")


def test_is_split_where_it_must(rig: Rig) -> None:
    """A write that spans what is in sync and what is not goes in two parts."""
    pair = Mirror(rig, in_sync=(2, 2))
    pair.write(REGION + 32, stamped("user", 0, 3 * REGION))
    backing, clone = pair.written()
    assert places(backing) == [(96, 32), (128, 128), (256, 32)]
    assert places(clone) == [(128, 128)]
    assert pair.device.clone_status().in_sync == 2
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after the rest was copied")


def test_what_may_not_be_split(rig: Rig) -> None:
    """Zeroes over all: one bio for the backing device, and one for each run that is in sync."""
    pair = Mirror(rig, (2, 2), (rig.loop(1), rig.loop(1)))
    pair.device.copy_and_wait(6 * REGION, REGION)
    pair.written()
    pair.write_zeroes(32, 8 * REGION)
    backing, clone = pair.written()
    assert places(backing) == [(32, 8 * REGION)]
    assert places(clone) == [(128, 128), (6 * REGION, REGION)]
    assert pair.device.clone_status().in_sync == 3
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after the rest was copied")


def test_what_may_not_be_split_and_a_copy(rig: Rig) -> None:
    """Zeroes over what is in sync and a region that a job has read already: it is copied again."""
    pair = Mirror(rig, (4, 2), (rig.loop(1), rig.loop(1)))
    pair.device.copy_and_wait(7 * REGION, REGION)
    shut = rig.shut(pair.clone_gate)
    pair.device.copy(6 * REGION, REGION)
    shut.wait_for(1)
    zeroes = rig.background(pair.write_zeroes, 6 * REGION, 2 * REGION)
    shut.wait_for(2)
    shut.open()
    zeroes.result()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after the rest was copied")


def test_jobs_keep_away_from_writes_on_their_way(rig: Rig) -> None:
    """While a write to both devices hangs on the clone, its region becomes dirty by zeroes that the
    clone can't be told of: no job reads it before that write has ended."""
    pair = Mirror(rig, disks=(rig.loop(1), rig.null_blk(1)))
    shut = rig.shut(pair.clone_gate)
    write = rig.background(pair.write, 0, stamped("user", 0, 8))
    shut.wait_for(1)
    pair.write_zeroes(32, 8)
    assert pair.device.clone_status().dirty == 1
    # It was tried in vain, and now a job waits until nothing is on its way there any more.
    pair.device.wait_for(lambda status: status.copying == 1, "to be claimed")
    time.sleep(0.1)
    assert not [bio for bio in pair.trace.bios(pair.below[0]) if bio.kind == "R"]
    shut.open()
    write.result()
    pair.device.wait_complete()
    assert [bio for bio in pair.trace.bios(pair.below[0]) if bio.kind == "R"]
    pair.expect_copy()
    pair.check("after the region was copied")


def test_overlapping_writes_keep_their_order(rig: Rig) -> None:
    """A write that overlaps one in flight is not sent to either device before that has ended on
    both; one beside it is."""
    pair = Mirror(rig)
    pair.clone_gate.suspend()
    first = rig.background(pair.write, 0, stamped("first", 0, 16))
    wait_until(lambda: len(pair.trace.bios(pair.below[1])) == 1, "the first write")
    second = rig.background(pair.write, 8, stamped("second", 0, 16))
    beside = rig.background(pair.write, 32, stamped("beside", 0, 16))
    wait_until(lambda: len(pair.trace.bios(pair.below[1])) == 2, "the write beside it")
    backing, clone = pair.written()
    assert places(backing) == places(clone) == [(0, 16), (32, 16)]
    assert first.running and second.running and beside.running
    pair.clone_gate.resume()
    for write in (first, second, beside):
        write.result()
    backing, clone = pair.written()
    assert places(backing) == places(clone) == [(8, 16)]
    pair.backing.expect(8 + 8, stamped("second", 0, 16))
    pair.expect_copy()
    pair.check("after both")
    assert pair.device.clone_status().counters["held"] == 0


def test_flush_and_fua(rig: Rig) -> None:
    """Of a complete copy both devices are flushed and forced to the medium; before that the clone
    is not."""
    pair = Mirror(rig, in_sync=(0, 4))
    with io.direct(pair.device.disk) as fd:
        io.pwrite(fd, 64 * 6, stamped("user", 0, 8))
        os.fsync(fd)
        backing, clone = pair.written()
        assert [bio.kind[0] for bio in backing if not bio.count] == ["F"]
        assert clone == []
    pair.device.start_and_wait()
    pair.written()
    with io.direct(pair.device.disk) as fd:
        io.pwrite(fd, 8, stamped("user", 1, 8), os.RWF_DSYNC)
        os.fsync(fd)
    backing, clone = pair.written()
    assert len([bio for bio in clone if bio.kind.startswith("F")]) >= 1
    for bios in (backing, clone):
        write = next(bio for bio in bios if bio.count)
        assert write.kind.rstrip("I") == "WFS", "a write that is forced to the medium"


def test_without_a_cache_above(rig: Rig) -> None:
    """Nobody flushes a backing device without a write cache: what goes to the clone is forced to
    its medium."""
    backing, clone = rig.null_blk(1), rig.null_blk(1, cache_size=1, fua=1)
    pair = Pair(rig, backing, clone, features=EXACT, mode="mirror")
    pair.device.start_and_wait()
    trace = rig.bio_trace(backing, clone)
    pair.write(0, stamped("user", 0, 8))
    assert [bio.kind for bio in trace.bios(backing)] == ["WS"]
    assert [bio.kind for bio in trace.bios(clone)] == ["WFS"]


def test_discards(rig: Rig) -> None:
    """A discard reaches both devices; what it covers whole is skipped, what it touches dirty."""
    pair = Mirror(rig)
    with io.direct(pair.device.disk) as fd:
        io.range_ioctl(fd, io.BLKDISCARD, 32, 3 * REGION)
    backing, clone = pair.written()
    assert places(backing) == [(32, 3 * REGION)]
    assert (32, 3 * REGION) in places(clone)
    status = pair.device.wait_complete()
    assert (status.skipped, status.in_sync) == (2, status.total - 2)
    # What is written there is on both, and the rest of the region is not needed.
    data = stamped("user", 0, 8)
    pair.write(REGION + 8, data)
    assert io.read(pair.clone.disk, 16 + REGION + 8, 8) == data
    assert pair.device.clone_status().skipped == 2


def test_discards_that_the_clone_does_not_take(rig: Rig) -> None:
    """What such a discard touches in part is copied, so that both are the same there."""
    pair = Mirror(rig, disks=(rig.null_blk(1, discard=1), rig.null_blk(1)))
    pair.expect_copy()
    with io.direct(pair.device.disk) as fd:
        io.range_ioctl(fd, io.BLKDISCARD, 32, 3 * REGION)
    pair.backing.expect(8 + 32, bytes(3 * REGION * SECTOR))
    status = pair.device.wait_complete()
    assert (status.skipped, status.in_sync) == (2, status.total - 2)
    for region in (0, 3):
        pair.expect_copy(region * REGION, REGION)
    pair.check("after the discard")


def test_sizes_and_offsets(rig: Rig) -> None:
    """Around pages and regions; the devices begin at sectors of their own."""
    pair = Mirror(rig)
    for sector in (0, 1, 63, 64, 65):
        for count in (1, 7, 8, 9, 63, 64, 65, 127, 128, 129):
            pair.write(sector, stamped(f"w{sector}n{count}", sector, count))
            pair.expect_copy()
            pair.check(f"after {count} sectors at {sector}")
    status = pair.device.clone_status()
    assert (status.state, status.in_sync) == ("complete", status.total)


def test_nobody_waits_for_a_copy(rig: Rig) -> None:
    """While jobs hang on a part of the clone, writes to their regions, to others that are dirty,
    and to such in sync all end; none is held."""
    queue = {"discard": 1, "cache_size": 1}
    backing, clone = rig.null_blk(1, **queue), rig.null_blk(1, **queue)
    gate = rig.gate(clone)
    in_sync = 8
    # Where they end on the clone.
    border = 16 + in_sync * REGION
    parts = linear_table(clone, length=border), linear_table(gate.disk, border, start=border)
    pair = Mirror(rig, (0, in_sync), (backing, rig.mapped("\n".join(parts)).disk))
    pair.device.tune("depth", 4)
    pair.written()
    shut = rig.shut(gate)

    def hung() -> list[Bio]:
        return [bio for bio in shut.held() if bio.count]

    pair.device.start()
    wait_until(lambda: len(hung()) == 4, "jobs to hang")
    regions = range((LENGTH - 64) // REGION)
    for region in regions:
        data = stamped("user", region, 8)
        rig.background(pair.write, region * REGION, data).result()
    status = pair.device.clone_status()
    assert (status.copying, status.counters["held"]) == (4, 0)
    assert len(hung()) == 4
    sent = [places(bios) for bios in pair.written()]
    assert set(sent[0]) >= {(region * REGION, 8) for region in regions}
    mirrored = {(sector, count) for sector, count in sent[1] if count == 8}
    assert mirrored == {(region * REGION, 8) for region in range(in_sync)}
    shut.open()
    pair.device.wait_complete()
    pair.expect_copy()
    pair.check("after all was copied")


def hold_once(pair: Mirror, hold: Callable[[int], bool]) -> None:
    """Try it with one region after the other. That a write comes and a copy ends in the second that
    one waits for the other is not for a test to say: a machine can be that slow."""
    for region in range(5, 9):
        if hold(region):
            return
        # After a hold in vain there is none for five seconds.
        time.sleep(6)
        pair.trace.clear()
    pytest.fail("no write was held as it should be")


def is_held(rig: Rig, pair: Mirror, region: int) -> bool:
    """Whether a write waits for the third copy of a region until that has ended."""
    copy_in_vain(rig, pair, region)
    held = pair.device.clone_status().counters["held"]
    in_sync = pair.device.clone_status().in_sync
    pair.backing_gate.suspend()
    pair.device.copy(region * REGION, REGION)
    wait_until(lambda: pair.trace.bios(pair.below[0]), "the job's read")
    write = rig.background(pair.write, region * REGION, stamped("held", 0, 8))
    wait_until(lambda: pair.device.clone_status().counters["held"] > held, "a write to be held")
    waits = len(pair.trace.bios(pair.below[0])) == 1
    pair.backing_gate.resume()
    write.result()
    pair.device.wait_idle()
    if not waits or pair.device.clone_status().in_sync == in_sync:
        return False
    backing, clone = pair.written()
    assert places(backing) == [(region * REGION, 8)]
    writes = [bio for bio in clone if bio.count]
    assert places(writes) == [(region * REGION, REGION), (region * REGION, 8)]
    return True


def test_writes_are_held_for_a_copy_in_the_end(rig: Rig) -> None:
    """A region that is written whenever it is copied: for its third copy a write waits, and is
    counted; after that the region is in sync, and the write reaches both devices."""
    pair = Mirror(rig, in_sync=(0, 4))
    hold_once(pair, lambda region: is_held(rig, pair, region))


def test_a_hold_is_bounded(rig: Rig) -> None:
    """A write that is held for a job that hangs goes on after a second; the job's regions are
    copied later."""
    pair = Mirror(rig, in_sync=(0, 4))

    def is_let_go(region: int) -> bool:
        copy_in_vain(rig, pair, region)
        pair.clone_gate.suspend()
        pair.device.copy(region * REGION, REGION)
        wait_until(lambda: pair.trace.bios(pair.below[1]), "the job's write to hang")
        write = rig.background(pair.write, region * REGION, stamped("late", 0, 8))
        # A second, and what a busy machine adds; the job hangs for as long as it is not let go.
        write.result(timeout=10)
        assert pair.clone_gate.suspended
        status = pair.device.clone_status()
        assert status.copying == 1
        pair.clone_gate.resume()
        pair.device.wait_idle()
        return status.counters["held"] == 1

    hold_once(pair, is_let_go)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after all was copied")


def test_a_copy_below_a_write_is_in_vain(rig: Rig) -> None:
    """Also a copy that ends while a write to its region is on its way, which will make that dirty
    again, counts as in vain: after two of them a write is held for the third."""
    pair = Mirror(rig, in_sync=(0, 4))

    def is_third_held(region: int) -> bool:
        for _ in range(2):
            copy_below_a_write(rig, pair, region)
            assert pair.device.clone_status().in_sync == 4
        copying = rig.shut(pair.clone_gate)
        pair.device.copy(region * REGION, REGION)
        copying.wait_for(1)
        # It goes on after a second.
        pair.write(region * REGION, stamped("held", 0, 8))
        held = pair.device.clone_status().counters["held"]
        copying.open()
        pair.device.wait_idle()
        return held == 1

    hold_once(pair, is_third_held)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after all was copied")


def impatient_write(pair: Mirror, sector: int, data: bytes) -> None:
    """A write that may not wait."""
    with io.direct(pair.device.disk) as fd:
        io.pwrite(fd, sector, data, os.RWF_NOWAIT)


def is_refused(rig: Rig, pair: Mirror, sector: int) -> bool:
    """Whether one is refused, and nothing else comes of it."""
    status = pair.device.clone_status()
    sent = [pair.trace.bios(disk) for disk in pair.below]
    write = rig.background(impatient_write, pair, sector, stamped("nowait", 0, 16))
    try:
        write.result()
    except BlockingIOError:
        assert pair.device.clone_status() == status
        assert [pair.trace.bios(disk) for disk in pair.below] == sent
        return True
    return False


def test_nowait_behind_another_write(rig: Rig) -> None:
    """A write that may not wait for one that it overlaps gets EAGAIN; else it is as any other."""
    pair = Mirror(rig)
    shut = rig.shut(pair.clone_gate)
    first = rig.background(pair.write, 0, stamped("first", 0, 16))
    shut.wait_for(1)
    assert is_refused(rig, pair, 8)
    shut.open()
    first.result()
    pair.check_mirrored("after the first one")
    pair.written()
    impatient_write(pair, 8, stamped("nowait", 0, 16))
    pair.backing.expect(8 + 8, stamped("nowait", 0, 16))
    assert [places(bios) for bios in pair.written()] == [[(8, 16)], [(8, 16)]]
    pair.check_mirrored("after the second one")


def test_nowait_in_a_hold(rig: Rig) -> None:
    """A write that may not wait for the third copy of its region gets EAGAIN, and is not counted
    as held."""
    pair = Mirror(rig, in_sync=(0, 4))
    for region in range(5, 9):
        copy_in_vain(rig, pair, region)
        held = pair.device.clone_status().counters["held"]
        pair.clone_gate.suspend()
        pair.device.copy(region * REGION, REGION)
        wait_until(lambda: pair.trace.bios(pair.below[1]), "the job's write to hang")
        refused = is_refused(rig, pair, region * REGION)
        # If this one is held the other one came in time for it: a hold ends after a second.
        pair.write(region * REGION, stamped("patient", 0, 8))
        holds = pair.device.clone_status().counters["held"] - held
        pair.clone_gate.resume()
        pair.device.wait_idle()
        if holds:
            assert refused
            pair.device.start_and_wait()
            pair.check_mirrored("after the write that waited")
            return
        if not refused:
            pair.backing.expect(8 + region * REGION + 8, stamped("nowait", 0, 16)[8 * SECTOR :])
        # After a hold in vain there is none for five seconds.
        time.sleep(6)
        pair.trace.clear()
    pytest.fail("no hold lasted for two writes")


def test_not_complete_before_a_write_has_ended(rig: Rig) -> None:
    """All regions count as in sync, but a write is still on its way to the backing device only, to
    one that was not when it was sent: the mirror is complete after that only."""
    pair = Mirror(rig)
    copying = rig.shut(pair.clone_gate)
    pair.device.copy(5 * REGION, REGION)
    copying.wait_for(1)
    writing = rig.shut(pair.backing_gate)
    write = rig.background(pair.write, 5 * REGION, stamped("late", 0, 8))
    writing.wait_for(1)
    copying.open()
    pair.device.wait_for(lambda status: status.in_sync == status.total, "in sync")
    seen = set()
    for _ in range(20):
        seen.add(pair.device.clone_status().state)
        time.sleep(0.05)
    assert "complete" not in seen
    assert write.running
    writing.open()
    write.result()
    status = pair.device.wait_complete()
    assert status.counters["recopied"] >= 2 * REGION
    pair.check_mirrored("after the write")


def wait_for_writes(disk: Disk, count: int) -> None:
    """Until it has got so many more."""
    before = disk.counters().writes
    wait_until(lambda: disk.counters().writes >= before + count, "writes")


def test_a_paused_mirror_is_left_alone(rig: Rig) -> None:
    """While nothing is copied, and not all is in sync, mirrored writes are flushed when there is
    much of it, not again and again; nor does the state say, in either mode, that this is to come.
    """
    below = rig.null_blk(1, cache_size=1)
    # A flush takes so long that there is more to be flushed after it.
    classes = " ".join(f"{below.path} 0 {milliseconds}" for milliseconds in (0, 0, 50))
    clone = rig.mapped(f"0 {below.sectors} delay {classes}").disk
    pair = Mirror(rig, (0, 8), (rig.null_blk(1, cache_size=1), clone))
    load = rig.fio(
        pair.device.disk,
        rw="randwrite",
        bs=4096,
        size=8 * REGION * SECTOR,
        rate_iops=200,
        time_based=1,
        runtime=300,
    )
    wait_for_writes(pair.below[1], 100)
    pair.device.pause()
    pair.written()
    wait_for_writes(pair.below[1], 200)
    load.stop()
    load.wait()
    assert [bio for bio in pair.written()[1] if not bio.count] == []
    pair.device.set_mode("track")
    assert pair.device.clone_status().state == "idle"
    backing, clone = pair.below
    assert_same(io.read(backing, 8, 8 * REGION), io.read(clone, 16, 8 * REGION), "in sync")


@pytest.mark.parametrize("features", [(), ("stable",)], ids=["no room", "no memory"])
def test_thousands_wait(rig: Rig, features: tuple) -> None:
    """Many more writes come at once than may be in flight to both devices, or are looked at while
    they wait: all get there."""
    disks = rig.null_blk(16), rig.null_blk(16)
    pair = Pair(rig, *disks, (8, 16), 30000, features, gated=True, mode="mirror")
    pair.device.start_and_wait()
    shut = rig.shut(pair.clone_gate)
    trace = rig.bio_trace(pair.device.disk, memory=4096)
    load = rig.fio(pair.device.disk, rw="write", bs=4096, iodepth=MANY, size=MANY * 4096)
    wait_until(lambda: len(trace.bios(pair.device.disk)) == MANY, "thousands of writes", 60)
    shut.open()
    load.wait()
    pair.device.suspend()
    pair.check_finished("after all of them")
    pair.device.resume()
