# SPDX-License-Identifier: GPL-2.0
"""A failing disk is cloned to its last readable sector: with `on_read_error skip` a failed read is
narrowed down to the logical block, all that can be read is copied, the list of what can't is exact,
and only regions with bad blocks are dirty. `fill_bad` makes zeroes of them on the clone, `retry`
tries them again.
"""

import errno
import random
from collections.abc import Iterable

import pytest

from harness.bio_trace import Bio
from harness.clone_rs import ErrorList, Failure, Status, linear_table
from harness.command import write_text
from harness.data import SECTOR
from harness.disk import Disk
from harness.faulty import Dust, Faulty, FaultyPair, allow_read_errors, unreachable
from harness.kernel_log import Guard
from harness.patchwork import FEATURES, Patchwork
from harness.refusals import OURS, refuse_message
from harness.rig import Rig
from harness.track import Pair

LENGTH = 4096
SKIP = ("on_read_error", "skip")
# What scsi_debug does wrong: 2 are medium errors.
OPTS = "/sys/bus/pseudo/drivers/scsi_debug/opts"
SHAPES = {
    "small regions": ("region_size", 8, "batch", 512),
    "a run": ("region_size", 64, "batch", 2048),
    "pieces": ("region_size", 1024, "batch", 64),
    "one job": ("region_size", 64, "batch", 64, "depth", 1),
    "odd": ("region_size", 256, "batch", 24, "depth", 3),
}


def ranges(sectors: Iterable[int]) -> list[tuple[int, int]]:
    """(first, count) of adjacent sectors."""
    found: list[tuple[int, int]] = []
    for sector in sorted(set(sectors)):
        if found and sum(found[-1]) == sector:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((sector, 1))
    return found


def check_bad(pair: Pair, status: Status, bad: set[int], number: int = errno.EIO) -> None:
    """All but these sectors of the target is copied, they are listed, and only their regions are
    not in sync."""
    regions = {pair.region_of(sector) for sector in bad}
    assert (status.state, status.health) == ("paused", "errors")
    assert (status.in_sync, status.dirty) == (status.total - len(regions), len(regions))
    listed = [Failure("backing", number, first, count) for first, count in ranges(bad)]
    found = pair.device.errors()
    assert (sorted(found.failures), found.left_out) == (listed, 0)
    clone = pair.offsets[1]
    held = {sector: pair.clone.content(clone + sector, 1) for sector in bad}
    pair.expect_copy()
    for sector, content in held.items():
        pair.clone.expect(clone + sector, content)
    pair.clone.check("all that can be read")


def check_counters(status: Status, length: int, bad: int) -> None:
    """Each sector was dealt with once."""
    counters = status.counters
    assert counters["bad"] == counters["read_errors"] == bad
    assert sum(counters[name] for name in ("copied", "zeroed", "unchanged", "bad")) == length


def check_all_but(pair: Pair, dust: Dust, bad: set[int]) -> None:
    """All but these sectors of the target, which are bad on the backing device, is copied; and the
    rest when they are healed."""
    dust.fail(*((pair.offsets[0] + sector, 1) for sector in bad))
    pair.device.start()
    status = pair.device.wait_paused()
    check_bad(pair, status, bad)
    check_counters(status, pair.length, len(bad))
    dust.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("healed")


def scattered(seed: int, length: int = LENGTH) -> set[int]:
    """Single sectors and runs, at both ends, and side by side with and without a gap."""
    choose = random.Random(seed)
    bad = {0, length - 1, 1000, 1002}
    for _ in range(6):
        first = choose.randrange(length - 80)
        bad |= set(range(first, first + choose.choice((1, 2, 9, 70))))
    return bad


@pytest.mark.parametrize("mode", ["track", "mirror"])
@pytest.mark.parametrize("shape", SHAPES)
def test_scattered(rig: Rig, kernel_log: Guard, shape: str, mode: str) -> None:
    """Bad sectors of all sorts, with pipelines of all sorts, at offsets on both devices."""
    allow_read_errors(kernel_log)
    dust = Dust(rig, rig.null_blk(2))
    offsets = (5, 11)
    length = LENGTH - 64
    bad = scattered(len(shape), length)
    pair = Pair(
        rig,
        dust.disk,
        rig.null_blk(2),
        offsets,
        length,
        (*SHAPES[shape], *SKIP),
        mode=mode,
    )
    check_all_but(pair, dust, bad)


