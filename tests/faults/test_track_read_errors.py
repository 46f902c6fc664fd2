# SPDX-License-Identifier: GPL-2.0
"""Sectors that can't be read: with on_read_error skip all else is copied, and their regions are put
aside until `start`, a message or a write brings something new; with stop copying waits for `start`.

A bad block of dm-dust is healed by a write, as that of a disk.
"""

import pytest

from harness import io
from harness.clone_rs import ErrorList, Status, linear_table
from harness.data import stamped
from harness.faulty import Dust, Faulty, FaultyPair, allow_read_errors
from harness.fio import STEADY
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.rig import Rig
from harness.track import Pair

LENGTH = 4096
REGION = 64
REGIONS = LENGTH // REGION
FEATURES = ("region_size", REGION, "batch", REGION)
SKIP = (*FEATURES, "on_read_error", "skip")


def dusty(rig: Rig, log: Guard, *blocks: int, features: tuple = SKIP, **queue: object):
    """A pair with bad blocks on the backing device."""
    allow_read_errors(log)
    pair = FaultyPair(rig, Dust, "backing", features, **queue)
    pair.faulty.fail(*((block, 1) for block in blocks))
    return pair


def check_rest(pair: Pair, status: Status, *sectors: int) -> None:
    """All but these sectors are copied, and their regions are dirty."""
    regions = {sector // REGION for sector in sectors}
    assert (status.state, status.health) == ("paused", "errors")
    assert (status.in_sync, status.dirty) == (REGIONS - len(regions), len(regions))
    held = {sector: pair.clone.content(sector, 1) for sector in sectors}
    pair.expect_copy()
    for sector, content in held.items():
        pair.clone.expect(sector, content)
    pair.clone.check("all but what can't be read")


def test_a_write_heals(rig: Rig, kernel_log: Guard) -> None:
    """Everything but the bad sectors is copied. Writes over them heal them, and `start` copies
    their regions, and no other."""
    pair = dusty(rig, kernel_log, 100, 1000, 1001, 4095)
    pair.device.start()
    status = pair.device.wait_paused()
    check_rest(pair, status, 100, 1000, 1001, 4095)
    assert status.counters["read_errors"] == status.counters["bad"] == 4
    for sector, count in ((100, 1), (1000, 2), (4095, 1)):
        pair.write(sector, stamped("user", sector, count))
    assert_quiet(pair.below[1])
    assert pair.device.clone_status() == status
    status = pair.device.start_and_wait()
    assert (status.health, status.counters["copied"]) == ("ok", LENGTH - 4 + 3 * REGION)
    assert status.counters["recopied"] == 0
    pair.expect_copy()
    pair.check("healed")


def test_a_write_is_enough(rig: Rig, kernel_log: Guard) -> None:
    """While the rest is still being copied a write has the region tried again, without `start`."""
    pair = dusty(rig, kernel_log, 3 * REGION, features=(*SKIP, "depth", 1, "rate", 200))
    pair.device.start()
    pair.device.wait_for(lambda status: status.health == "errors", "at the bad block")
    pair.write(3 * REGION, stamped("user", 3 * REGION, 1))
    pair.device.tune("rate", 0)
    status = pair.device.wait_complete()
    assert status.counters["read_errors"] == 1
    assert status.health == "errors"
    pair.expect_copy()
    pair.check("healed on the way")


def test_passes_leave_it_alone(rig: Rig, kernel_log: Guard) -> None:
    """While one job hangs, users' writes make for one pass after the other; what can't be read is
    not tried again in any of them. Copying pauses when the job has ended."""
    allow_read_errors(kernel_log)
    backing, below = Dust(rig, rig.null_blk(2)), rig.null_blk(2)
    gate = rig.gate(below)
    hanging = LENGTH - REGION
    clone = rig.mapped(
        linear_table(below, length=hanging) + f"\n{hanging} {REGION} linear {gate.path} {hanging}"
    )
    pair = Pair(rig, backing.disk, clone.disk, features=SKIP)
    backing.fail((1000, 1))
    gate.suspend()
    pair.device.start()
    for number in range(8):
        copied = LENGTH + (number - 1) * REGION - 1
        status = pair.device.wait_for(
            lambda status, copied=copied: (
                (status.counters["copied"], status.copying) == (copied, 1)
            ),
            "through with a pass",
        )
        assert status.state == "copying"
        pair.write_regions("user", number)
        # What hangs wakes nobody.
        pair.device.tune("rate", 0)
    gate.resume()
    status = pair.device.wait_paused()
    assert status.counters["read_errors"] == 1
    check_rest(pair, status, 1000)


def test_nothing_can_be_read(rig: Rig, kernel_log: Guard) -> None:
    """All regions are tried once, and again at each start."""
    allow_read_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "backing", SKIP)
    pair.faulty.fail((0, LENGTH))
    for number in range(1, 4):
        pair.device.start()
        status = pair.device.wait_for(
            lambda status, number=number: status.counters["read_errors"] == number * LENGTH,
            "through with it",
        )
        status = pair.device.wait_paused()
        assert (status.dirty, status.counters["copied"]) == (REGIONS, 0)
    pair.clone.check("nothing could be read")
    pair.faulty.heal()
    assert pair.device.start_and_wait().counters["copied"] == LENGTH
    pair.expect_copy()
    pair.check("healed")


