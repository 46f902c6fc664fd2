# SPDX-License-Identifier: GPL-2.0
"""`verify` finds each sector in which the devices differ though they shall not, and no others: not
what is written, discarded or copied meanwhile. It goes on over suspends and reloads, and its end is
an event.
"""

import errno
import random

import pytest

from harness import io
from harness.clone_rs import Failure, linear_table
from harness.data import SECTOR, stamped
from harness.fio import STEADY, Fio
from harness.kernel_log import Guard
from harness.mixed_load import LEFT_ALONE, MixedLoad
from harness.quiet import assert_quiet
from harness.refusals import OURS, refuse_message
from harness.rig import Rig
from harness.shut import Shut
from harness.track import PAIRS, Pair
from harness.wait import wait_until

SIZE = 2
REGION = 64
SHAPE = ("region_size", REGION, "depth", 2, "batch", 2 * REGION)
MODES = ["track", "mirror"]
SHAPES = {
    "small regions": ("region_size", 8, "batch", 512),
    "runs": ("region_size", 64, "batch", 2048),
    # A look has half of a batch of each device.
    "pieces": ("region_size", 1024, "batch", 64),
    "one job": ("region_size", 64, "batch", 64, "depth", 1),
    "odd": ("region_size", 256, "batch", 24, "depth", 3),
}


def said(log: Guard) -> None:
    """What is said of differences."""
    log.allow(OURS + "verify: ")


def corrupt(pair: Pair, *sectors: int) -> None:
    """Change a byte of these sectors of the clone, behind the target's back."""
    data = bytearray(io.read(pair.clone.disk))
    for sector in sectors:
        data[(pair.offsets[1] + sector) * SECTOR + (sector * 37) % SECTOR] ^= 1 + sector % 255
    io.write(pair.clone.disk, 0, bytes(data))


def check_none(pair: Pair) -> None:
    """A verify of all finds nothing."""
    before = pair.device.clone_status().counters["mismatched"]
    status = pair.device.verify_and_wait()
    assert status.counters["mismatched"] == before
    assert status.counters["verified"] == pair.length
    assert (status.health, pair.device.errors().failures) == ("ok", [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_mismatch_is_found(
    rig: Rig, kernel_log: Guard, shape: str, block: int, mode: str
) -> None:
    """Of 1,000 sectors a byte was changed: each is counted, and their regions and no others are
    dirty. Then those are copied, and nothing is found any more. Also where the range begins and
    ends within blocks of the clone."""
    said(kernel_log)
    disks = rig.null_blk(SIZE), rig.null_blk(SIZE, blocksize=block * SECTOR)
    pair = Pair(rig, *disks, (5, 11), 4000, SHAPES[shape], mode=mode)
    pair.device.start_and_wait()
    check_none(pair)
    pair.device.pause()
    choose = random.Random(len(shape))
    planted = {0, pair.length - 1, *choose.sample(range(1, pair.length - 1), 998)}
    corrupt(pair, *planted)
    event = pair.device.info().event
    status = pair.device.verify_and_wait()
    assert status.counters["mismatched"] == len(planted) == 1000
    assert status.dirty == len({pair.region_of(sector) for sector in planted})
    assert status.health == "errors"
    wait_until(lambda: pair.device.info().event >= event + 2, "two events")
    found = pair.device.errors()
    assert len(found.failures) + found.left_out > 64
    for side, number, first, count in found.failures:
        assert (side, number) == ("clone", errno.EILSEQ)
        assert planted.issuperset(range(first, first + count))
    pair.device.start_and_wait()
    check_none(pair)
    pair.expect_copy()
    pair.check("after the copy of what differed")


@pytest.mark.parametrize("mode", MODES)
def test_the_list_is_exact(rig: Rig, kernel_log: Guard, mode: str) -> None:
    """Adjacent sectors are one entry, also over the ends of pieces and regions; a mirror that goes
    on copying heals them by itself."""
    said(kernel_log)
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=SHAPE, mode=mode)
    pair.device.start_and_wait()
    planted = [(0, 1), (60, 9), (200, 1), (202, 1), (1000, 80), (4095, 1)]
    corrupt(pair, *(first + i for first, count in planted for i in range(count)))
    status = pair.device.verify_and_wait()
    assert status.counters["mismatched"] == sum(count for _, count in planted)
    wanted = [Failure("clone", errno.EILSEQ, *place) for place in planted]
    assert sorted(pair.device.errors().failures) == wanted
    pair.device.wait_complete()
    pair.expect_copy()
    pair.check("healed")


def test_only_what_is_in_sync(rig: Rig) -> None:
    """What is dirty or skipped is nobody's mistake."""
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=SHAPE)
    pair.device.copy_and_wait(10 * REGION, 20 * REGION)
    pair.device.skip(15 * REGION, REGION)
    pair.device.copy_and_wait(15 * REGION, REGION)
    pair.device.skip(16 * REGION, 2 * REGION)
    pair.write_regions("user", 20)
    corrupt(pair, 9 * REGION, 16 * REGION + 1, 20 * REGION + 9, 30 * REGION)
    trace = rig.bio_trace(*pair.below)
    check_none(pair)
    looked = [(10, 6), (18, 2), (21, 9)]
    for disk in pair.below:
        read = sorted((bio.sector, bio.count) for bio in trace.bios(disk))
        sectors = [at for sector, count in read for at in range(sector, sector + count)]
        wanted = [at for first, n in looked for at in range(first * REGION, (first + n) * REGION)]
        assert sectors == wanted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "offsets"),
    [
        ("null_blk-512", (0, 0)),
        ("null_blk-512", (3, 5)),
        ("null_blk-4096", (0, 0)),
        ("null_blk-4096", (8, 7)),
        ("null_blk-4096-512", (0, 0)),
        ("null_blk-512-4096", (0, 0)),
        ("null_blk-512-4096", (3, 5)),
        ("null_blk-write-cache", (0, 0)),
        ("loop", (0, 0)),
        ("scsi", (0, 0)),
    ],
    ids=str,
)
def test_none_under_load(
    rig: Rig, kernel_log: Guard, kind: str, offsets: tuple[int, int], mode: str
) -> None:
    """While all sorts of writes go on, and copying with them, nothing is found, though the clone is
    read each time: at the least what nobody writes to, which is in sync."""
    kernel_log.allow(r"operation not supported error, dev loop")
    features = ("region_size", 16, "batch", 256, "depth", 4)
    pair = Pair(rig, *PAIRS[kind](rig, SIZE), offsets, features=features, mode=mode)
    pair.device.start()
    load = MixedLoad(rig, pair.device.disk)
    for _ in range(4):
        before = pair.below[1].counters().sectors_read
        status = pair.device.verify_and_wait()
        assert (status.counters["mismatched"], status.health) == (0, "ok")
        assert status.counters["verified"] == pair.length
        read = pair.below[1].counters().sectors_read - before
        assert read >= LEFT_ALONE - 2 * pair.region_size
    load.stop()
    pair.finish("after the load")
    pair.device.resume()
    check_none(pair)