def bad_blocks(work: Patchwork) -> list[tuple[int, int, str]]:
    """One block of most of the regions of a patchwork: of a kind that its parts are of, too."""
    choose = random.Random(5)
    regions: dict[int, list] = {}
    for block in work.blocks:
        if not block[2].startswith("nearly"):
            regions.setdefault(work.pair.region_of(block[0]), []).append(block)
    return [choose.choice(blocks) for blocks in regions.values() if choose.random() < 0.7]


@pytest.mark.parametrize("mode", ["track", "mirror"])
@pytest.mark.parametrize("fills", [(), ("fill_bad",)], ids=["", "fill_bad"])
@pytest.mark.parametrize(
    "blocks",
    [
        (1, 1),
        (1, 8),
        pytest.param((8, 1), marks=pytest.mark.long),
        pytest.param((8, 8), marks=pytest.mark.long),
    ],
    ids=str,
)
@pytest.mark.parametrize("features", ["sparse", "delta", "both"])
def test_with_other_features(
    rig: Rig,
    kernel_log: Guard,
    features: str,
    blocks: tuple[int, int],
    fills: tuple[str, ...],
    mode: str,
) -> None:
    """Also where zeroes are not written, and what is equal is not: each sector is dealt with in the
    way that is expected of it, also what shares a block with a bad one."""
    allow_read_errors(kernel_log)
    backing, clone = (block * SECTOR for block in blocks)
    dust = Dust(rig, rig.null_blk(1, blocksize=backing))
    shape = ("region_size", 64, "batch", 64, *SKIP, *fills, *FEATURES[features])
    disks = dust.disk, rig.loop(1, block=clone)
    pair = Pair(rig, *disks, features=shape, mode=mode, device=False)
    work = Patchwork(pair)
    pair.become_part_of(rig.clone_of(pair.line()), 0, 0)
    # The first logical block of each.
    found = bad_blocks(work)
    bad = {at + i for at, _, _ in found for i in range(blocks[0])}
    dust.fail(*((at, 1) for at, _, _ in found))
    wanted = work.expected(features) | {"bad": len(bad)}
    for _, count, kind in found:
        becomes = work.becomes(kind, features)
        wanted[becomes] -= count
        # A part of a block of the clone can't be zeroed.
        part = becomes == "zeroed" and blocks[1] > blocks[0]
        wanted["copied" if part else becomes] += count - blocks[0]
    assert len({kind for _, _, kind in found}) == 5
    if fills:
        for sector in bad:
            pair.clone.expect(sector, bytes(SECTOR))
    pair.device.start()
    status = pair.device.wait_paused()
    assert {name: status.counters[name] for name in wanted} == wanted
    check_counters(status, pair.length, len(bad))
    check_bad(pair, status, bad)
    dust.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("healed")


@pytest.mark.parametrize("block", [1, 8])
def test_medium_errors(rig: Rig, kernel_log: Guard, block: int) -> None:
    """A SCSI disk with bad blocks of 512 and of 4096 bytes: a block is bad as a whole."""
    allow_read_errors(kernel_log)
    backing: Disk = rig.scsi_debug(
        4,
        sector_size=block * SECTOR,
        medium_error_start=101,
        medium_error_count=3,
        per_host_store=1,
    )
    pair = Pair(rig, backing, rig.null_blk(4), features=(*SHAPES["a run"], *SKIP))
    write_text(OPTS, 2)
    pair.device.start()
    status = pair.device.wait_paused()
    write_text(OPTS, 0)
    bad = set(range(101 * block, 104 * block))
    check_bad(pair, status, bad, errno.ENODATA)
    check_counters(status, pair.length, len(bad))
    pair.device.retry()
    pair.device.wait_complete()
    pair.expect_copy()
    pair.check("the disk has recovered")


