# SPDX-License-Identifier: GPL-2.0
"""`copy` makes the regions that a range touches equal to the backing device, byte for byte, and
nothing else.

Each case compares the whole clone: the regions have the source's sectors, each at its place, and
all around them the clone is as it was. They count as in sync then, and no others.
"""

import errno
from itertools import pairwise

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, Status, clone_table, whole_regions
from harness.data import stamped
from harness.disk_factories import SLOW
from harness.dm_ioctl import DmError
from harness.fio import STEADY
from harness.image import Image
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.rig import Rig
from harness.wait import wait_until

REGION = 128
BATCH = 256
FEATURES = (*TRACK, "region_size", REGION, "batch", BATCH)


class Pair:
    """A backing device and a clone with different contents, and the target above both."""

    def __init__(self, backing: Image, clone: Image, device: CloneDevice, offsets: tuple):
        self.backing = backing
        self.clone = clone
        self.device = device
        self.backing_offset, self.clone_offset = offsets
        self.length = device.disk.sectors
        self.region_size = device.clone_status().region_size
        self._in_sync: set[int] = set()

    def rounded(self, sector: int, count: int) -> tuple[int, int]:
        """The range rounded out to regions."""
        return whole_regions(sector, count, self.region_size, self.length)

    def expect(self, sector: int, count: int) -> None:
        """The regions that this range touches have to be equal on the clone."""
        sector, count = self.rounded(sector, count)
        self.clone.expect_copy(
            self.clone_offset + sector, self.backing, self.backing_offset + sector, count
        )

    def check_copy(self, sector: int, count: int) -> None:
        """Copy one range onto a clone with fresh content and compare everything."""
        self.clone.fill("clone")
        before = self.device.clone_status()
        after = self.device.copy_and_wait(sector, count)
        self.expect(sector, count)
        self.clone.check(f"copy {sector} {count}")
        self._check_status(sector, count, before, after)

    def _check_status(self, sector: int, count: int, before: Status, after: Status) -> None:
        first, size = self.rounded(sector, count)
        copied = set(range(first, first + size, self.region_size))
        again = [self.rounded(region, 1)[1] for region in copied & self._in_sync]
        self._in_sync |= copied
        what = f"copy {sector} {count}"
        assert after.counters["copied"] - before.counters["copied"] == size, what
        assert after.counters["recopied"] - before.counters["recopied"] == sum(again), what
        assert after.in_sync == len(self._in_sync), what
        assert after.health == "ok"
        assert after.state == ("idle" if after.dirty else "complete")


def pair(
    rig: Rig,
    offsets: tuple[int, int] = (0, 0),
    size: int = 2,
    features: tuple = FEATURES,
    backing: dict | None = None,
    clone: dict | None = None,
    length: int | None = None,
) -> Pair:
    """null_blk disks with stamps, and a target over both."""
    source = Image(rig.null_blk(size=size, **(backing or {})), "backing")
    target = Image(rig.null_blk(size=size, **(clone or {})), "clone")
    if length is None:
        length = (size << 11) - max(offsets)
    device = rig.clone(source.disk, target.disk, *offsets, length, features=features)
    return Pair(source, target, device, offsets)


def ranges(length: int, brief: bool) -> list[tuple[int, int]]:
    """(sector, count) of one sector, and around pages, regions and batches, in brief a quarter of
    them; the last is all."""
    sizes = {1}
    for size in (8, REGION, BATCH, 2 * BATCH):
        sizes |= {size - 1, size, size + 1}
    found = {(start, size) for size in sizes for start in (0, REGION - 1, length - size)}
    found |= {(start, 3 * REGION) for start in (7, 8, REGION, BATCH + 1)}
    fitting = {(start, size) for start, size in found if start >= 0 and 0 < size <= length - start}
    return [*sorted(fitting)[:: 4 if brief else 1], (0, length)]


@pytest.mark.parametrize("offsets", [(0, 0), (8, 8), (1, 0), (0, 1), (1000, 13)], ids=str)
def test_ranges(rig: Rig, offsets: tuple[int, int], brief: bool) -> None:
    """Ranges at all borders, for several offsets on both devices."""
    copied = pair(rig, offsets)
    for sector, count in ranges(copied.device.disk.sectors, brief):
        copied.check_copy(sector, count)
    copied.backing.check("the backing device is only read")


@pytest.mark.parametrize(
    ("backing", "clone"),
    [(4096, 4096), (4096, 512), (512, 4096)],
    ids=["4k-4k", "4k-512", "512-4k"],
)
@pytest.mark.parametrize("offsets", [(0, 0), (8, 1000)], ids=str)
def test_ranges_of_large_blocks(
    rig: Rig, backing: int, clone: int, offsets: tuple[int, int], brief: bool
) -> None:
    """The same ranges where one or both devices have blocks of 4096 bytes: regions are whole blocks
    of both."""
    copied = pair(rig, offsets, backing={"blocksize": backing}, clone={"blocksize": clone})
    for sector, count in ranges(copied.device.disk.sectors, brief):
        copied.check_copy(sector, count)
    copied.backing.check("the backing device is only read")