def writers_of_one_region(rig: Rig, pair: Pair) -> Fio:
    """fio, which writes it all the time."""
    place = {"offset": 7 * REGION * SECTOR, "size": REGION * SECTOR}
    load = rig.fio(pair.device.disk, **STEADY | place | {"bsrange": "4k-4k", "iodepth": 8})
    load.wait_for_load()
    return load


@pytest.mark.parametrize("mode", MODES)
def test_where_all_write(rig: Rig, mode: str) -> None:
    """One region is written all the time: the verify ends, and finds nothing there."""
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=SHAPE, mode=mode)
    pair.device.start_and_wait()
    load = writers_of_one_region(rig, pair)
    for _ in range(5):
        status = pair.device.verify_and_wait()
        assert (status.counters["mismatched"], status.health) == (0, "ok")
    load.finish()
    pair.finish("after the load")
    pair.device.resume()
    check_none(pair)


def test_writes_wait_at_last(rig: Rig) -> None:
    """What is written all the time is at last looked at while writes to it wait."""
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=SHAPE, mode="mirror")
    pair.device.start_and_wait()
    load = writers_of_one_region(rig, pair)
    for _ in range(50):
        status = pair.device.verify_and_wait()
        assert (status.counters["mismatched"], status.health) == (0, "ok")
        if status.counters["held"]:
            break
    else:
        raise AssertionError("no write had to wait")
    load.finish()
    pair.device.wait_complete()
    pair.check_equal("after the load")


class Slow(Pair):
    """A complete pair, of which nothing is read while its gates are shut."""

    def __init__(self, rig: Rig, mode: str = "track", shape: tuple = SHAPE):
        super().__init__(
            rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=shape, gated=True, mode=mode
        )
        self.device.start_and_wait()