def test_unreachable(rig: Rig, kernel_log: Guard) -> None:
    """A disk that can't be reached is not asked for each of its blocks."""
    allow_read_errors(kernel_log)
    shape = ("region_size", 64, "batch", 1024, "depth", 2)
    pair = Pair(rig, rig.scsi_debug(2), rig.null_blk(2), features=(*shape, *SKIP))
    trace = rig.bio_trace(pair.below[0])
    with unreachable(pair.below[0]):
        pair.device.start()
        status = pair.device.wait_paused()
    assert (status.in_sync, status.counters["bad"]) == (0, 0)
    assert len(trace.bios(pair.below[0])) == pair.length // 1024
    assert pair.device.errors().failures == [Failure("backing", errno.ENOLINK, 0, pair.length)]
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("it can be reached again")


@pytest.mark.parametrize("fills", [(), ("fill_bad",)], ids=["", "fill_bad"])
def test_few_reads(rig: Rig, kernel_log: Guard, fills: tuple[str, ...]) -> None:
    """A failed read of a bad sector may take a disk many seconds: it is tried no more often than
    the piece can be halved, and sectors that follow on a bad one are each tried once."""
    allow_read_errors(kernel_log)
    dust = Dust(rig, rig.null_blk(2))
    shape = ("region_size", 64, "batch", 1024, "depth", 1)
    pair = Pair(rig, dust.disk, rig.null_blk(2), features=(*shape, *SKIP, *fills))
    bad = {1024 + 300, *range(3072, 3072 + 100)}
    dust.fail(*((sector, 1) for sector in bad))
    if fills:
        for sector in bad:
            pair.clone.expect(sector, bytes(SECTOR))
    trace = rig.bio_trace(dust.disk)
    pair.device.start()
    status = pair.device.wait_paused()
    check_bad(pair, status, bad)

    bios = trace.bios(dust.disk)

    def tries(sector: int) -> list[Bio]:
        return [bio for bio in bios if bio.sector <= sector < bio.sector + bio.count]

    # The first sector of a piece is in each of its first halves.
    assert [bio.count for bio in tries(3072)] == [1 << power for power in range(10, -1, -1)]
    for sector in bad:
        counts = [bio.count for bio in tries(sector)]
        assert counts == sorted(set(counts), reverse=True), f"twice as much at sector {sector}"
        assert counts[-1] == 1
    # More is read at once again after what is bad.
    assert len(bios) < len(bad) + 60
    # Within the first 128 sectors of the piece.
    assert len(tries(3072 + 99)) == 5


def test_zeroes_for_what_is_bad(rig: Rig, kernel_log: Guard) -> None:
    """`fill_bad`: the clone has zeroes there, and what can be read; nobody is told that they are in
    sync."""
    allow_read_errors(kernel_log)
    bad = scattered(5)
    pair = FaultyPair(rig, Dust, "backing", (*SHAPES["a run"], *SKIP, "fill_bad"))
    pair.faulty.fail(*((sector, 1) for sector in bad))
    pair.device.start()
    status = pair.device.wait_paused()
    for sector in bad:
        pair.clone.expect(sector, bytes(SECTOR))
    check_bad(pair, status, bad)
    check_counters(status, LENGTH, len(bad))


def test_zeroes_that_cannot_be_written(rig: Rig, kernel_log: Guard) -> None:
    """The clone fails where zeroes are written for what is bad: that is a clone error as any."""
    allow_read_errors(kernel_log)
    kernel_log.allow(OURS + "clone device ")
    disks = [Faulty(rig, rig.null_blk(2)) for _ in range(2)]
    features = (*SHAPES["one job"], *SKIP, "fill_bad")
    pair = Pair(rig, *(disk.disk for disk in disks), features=features)
    for disk in disks:
        disk.fail((100, 1))
    pair.device.start()
    status = pair.device.wait_paused()
    assert status.health == "detached"
    listed = [Failure("backing", errno.EIO, 100, 1), Failure("clone", errno.EIO, 100, 1)]
    assert pair.device.errors() == ErrorList(listed, 0)
    assert (status.counters["bad"], status.counters["clone_errors"]) == (1, 1)
    for disk in disks:
        disk.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("healed")