@pytest.mark.parametrize("depth", [1, 2, 16])
@pytest.mark.parametrize("batch", [8, 2048])
def test_pipeline(rig: Rig, depth: int, batch: int) -> None:
    """One job at a time and many, small ones and large ones: the result is the same."""
    copied = pair(rig, (8, 16), size=8, features=(*TRACK, "depth", depth, "batch", batch))
    copied.check_copy(0, copied.device.disk.sectors)
    copied.check_copy(77, 9999)


@pytest.mark.parametrize(
    "below",
    [
        {"irqmode": 0},
        {"irqmode": 2},
        {"irqmode": 2, "completion_nsec": 1000000},
        {"cache_size": 1},
        {"max_sectors": 16},
        {"virt_boundary": 1},
        {"poll_queues": 2},
    ],
    ids=str,
)
def test_devices_of_all_sorts(rig: Rig, below: dict) -> None:
    """Completions in the submitter's context, in softirq and in hard interrupt context; small
    requests; queues with demands on memory: on both sides."""
    copied = pair(rig, (0, 3), size=4, backing=below, clone=below)
    copied.check_copy(0, copied.device.disk.sectors)
    copied.check_copy(333, 555)


def test_segments(rig: Rig) -> None:
    """Each target of a table copies its own range; `copy` and regions count from its target's
    start, and the last region is as short as the target is."""
    backing, clone = Image(rig.null_blk(size=4), "backing"), Image(rig.null_blk(size=4), "clone")
    ours = rig.clone_of(
        "\n".join(
            [
                clone_table(backing.disk, clone.disk, 0, 100, 2000, 0),
                clone_table(backing.disk, clone.disk, 3000, 5000, 1000, 2000),
            ]
        )
    )
    ours.copy(300, 20, at=0)
    ours.copy(990, 10, at=2000)
    first, second = ours.wait_idle(line=0), ours.wait_idle(line=1)
    clone.expect_copy(100 + 256, backing, 256, 128)
    clone.expect_copy(5000 + 896, backing, 3000 + 896, 104)
    clone.check("a region of each segment")
    assert [status.counters["copied"] for status in (first, second)] == [128, 104]
    assert [(status.in_sync, status.total) for status in (first, second)] == [(1, 16), (1, 8)]


def test_adjacent_reads_are_one_request(rig: Rig) -> None:
    """Jobs that begin together are sent together: the block layer joins them."""
    jobs = 32
    copied = pair(rig, features=(*TRACK, "region_size", 8, "depth", jobs, "batch", 8))
    disk = copied.backing.disk
    before = disk.counters()
    copied.device.copy_and_wait(0, 8 * jobs)
    after = disk.counters()
    assert after.sectors_read - before.sectors_read == 8 * jobs
    assert after.reads - before.reads <= jobs // 4
    copied.expect(0, 8 * jobs)
    copied.clone.check("joined")


def test_many_ranges(rig: Rig, kernel_log: Guard) -> None:
    """While the clone does not answer, ranges are taken until there are too many, which is EBUSY;
    all that were taken are copied, in spite of overlaps, and none of those that were not."""
    kernel_log.expect("message refused: too many ranges")
    backing, clone = Image(rig.null_blk(size=4), "backing"), Image(rig.null_blk(size=4), "clone")
    gate = rig.gate(clone.disk)
    device = rig.clone(backing.disk, gate.disk, features=(*TRACK, "region_size", 8))
    gate.suspend()
    taken = []
    with pytest.raises(DmError) as caught:
        for number in range(10000):
            sector, count = number * 29 % 8000, 1 + number % 40
            device.copy(sector, count)
            taken.append(whole_regions(sector, count, 8, device.disk.sectors))
    assert caught.value.errno == errno.EBUSY
    assert len(taken) == 64
    assert device.clone_status().in_sync == 0
    gate.resume()
    status = device.wait_idle()
    regions = set()
    for sector, count in taken:
        clone.expect_copy(sector, backing, sector, count)
        regions |= set(range(sector, sector + count, 8))
    clone.check("all ranges that were taken")
    assert len(regions) == status.in_sync
    assert 8 * len(regions) <= status.counters["copied"] <= sum(count for _, count in taken)


def test_progress(rig: Rig) -> None:
    """A slow copy is seen to advance: `copied` and the regions in sync only grow, no more are in
    sync than were copied, regions in flight are shown, and the state says what goes on."""
    copied = pair(rig, size=4, clone=SLOW | {"mbps": 1})
    device = copied.device
    length = device.disk.sectors
    device.copy(0, length)
    seen = [device.clone_status()]
    wait_until(
        lambda: seen.append(device.clone_status()) or seen[-1].at_rest,
        "the copy to end",
        timeout=60,
    )
    for earlier, later in pairwise(seen):
        assert earlier.counters["copied"] <= later.counters["copied"]
        assert earlier.in_sync <= later.in_sync
    for status in seen[:-1]:
        assert status.in_sync * REGION <= status.counters["copied"]
        assert status.in_sync + status.copying <= status.total
        assert status.state == "copying"
    # At most depth jobs of at most batch sectors.
    assert 0 < max(status.copying for status in seen) <= 8 * BATCH // REGION
    assert any(0 < status.counters["copied"] < length for status in seen)
    assert any(0 < status.in_sync < status.total for status in seen)
    assert (seen[-1].state, seen[-1].dirty) == ("complete", 0)
    assert seen[-1].counters["copied"] == length
    copied.expect(0, length)
    copied.clone.check("a slow copy")