def test_is_seen_in_the_status(rig: Rig) -> None:
    """`verifying` from the message to the end, which is an event; then what it was before."""
    pair = Slow(rig)
    event = pair.device.info().event
    shut = rig.shut(pair.clone_gate)
    pair.device.verify()
    shut.wait_for(2)
    status = pair.device.clone_status()
    assert status.state == "verifying"
    assert status.counters["verified"] == 2 * 2 * REGION
    assert status.in_sync == status.total
    # Once more is the same.
    pair.device.verify()
    assert pair.device.info().event == event
    shut.open()
    status = pair.device.wait_complete()
    pair.device.wait_event(event + 1)
    assert status.counters["verified"] == pair.length
    shut.wait_for(pair.length // REGION)


@pytest.mark.parametrize("mode", MODES)
def test_a_write_meanwhile(rig: Rig, mode: str) -> None:
    """A write that comes between the two reads of a region is no difference: in a mirror it is
    looked at again, in track it is copied."""
    pair = Slow(rig, mode)
    shut = rig.shut(pair.clone_gate)
    pair.device.verify()
    shut.wait_for(2)
    write = rig.background(pair.write, 8, stamped("user", 8, 8))
    if mode == "mirror":
        wait_until(lambda: any(bio.kind.startswith("W") for bio in shut.held()), "the write")
    else:
        write.result()
    shut.open()
    write.result()
    status = pair.device.wait_complete()
    assert (status.counters["mismatched"], status.health) == (0, "ok")
    pair.expect_copy()
    pair.check("after the write")


def test_a_write_before(rig: Rig) -> None:
    """A write of track that is on its way to the backing device when the verify begins has ended
    before anything is read."""
    pair = Slow(rig)
    pair.device.pause()
    trace = rig.bio_trace(pair.below[1])
    shut = rig.shut(pair.backing_gate)
    write = rig.background(pair.write, 8, stamped("user", 8, 8))
    shut.wait_for(1)
    pair.device.verify()
    status = pair.device.clone_status()
    assert (status.state, status.counters["verified"]) == ("verifying", 0)
    # One that comes now is known of, and does not keep it.
    assert write.running
    shut.open()
    write.result()
    status = pair.device.wait_for(lambda status: status.state != "verifying", "verified")
    assert (status.counters["mismatched"], status.health) == (0, "ok")
    # Two jobs read at once: which is first is open.
    read = [bio.sector for bio in trace.bios(pair.below[1]) if bio.kind.startswith("R")]
    assert min(read) == REGION, "region 0 is dirty by then"
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after the write")


def test_a_write_under_way(rig: Rig) -> None:
    """A write of track that came meanwhile, and is on the backing device in part: it is known of,
    and nobody waits for it."""
    below, border = rig.null_blk(SIZE), 21 * REGION
    gate, clone_gate = rig.gate(below), rig.gate(rig.null_blk(SIZE))
    lines = [linear_table(below, 0, border), linear_table(gate.disk, border, start=border)]
    backing = rig.mapped("\n".join(lines)).disk
    pair = Pair(rig, backing, clone_gate.disk, features=SHAPE)
    pair.device.start_and_wait()
    pair.device.pause()
    looks = rig.shut(clone_gate)
    pair.device.verify()
    looks.wait_for(2)
    shut = rig.shut(gate)
    write = rig.background(pair.write, border - 8, stamped("user", 0, 16))
    shut.wait_for(1)
    looks.open()
    # What the verify reads behind the gate waits, too.
    pair.device.wait_for(lambda status: status.counters["verified"] > border, "past the write")
    assert pair.device.clone_status().counters["mismatched"] == 0
    assert write.running
    shut.open()
    write.result()
    status = pair.device.wait_for(lambda status: status.state != "verifying", "verified")
    assert (status.counters["mismatched"], status.health) == (0, "ok")
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("after the write")


def suspend_meanwhile(rig: Rig, pair: Pair, shut: Shut, noflush: bool = False) -> None:
    """Suspend while looks are under way, which a shut gate holds until the suspend waits."""
    child = rig.suspend_in_child(pair.device, noflush)
    child.wait_until_waiting_for_jobs()
    shut.open()
    assert child.errno() == 0


@pytest.mark.parametrize("how", ["flush", "noflush", "reload"])
def test_goes_on_after_a_suspend(rig: Rig, kernel_log: Guard, how: str) -> None:
    """A suspend waits for the looks under way, and what they had is looked at later, also by the
    target of another table: all is found."""
    said(kernel_log)
    pair = Slow(rig)
    pair.device.pause()
    planted = range(1, pair.length, 3 * REGION)
    corrupt(pair, *planted)
    shut = rig.shut(pair.clone_gate)
    pair.device.verify()
    shut.wait_for(2)
    suspend_meanwhile(rig, pair, shut, noflush=how == "noflush")
    # Nothing goes on.
    assert pair.device.clone_status().state == "paused"
    if how == "reload":
        pair.device.load(pair.table)
    pair.device.resume()
    status = pair.device.wait_for(lambda status: status.state != "verifying", "verified")
    assert status.counters["mismatched"] == len(planted)
    assert status.counters["verified"] == pair.length
    pair.device.start_and_wait()
    check_none(pair)


@pytest.mark.parametrize("noflush", [False, True])
def test_suspended_within_a_region(rig: Rig, kernel_log: Guard, noflush: bool) -> None:
    """A region that differs is looked at to its end, before it becomes dirty."""
    said(kernel_log)
    pair = Slow(rig, shape=SHAPES["pieces"])
    pair.device.pause()
    corrupt(pair, 3, 1000)
    shut = rig.shut(pair.clone_gate)
    pair.device.verify()
    shut.wait_for_some()
    suspend_meanwhile(rig, pair, shut, noflush)
    assert pair.device.clone_status().counters["mismatched"] == 2
    pair.device.resume()
    status = pair.device.wait_for(lambda status: status.state != "verifying", "verified")
    assert (status.counters["mismatched"], status.dirty) == (2, 1)
    assert status.counters["verified"] == pair.length


def test_begun_anew(rig: Rig) -> None:
    """While looks of one that was ended are under way, the next one reads nothing."""
    pair = Slow(rig, "mirror")
    event = pair.device.info().event
    trace = rig.bio_trace(pair.below[0])
    shut = rig.shut(pair.clone_gate)
    pair.device.verify()
    shut.wait_for(2)
    pair.device.pause()
    pair.device.tune("depth", 8)
    pair.device.verify()
    assert_quiet(pair.backing.disk, pair.clone.disk)
    assert len(trace.bios(pair.below[0])) == 2
    shut.open()
    status = pair.device.wait_complete()
    assert status.counters["verified"] == pair.length
    assert sum(bio.count for bio in trace.bios(pair.below[0])) >= pair.length + 2 * REGION
    pair.device.wait_event(event + 1)


@pytest.mark.parametrize("suspended", [False, True])
def test_pause_ends_it(rig: Rig, suspended: bool) -> None:
    """And it begins anew when it is asked for again."""
    pair = Slow(rig)
    event = pair.device.info().event
    shut = rig.shut(pair.clone_gate)
    pair.device.verify()
    shut.wait_for(2)
    if suspended:
        suspend_meanwhile(rig, pair, shut)
    pair.device.pause()
    if suspended:
        pair.device.resume()
    else:
        shut.open()
    status = pair.device.wait_complete()
    assert status.counters["verified"] < pair.length
    pair.device.wait_event(event + 1)
    check_none(pair)


def test_refused(rig: Rig, kernel_log: Guard) -> None:
    """While suspended, and where an argument comes with it."""
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=SHAPE)
    kernel_log.allow(OURS + "message refused")
    refuse_message(pair.device, "verify now", "wrong number of arguments")
    pair.device.suspend()
    refuse_message(pair.device, "verify", "suspended", number=errno.EBUSY)
    pair.device.resume()
    check_none(pair)


def test_rate(rig: Rig) -> None:
    """`rate` bounds what is read of each device."""
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=SHAPE)
    pair.device.start_and_wait()
    pair.device.tune("rate", 64)
    trace = rig.bio_trace(pair.below[0])
    pair.device.verify()
    wait_until(lambda: trace.bios(pair.below[0]), "a look")
    assert pair.device.clone_status().state == "verifying"
    assert sum(bio.count for bio in trace.bios(pair.below[0])) < pair.length // 4
    pair.device.tune("rate", 0)
    pair.device.wait_complete()


def test_copies_go_first(rig: Rig) -> None:
    """What is dirty is copied while a verify goes on, and then the verify ends."""
    pair = Slow(rig, "track")
    pair.device.copy_and_wait(0, REGION)
    shut = rig.shut(pair.backing_gate)
    pair.device.verify()
    shut.wait_for(2)
    shut.open()
    pair.device.copy(0, pair.length)
    status = pair.device.wait_complete()
    assert status.counters["recopied"] >= pair.length
    assert status.counters["mismatched"] == 0