def test_retry(rig: Rig, kernel_log: Guard) -> None:
    """`retry` tries what is bad again and goes on where copying has paused for it; errors of the
    clone stay in the list. What is still bad is listed again."""
    allow_read_errors(kernel_log)
    disks = [Dust(rig, rig.null_blk(2)), Faulty(rig, rig.null_blk(2))]
    features = (*SHAPES["one job"], *SKIP, "on_clone_error", "stop")
    pair = Pair(rig, *(disk.disk for disk in disks), features=features)
    disks[0].fail((70, 1), (200, 1))
    disks[1].fail((300, 1))
    pair.device.start()
    pair.device.wait_for(lambda status: status.counters["clone_errors"], "a clone error")
    pair.device.wait_paused()
    disks[1].heal()
    disks[0].fail((200, 1))
    pair.device.retry()
    status = pair.device.wait_for(lambda status: status.in_sync == 63, "copied")
    status = pair.device.wait_paused()
    of_clone = Failure("clone", errno.EIO, 256, 64)
    listed = [of_clone, Failure("backing", errno.EIO, 200, 1)]
    assert pair.device.errors() == ErrorList(listed, 0)
    disks[0].heal()
    pair.device.retry()
    status = pair.device.wait_complete()
    assert status.health == "errors"
    assert pair.device.errors() == ErrorList([of_clone], 0)
    pair.expect_copy()
    pair.check("healed")


def test_retry_refused(rig: Rig, kernel_log: Guard) -> None:
    """Before `start`, while the device is suspended, and while the clone is detached."""
    allow_read_errors(kernel_log)
    kernel_log.allow(OURS + "(clone device |message refused)")
    pair = FaultyPair(rig, Faulty, "clone", (*SHAPES["one job"], *SKIP))
    refuse_message(pair.device, "retry", "nothing was started")
    pair.faulty.fail((0, 1))
    pair.device.start()
    pair.device.wait_for(lambda status: status.health == "detached", "detached")
    refuse_message(pair.device, "retry", "the clone is detached", number=errno.EBUSY)
    pair.device.suspend()
    refuse_message(pair.device, "retry", "the device is suspended", number=errno.EBUSY)
    pair.device.resume()


class HangingRead:
    """A pair with bad sectors, whose read of 64 sectors of the backing device hangs."""

    def __init__(self, rig: Rig, first: int, *bad: int):
        dust = Dust(rig, rig.null_blk(2))
        gate = rig.gate(dust.disk)
        end = first + 64
        lines = [linear_table(gate.disk, first, 64, start=first)]
        lines.append(linear_table(dust.disk, end, start=end))
        if first:
            lines.insert(0, linear_table(dust.disk, length=first))
        self.below = rig.mapped("\n".join(lines)).disk
        features = ("region_size", 1024, "batch", 64, "depth", 1, *SKIP)
        self.pair = Pair(rig, self.below, rig.null_blk(2), features=features)
        dust.fail(*((sector, 1) for sector in bad))
        self.faulty = dust
        self.shut = rig.shut(gate)
        self.trace = rig.bio_trace(self.below)
        self.pair.device.start()
        self.shut.wait_for_some()
        self.reads = self.count()

    def count(self) -> int:
        """How many reads there were."""
        return len(self.trace.bios(self.below))


@pytest.mark.parametrize("hangs", [0, 640], ids=["at a bad sector", "after one"])
@pytest.mark.parametrize("how", ["suspend", "pause"])
def test_interrupted(rig: Rig, kernel_log: Guard, hangs: int, how: str) -> None:
    """A suspend or a pause comes while a read hangs that will fail: the job reads nothing more, its
    regions wait, and the outcome is the same after a resume, or a start."""
    allow_read_errors(kernel_log)
    bad = {10, 11, 640, 2000}
    hanging = HangingRead(rig, hangs, *bad)
    pair = hanging.pair
    if how == "suspend":
        child = rig.suspend_in_child(pair.device)
        child.wait_until_waiting_for_jobs()
        hanging.shut.open()
        assert child.errno() == 0
    else:
        pair.device.pause()
        hanging.shut.open()
        pair.device.wait_for(lambda status: not status.copying, "the end of the job")
    assert hanging.count() == hanging.reads
    assert pair.device.clone_status().in_sync == 0
    if how == "suspend":
        pair.device.resume()
    else:
        pair.device.start()
    status = pair.device.wait_paused()
    check_bad(pair, status, bad)
    # What was found before that is found again.
    assert status.counters["bad"] == len(bad) + (2 if hangs else 0)


