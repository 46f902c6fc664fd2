# SPDX-License-Identifier: GPL-2.0
"""A clone whose logical blocks are not those of the copy: what is less than a block is put into
what the clone has there, by jobs and by mirrored writes, and nothing beside it changes.
"""

import os

import pytest

from harness import io
from harness.bio_trace import Bio, BioTrace
from harness.data import SECTOR, stamped
from harness.disk import Disk
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
LENGTH = 32 * REGION
EXACT = ("region_size", REGION, "depth", 1, "batch", REGION)
# Of the target within a block of the clone; and two sectors less than whole blocks are left at its
# end.
LEADS = [0, 1, 5, 7]
UNMAPS = {"sector_size": 4096, "lbpu": 1, "lbpws": 1, "lbprz": 1}


def parted(rig: Rig, lead: int, features: tuple = EXACT, block: int = 1) -> Pair:
    """A complete mirror on a clone with blocks of 8 sectors, and a backing device with such of
    `block`."""
    disks = (
        rig.null_blk(2, blocksize=block * SECTOR, cache_size=1, fua=1),
        rig.null_blk(2, blocksize=4096, cache_size=1),
    )
    offsets = (3 // block * block, 16 + lead)
    length = (LENGTH - lead - 2) // block * block
    pair = Pair(rig, *disks, offsets, length, features, gated=True, mode="mirror")
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("copied")
    return pair


def sent(trace: BioTrace, disk: Disk) -> list[tuple[str, int, int]]:
    """What a clone has got: R or W, sector, count."""
    return [(kind(bio), bio.sector, bio.count) for bio in trace.bios(disk)]


def kind(bio: Bio) -> str:
    """What it does."""
    return next(letter for letter in bio.kind if letter in "RWD")


@pytest.mark.parametrize("mode", ["track", "mirror"])
@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("lead", LEADS)
def test_what_jobs_send(rig: Rig, lead: int, block: int, mode: str) -> None:
    """Only the first and the last block of the target are read before they are written; all else is
    sent in whole blocks, each once. The backing device is read in blocks of its own."""
    backing = rig.null_blk(2, blocksize=block * SECTOR)
    length = (LENGTH - lead - 2) // block * block
    pair = Pair(
        rig,
        backing,
        rig.null_blk(2, blocksize=4096),
        (8, 16 + lead),
        length,
        EXACT,
        mode=mode,
    )
    trace = rig.bio_trace(*pair.below)
    pair.device.start_and_wait()
    found = sent(trace, pair.below[1])
    end = 16 + lead + length
    edges = [16] * (lead > 0) + [end // 8 * 8] * (end % 8 > 0)
    assert sorted(at for what, at, _ in found if what == "R") == edges
    assert all(count == 8 for what, _, count in found if what == "R")
    written = [at for what, first, n in found if what == "W" for at in range(first, first + n)]
    assert sorted(written) == list(range(16, -(-end // 8) * 8))
    # In each batch, but where the first and the last block are pieces of their own.
    assert len(found) <= length // REGION + 2 + 2 * len(edges)
    for _, first, count in sent(trace, pair.below[0]):
        assert first % block == count % block == 0
        assert count <= REGION + 2 * block
    pair.expect_copy()
    pair.check("copied")


@pytest.mark.parametrize("features", [(), ("stable",)], ids=["", "stable"])
@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("lead", LEADS)
def test_each_write_reaches_both(
    rig: Rig, lead: int, block: int, features: tuple[str, ...]
) -> None:
    """Writes of all lengths at all places within blocks: both devices have them when they end, and
    all stays in sync."""
    pair = parted(rig, lead, (*EXACT, *features), block)
    places = [(at, count) for at in range(10) for count in (1, 2, 7, 8, 9, 16, 17)]
    places += [(at + 5 * REGION - 9, count) for at in range(10) for count in (1, 3, 8, 20, 300)]
    places += [(pair.length - count, count) for count in (1, 2, 3, 6, 7, 11, 20)]
    for sector, count in places:
        if sector % block or count % block:
            continue
        pair.write(sector, stamped(f"w{sector}-{count}", sector, count))
        status = pair.device.clone_status()
        assert (status.state, status.in_sync) == ("complete", status.total), (sector, count)
    pair.expect_copy()
    pair.check("after the writes")


def test_what_a_write_sends(rig: Rig) -> None:
    """A part of a block is read and written as the whole block; whole blocks are written as they
    are; a write that has both goes in parts."""
    pair = parted(rig, 5)
    trace = rig.bio_trace(*pair.below)
    for place, wanted in {
        (0, 1): [("R", 16, 8), ("W", 16, 8)],
        (4, 3): [("R", 24, 8), ("W", 24, 8)],
        (11, 16): [("W", 32, 16)],
        (10, 18): [
            *[("R", 24, 8), ("W", 24, 8)],
            *[("W", 32, 16)],
            *[("R", 48, 8), ("W", 48, 8)],
        ],
        # Only what is merged needs memory of ours: the rest may be as long as it likes.
        (3, 603): [("W", 24, 600), ("R", 624, 8), ("W", 624, 8)],
    }.items():
        trace.clear()
        pair.write(place[0], stamped("user", *place))
        assert sorted(sent(trace, pair.below[1])) == sorted(wanted)
    pair.expect_copy()
    pair.check("after the writes")


@pytest.mark.parametrize("fua", [False, True])
def test_flags_go_along(rig: Rig, fua: bool) -> None:
    """A FUA write is on the clone's medium when it ends; what is read for it is only read."""
    pair = parted(rig, 5)
    trace = rig.bio_trace(pair.below[1])
    with io.direct(pair.device.disk) as fd:
        data = stamped("user", 20, 1)
        io.pwrite(fd, 20, data, os.RWF_DSYNC if fua else 0)
    pair.backing.expect(3 + 20, data)
    found = [bio.kind for bio in trace.bios(pair.below[1]) if bio.count]
    assert found == ["R", "WFS" if fua else "WS"]
    pair.expect_copy()
    pair.check("after the write")


def test_neighbours_wait(rig: Rig) -> None:
    """While a write is merged into a block, another one to the same block waits, and one to the
    next block goes: neither loses what the other one wrote."""
    pair = parted(rig, 5)
    shut = rig.shut(pair.clone_gate)
    writes = [rig.background(pair.write, 12, stamped("first", 12, 2))]
    shut.wait_for(1)
    writes.append(rig.background(pair.write, 15, stamped("second", 15, 3)))
    assert_quiet(pair.clone.disk)
    shut.wait_for(1)
    # It does not overtake the one that waits.
    writes.append(rig.background(pair.write, 18, stamped("third", 18, 1)))
    assert_quiet(pair.clone.disk)
    shut.wait_for(1)
    writes.append(rig.background(pair.write, 19, stamped("next", 19, 4)))
    shut.wait_for(2)
    shut.open()
    for write in writes:
        write.result()
    status = pair.device.clone_status()
    assert (status.state, status.in_sync) == ("complete", status.total)
    pair.expect_copy()
    pair.check("after the writes")


def test_more_than_there_is_memory_for(rig: Rig) -> None:
    """With the memory of 64 merges in use others wait for it."""
    pair = parted(rig, 5)
    shut = rig.shut(pair.clone_gate)
    writes = [
        rig.background(pair.write, 3 + 8 * number, stamped("user", number, 1))
        for number in range(70)
    ]
    wait_until(lambda: len(shut.held()) == 64, "64 merges")
    assert_quiet(pair.clone.disk)
    shut.wait_for(64)
    shut.open()
    for write in writes:
        write.result()
    assert pair.device.clone_status().state == "complete"
    pair.expect_copy()
    pair.check("after the writes")


@pytest.mark.parametrize("features", [(), ("stable",)], ids=["", "stable"])
def test_what_may_not_be_split(rig: Rig, features: tuple[str, ...]) -> None:
    """An atomic write over several blocks is merged as a whole; where one of its regions is dirty,
    that one is copied later."""
    backing = rig.scsi_debug(4, atomic_wr=1)
    clone = rig.null_blk(4, blocksize=4096)
    pair = Pair(rig, backing, clone, (0, 5), 4096, (*EXACT, *features), mode="mirror")
    pair.device.start_and_wait()
    trace = rig.bio_trace(*pair.below)

    def write(sector: int, count: int) -> None:
        data = stamped("atomic", sector, count)
        with io.direct(pair.device.disk) as fd:
            io.pwrite(fd, sector, data, io.RWF_ATOMIC)
        pair.backing.expect(sector, data)

    write(32, 32)
    assert sorted(sent(trace, pair.below[1])) == [("R", 32, 8), ("R", 64, 8), ("W", 32, 40)]
    assert [bio.count for bio in trace.bios(pair.below[0])] == [32]
    status = pair.device.clone_status()
    assert (status.state, status.in_sync) == ("complete", status.total)
    pair.expect_copy()
    pair.check("merged")
    pair.device.pause()
    pair.device.set_mode("track")
    pair.write(2 * REGION, stamped("dirty", 0, 1))
    pair.device.set_mode("mirror")
    trace.clear()
    # It ends in that region.
    write(96, 32)
    assert sent(trace, pair.below[1]) == [("R", 96, 8), ("W", 96, 32)]
    assert pair.device.clone_status().dirty == 1
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("copied")


def test_where_only_a_part_is_in_sync(rig: Rig) -> None:
    """Where no region begins at a block of the backing device, a write that spans what is in sync
    and what is not is sent in whole blocks of that, and nothing is lost."""
    pair = parted(rig, 5, block=8)
    pair.device.pause()
    pair.device.set_mode("track")
    pair.write(3 * REGION, stamped("dirty", 0, 8))
    pair.device.set_mode("mirror")
    before = pair.device.clone_status()
    assert before.dirty == 1
    trace = rig.bio_trace(*pair.below)
    data = stamped("user", REGION, 4 * REGION)
    pair.write(REGION, data)
    assert all(bio.sector % 8 == bio.count % 8 == 0 for bio in trace.bios(pair.below[0]))
    assert pair.device.clone_status().dirty == 1
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("copied")


PARTS = [(0, 2), (0, 30), (REGION + 1, 9), (200, 201), (1945, 100)]


def test_discards_of_parts(rig: Rig) -> None:
    """Discards reach whole blocks of the clone only: what lies beside them stays, also outside the
    target."""
    backing, clone = rig.null_blk(2, discard=1), rig.scsi_debug(4, **UNMAPS)
    pair = Pair(rig, backing, clone, (0, 5), LENGTH - 3, EXACT, mode="mirror")
    pair.device.start_and_wait()
    trace = rig.bio_trace(pair.below[1])
    for sector, count in PARTS:
        with io.direct(pair.device.disk) as fd:
            io.range_ioctl(fd, io.BLKDISCARD, sector, count)
        pair.backing.expect(sector, bytes(count * SECTOR))
    discarded = [bio[1:] for bio in trace.bios(pair.below[1]) if "D" in bio.kind]
    assert discarded == [(8, 24), (208, 192), (1952, 96)]
    pair.device.copy(0, pair.length)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("copied again")


def test_zeroes_of_parts(rig: Rig) -> None:
    """Zeroes for whole blocks go to the clone as such, others are copied later."""
    pair = Pair(rig, rig.loop(2), rig.loop(2, block=4096), (0, 5), LENGTH - 3, EXACT, mode="mirror")
    pair.device.start_and_wait()
    pair.device.pause()
    trace = rig.bio_trace(pair.below[1])
    pair.write_zeroes(3 + 8 * 20, 64)
    assert [bio[1:] for bio in trace.bios(pair.below[1])] == [(168, 64)]
    assert pair.device.clone_status().dirty == 0
    trace.clear()
    for place in PARTS:
        pair.write_zeroes(*place)
    status = pair.device.clone_status()
    assert (status.health, [bio for bio in trace.bios(pair.below[1]) if bio.count]) == ("ok", [])
    regions = {pair.region_of(at) for first, count in PARTS for at in range(first, first + count)}
    assert status.dirty == len(regions)
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("copied")


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("lead", LEADS)
def test_overlapping_writers(rig: Rig, lead: int, block: int) -> None:
    """Many writers of single blocks to the same few ones, while regions are copied again and again:
    in the end both devices are the same."""
    pair = parted(rig, lead, ("region_size", 8, "depth", 4, "batch", 16), block)
    load = rig.fio(
        pair.device.disk,
        **{"rw": "randwrite", "bsrange": f"{block * SECTOR}-4096", "iodepth": 32, "numjobs": 3},
        **{"offset": 64 * SECTOR, "size": 32 * SECTOR, "norandommap": 1},
        **{"time_based": 1, "runtime": 300},
    )
    load.wait_for_load()
    for _ in range(6):
        pair.device.copy(60, 40)
        pair.device.wait_for(lambda status: status.in_sync == status.total, "in sync again")
    load.stop()
    load.wait()
    pair.device.wait_complete()
    pair.check_equal("after the load")


def test_verify_knows_of_parts(rig: Rig, kernel_log: Guard) -> None:
    """`verify` finds each sector that differs, and none beside the target."""
    kernel_log.allow(OURS + "verify: ")
    pair = parted(rig, 5)
    pair.device.pause()
    planted = {0, 2, 3, 777, pair.length - 1}
    for sector in {-1, *planted, pair.length}:
        at = pair.offsets[1] + sector
        io.write(pair.clone.disk, at, stamped("other", at, 1))
        pair.clone.expect(at, stamped("other", at, 1))
    status = pair.device.verify_and_wait()
    assert status.counters["mismatched"] == len(planted)
    assert status.counters["verified"] == pair.length
    assert status.dirty == len({pair.region_of(sector) for sector in planted})
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("healed")


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 3])
def test_another_length(rig: Rig, length: int) -> None:
    """A reload to a target that ends elsewhere keeps the state, but for the region that was short;
    the new end is in the same block of the clone, or not."""
    pair = parted(rig, 5, ("region_size", 8))
    assert (pair.lead + pair.length) % 8
    device = pair.device
    device.pause()
    device.reload(pair.line(length=length))
    before = device.clone_status()
    more = -(-(5 + length) // 8) - (5 + pair.length) // 8
    assert before.dirty == more
    device.start_and_wait()
    pair.length = length
    pair.expect_copy()
    pair.check("the rest, too")