def test_messages_about_it(rig: Rig, kernel_log: Guard) -> None:
    """`copy` tries a region again, once; `skip` gives it up: then the copy is complete."""
    pair = dusty(rig, kernel_log, 100, 2000)
    pair.device.start()
    check_rest(pair, pair.device.wait_paused(), 100, 2000)
    pair.device.copy(100, 1)
    status = pair.device.wait_for(lambda status: status.counters["read_errors"] == 3, "tried again")
    check_rest(pair, pair.device.wait_paused(), 100, 2000)
    assert len(pair.device.errors().failures) == 2
    pair.device.skip(REGION, REGION)
    pair.device.skip(31 * REGION, REGION)
    status = pair.device.wait_complete()
    assert (status.in_sync, status.skipped) == (REGIONS - 2, 2)
    assert status.health == "errors"


def test_a_discard_gives_it_up(rig: Rig, kernel_log: Guard) -> None:
    """Nobody needs what was discarded: the copy completes. A write to it is copied."""
    allow_read_errors(kernel_log)
    pair = FaultyPair(rig, Faulty, "backing", SKIP, discard=1)
    pair.faulty.fail((REGION, REGION))
    pair.device.start()
    check_rest(pair, pair.device.wait_paused(), *range(REGION, 2 * REGION))
    pair.faulty.heal()
    with io.direct(pair.device.disk) as fd:
        io.range_ioctl(fd, io.BLKDISCARD, REGION, REGION)
    assert pair.device.wait_complete().skipped == 1
    pair.device.start()
    data = stamped("user", REGION, REGION)
    pair.write(REGION, data)
    pair.device.wait_for(lambda status: not status.skipped, "copying that, too")
    assert pair.device.wait_complete().in_sync == REGIONS
    pair.check_equal("a write to what was given up")


def test_stop_waits_for_start(rig: Rig, kernel_log: Guard) -> None:
    """With on_read_error stop nothing is copied after the first error, whatever users write; with
    several bad blocks each `start` comes to one of them."""
    bad = (5, 20, 50)
    features = (*FEATURES, "depth", 1)
    pair = dusty(rig, kernel_log, *(region * REGION for region in bad), features=features)
    for number in range(1, 4):
        pair.device.start()
        status = pair.device.wait_for(
            lambda status, number=number: status.counters["read_errors"] == number * REGION,
            "at a bad block",
        )
        status = pair.device.wait_paused()
        assert len(pair.device.errors().failures) == 1
        pair.write_regions("user", 0)
        assert_quiet(pair.below[1])
        assert pair.device.clone_status().counters == status.counters
    for region in bad:
        pair.write(region * REGION, stamped("user", region * REGION, 1))
    status = pair.device.start_and_wait()
    assert pair.device.errors() == ErrorList([], 0)
    pair.expect_copy()
    pair.check("healed")


@pytest.mark.long
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_deep_pipeline(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """Many jobs in flight, many bad blocks, a load: each sector that failed is counted once, and
    listed, and after healing all is equal."""
    bad = range(LENGTH // 2 + 7, LENGTH, 5 * REGION)
    features = ("region_size", REGION, "depth", 16, "batch", REGION, "on_read_error", policy)
    pair = dusty(rig, kernel_log, *bad, features=features, irqmode=2)
    load = rig.fio(pair.device.disk, size="1m", **STEADY)
    load.wait_for_load()
    pair.device.start()
    status = pair.device.wait_for(lambda status: status.health == "errors", "at an error")
    if policy == "skip":
        status = pair.device.wait_for(
            lambda status: status.counters["read_errors"] == len(bad), "through with it"
        )
    load.finish()
    status = pair.device.wait_paused()
    listed = pair.device.errors()
    assert sum(failure.count for failure in listed.failures) == status.counters["read_errors"]
    size = 1 if policy == "skip" else REGION
    places = {sector // size * size for sector in bad}
    assert {failure.sector for failure in listed.failures} <= places
    if policy == "skip":
        assert len(listed.failures) == len(bad) == status.dirty
    pair.faulty.heal()
    status = pair.device.start_and_wait()
    pair.check_equal("healed")