@pytest.mark.parametrize("message", ["start", "retry"])
def test_tried_again_meanwhile(rig: Rig, kernel_log: Guard, message: str) -> None:
    """A job has found something bad and is still in that region when all is to be tried again: then
    that is, though it was forgotten before it was put aside."""
    allow_read_errors(kernel_log)
    hanging = HangingRead(rig, 640, 10, 11)
    pair = hanging.pair
    assert len(pair.device.errors().failures) == 1
    hanging.faulty.heal()
    pair.device.message(message)
    assert pair.device.errors() == ErrorList([], 0)
    hanging.shut.open()
    status = pair.device.wait_complete()
    assert status.counters["bad"] == 2
    pair.expect_copy()
    pair.check("healed")


@pytest.mark.parametrize("fills", [(), ("fill_bad",)], ids=["", "fill_bad"])
@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_larger_blocks_of_the_clone(
    rig: Rig, kernel_log: Guard, shape: str, block: int, fills: tuple[str, ...]
) -> None:
    """All but the bad blocks of the backing device is copied, also what shares a block of the clone
    with them, at an offset that is none of its blocks."""
    allow_read_errors(kernel_log)
    dust = Dust(rig, rig.null_blk(2, blocksize=block * SECTOR))
    offsets, length = (16, 13), LENGTH - 64
    features = (*SHAPES[shape], *SKIP, *fills)
    pair = Pair(rig, dust.disk, rig.null_blk(2, blocksize=4096), offsets, length, features)
    bad = scattered(len(shape), length)
    dust.fail(*((offsets[0] + sector, 1) for sector in {at // block * block for at in bad}))
    bad = {other for sector in bad for other in range(length) if other // block == sector // block}
    if fills:
        for sector in bad:
            pair.clone.expect(offsets[1] + sector, bytes(SECTOR))
    pair.device.start()
    status = pair.device.wait_paused()
    check_bad(pair, status, bad)
    check_counters(status, pair.length, len(bad))
    dust.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("healed")


def test_more_than_fit(rig: Rig, kernel_log: Guard) -> None:
    """What did not fit into the list is forgotten by `retry`, too."""
    allow_read_errors(kernel_log)
    pair = FaultyPair(rig, Dust, "backing", (*SHAPES["a run"], *SKIP))
    pair.faulty.fail(*((sector, 1) for sector in range(0, LENGTH, 40)))
    pair.device.start()
    pair.device.wait_paused()
    found = pair.device.errors()
    assert (len(found.failures), found.left_out) == (64, -(-LENGTH // 40) - 64)
    pair.faulty.heal()
    pair.device.retry()
    pair.device.wait_complete()
    assert pair.device.errors() == ErrorList([], 0)


def test_retry_after_a_failed_flush(rig: Rig, kernel_log: Guard) -> None:
    """The clone could not be flushed: `retry` has it flushed once more."""
    allow_read_errors(kernel_log)
    kernel_log.allow(OURS + "flush of ")
    features = (*SHAPES["a run"], *SKIP, "on_clone_error", "stop")
    pair = FaultyPair(rig, Faulty, "clone", features, spare=64, cache_size=1)
    pair.faulty.fail_flushes()
    pair.device.start()
    pair.device.wait_for(lambda status: status.health == "errors", "the flush that fails")
    pair.device.wait_paused()
    pair.faulty.heal()
    pair.device.retry()
    status = pair.device.wait_complete()
    assert pair.device.errors() == ErrorList([Failure("clone", errno.EIO, 0, 0)], 0)
    assert status.health == "errors"
    pair.expect_copy()
    pair.check("flushed")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_many_patterns(rig: Rig, kernel_log: Guard, seed: int) -> None:
    """Random sets of bad sectors with random pipelines."""
    allow_read_errors(kernel_log)
    choose = random.Random(seed)
    bad = scattered(seed + 100)
    shape = choose.choice(list(SHAPES.values()))
    pair = FaultyPair(rig, Dust, "backing", (*shape, *SKIP))
    pair.faulty.fail(*((sector, 1) for sector in bad))
    pair.device.start()
    status = pair.device.wait_paused()
    check_bad(pair, status, bad)
    check_counters(status, LENGTH, len(bad))