def test_message_does_not_wait(rig: Rig) -> None:
    """`copy` returns at once, even while the clone does not answer; user I/O goes on meanwhile."""
    backing, clone = Image(rig.null_blk(size=2), "backing"), Image(rig.null_blk(size=2), "clone")
    gate = rig.gate(clone.disk)
    ours = rig.clone(backing.disk, gate.disk)
    gate.suspend()
    call = rig.background(ours.copy, 0, 1024)
    call.result(timeout=5)
    status = wait_until(
        lambda: s if (s := ours.clone_status()).copying else None, "the copy to start"
    )
    assert status.state == "copying"
    assert status.counters["copied"] == 0
    fio = rig.fio(ours.disk, rw="randrw", bs="4k", offset="1m", size="1m", verify="crc32c")
    fio.wait(timeout=30)
    gate.resume()
    ours.wait_idle()
    clone.expect_copy(0, backing, 0, 1024)
    clone.check("after the clone answers again")


def test_beside_load(rig: Rig) -> None:
    """Copies of one half while fio writes and verifies the other half."""
    copied = pair(rig, size=16)
    half = 8 << 11
    load = rig.fio(copied.device.disk, offset="8m", size="8m", **STEADY)
    load.wait_for_load()
    for _ in range(5):
        copied.device.copy_and_wait(0, half)
    load.finish()
    copied.expect(0, half)
    copied.clone.check("the half that nobody wrote to, and nothing more")


def test_copies_what_is_there_now(rig: Rig) -> None:
    """What was written through the node before the message is what arrives on the clone, also
    when the range was copied before."""
    copied = pair(rig)
    disk = copied.device.disk
    for generation in range(3):
        data = stamped(f"gen{generation}", 300, 200)
        io.write(disk, 300, data)
        copied.backing.expect(300, data)
        copied.device.copy_and_wait(256, 400)
        copied.expect(256, 400)
        copied.clone.check(f"generation {generation}")


def test_overlapping_copies(rig: Rig) -> None:
    """A copy of a region that is being copied begins only when the first one has ended there: with
    both writes in flight the older data could come last. What was written meanwhile is dirty."""
    backing, clone = Image(rig.null_blk(size=2), "backing"), Image(rig.null_blk(size=2), "clone")
    gate = rig.gate(clone.disk)
    ours = rig.clone(backing.disk, gate.disk)
    shut = rig.shut(gate)
    ours.copy(0, 1024)
    shut.wait_for(1)
    older = backing.content(0, 1024 - REGION)
    data = stamped("newer", 0, 1024)
    io.write(ours.disk, 0, data)
    backing.expect(0, data)
    before = backing.disk.counters()
    ours.copy(1016, 8)
    assert_quiet(backing.disk)
    assert backing.disk.counters() == before, "the second copy has read"
    shut.open()
    status = ours.wait_idle()
    assert (status.counters["copied"], status.counters["recopied"]) == (1024 + REGION, REGION)
    assert status.in_sync == 1
    clone.expect(0, older)
    clone.expect_copy(1024 - REGION, backing, 1024 - REGION, REGION)
    clone.check("the region that was copied twice is new, those beside it are old")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [64])
@pytest.mark.parametrize("depth", [1, 8, 64])
def test_long_copies_beside_load(rig: Rig, size: int, depth: int) -> None:
    """A large device copied again and again beside load on another range."""
    copied = pair(rig, (5, 11), size=size, features=(*TRACK, "depth", depth), length=120000)
    # Regions of their own.
    load = rig.fio(copied.device.disk, offset=100096 * 512, size=19904 * 512, **STEADY)
    load.wait_for_load()
    for _ in range(5):
        copied.check_copy(0, 100000)
    load.finish()


def test_a_wrong_copy_is_seen(rig: Rig) -> None:
    """The comparison itself can fail: one changed sector of the clone, inside the copied range or
    beside it, is reported with its number."""
    copied = pair(rig)
    for wrong in (500, 700):
        copied.clone.fill("clone")
        copied.device.copy_and_wait(400, 200)
        copied.expect(400, 200)
        sector = bytearray(copied.clone.content(wrong, 1))
        sector[100] ^= 1
        io.write(copied.clone.disk, wrong, bytes(sector))
        with pytest.raises(AssertionError, match=f"sector {wrong}: "):
            copied.clone.check("with a wrong byte")
