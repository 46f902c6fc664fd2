# SPDX-License-Identifier: GPL-2.0
"""`verify` where a device can't be read: that is listed, all the rest is compared, and users see
nothing of it.
"""

import errno

import pytest

from harness import io
from harness.clone_rs import Failure, linear_table
from harness.data import stamped
from harness.faulty import Dust, Faulty, FlakeyReads, allow_errors, unreachable
from harness.kernel_log import Guard
from harness.refusals import OURS, refuse_message
from harness.rig import Rig
from harness.track import Pair

SIZE = 2
REGION = 64
SHAPE = ("region_size", REGION, "depth", 2, "batch", 8 * REGION)
MODES = ["track", "mirror"]


def said(log: Guard) -> None:
    """What is said of differences, and of errors."""
    log.allow(OURS + "verify: ")
    allow_errors(log)


def verify(pair: Pair) -> None:
    """To the end, with nothing but errors to be seen."""
    status = pair.device.verify_and_wait()
    assert status.counters["mismatched"] == 0
    assert status.counters["verified"] == pair.length
    assert status.health == "errors"


def failures(pair: Pair, side: str) -> list[tuple[int, int]]:
    """The places of a side that are listed, and no others."""
    found = pair.device.errors()
    assert found.left_out == 0
    assert {(failure.side, failure.errno) for failure in found.failures} == {(side, errno.EIO)}
    return sorted((failure.sector, failure.count) for failure in found.failures)


@pytest.mark.parametrize("kind", [Dust, FlakeyReads])
def test_backing_device(rig: Rig, kernel_log: Guard, kind: type) -> None:
    """What can't be read of the backing device stays in sync: the clone has it. What differs beside
    it is found."""
    said(kernel_log)
    faulty = kind(rig, rig.null_blk(SIZE))
    pair = Pair(rig, faulty.disk, rig.null_blk(SIZE), features=SHAPE)
    pair.device.start_and_wait()
    pair.device.pause()
    bad = [(3 * REGION + 1, 1), (3 * REGION + 9, 2), (40 * REGION, REGION)]
    faulty.fail(*bad)
    verify(pair)
    assert failures(pair, "backing") == bad
    status = pair.device.clone_status()
    assert status.counters["read_errors"] == sum(count for _, count in bad)
    assert status.in_sync == status.total
    beside = stamped("other", 0, 1)
    io.write(pair.clone.disk, 3 * REGION + 10 + 1, beside)
    pair.device.start()
    pair.device.pause()
    status = pair.device.verify_and_wait()
    assert status.counters["mismatched"] == 1
    assert Failure("clone", errno.EILSEQ, 3 * REGION + 11, 1) in pair.device.errors().failures
    faulty.heal()
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("healed")


@pytest.mark.parametrize("batch", [8, 64])
@pytest.mark.parametrize(("blocks", "offset"), [((8, 1), 0), ((8, 1), 3), ((1, 8), 5), ((8, 8), 5)])
def test_unlike_blocks(
    rig: Rig, kernel_log: Guard, blocks: tuple[int, int], offset: int, batch: int
) -> None:
    """What can't be read on either side is told to the block, whatever the other one's blocks are;
    nothing else differs."""
    said(kernel_log)
    disks = [Dust(rig, rig.null_blk(SIZE, blocksize=block * 512)) for block in blocks]
    shape = ("region_size", 1024, "depth", 1, "batch", batch)
    offsets = (0, offset)
    pair = Pair(rig, *(dust.disk for dust in disks), offsets, 4000, shape)
    pair.device.start_and_wait()
    pair.device.pause()
    bad = {107: "clone", 1500: "backing", 3001: "clone"}
    for dust, side in zip(disks, ("backing", "clone"), strict=True):
        at = offsets[disks.index(dust)]
        dust.fail(*((at + sector, 1) for sector, where in bad.items() if where == side))
    verify(pair)
    found = pair.device.errors()
    for sector, side in bad.items():
        assert any(
            failure.side == side and failure.sector <= sector < failure.sector + failure.count
            for failure in found.failures
        )
    size = dict(zip(("backing", "clone"), blocks, strict=True))
    assert all(failure.count <= size[failure.side] for failure in found.failures)
    assert (len(found.failures), found.left_out) == (3, 0)
    for dust in disks:
        dust.heal()
    pair.device.start_and_wait()
    assert pair.device.verify_and_wait().counters["mismatched"] == 0
    pair.expect_copy()
    pair.check("healed")


@pytest.mark.parametrize("mode", MODES)
def test_clone(rig: Rig, kernel_log: Guard, mode: str) -> None:
    """What can't be read of the clone is dirty, and its regions alone; to write it heals it."""
    said(kernel_log)
    dust = Dust(rig, rig.null_blk(SIZE))
    pair = Pair(rig, rig.null_blk(SIZE), dust.disk, features=SHAPE, mode=mode)
    pair.device.start_and_wait()
    pair.device.pause()
    bad = [(5 * REGION + 63, 1), (9 * REGION, 1), (20 * REGION + 60, 10)]
    dust.fail(*bad)
    verify(pair)
    # The last one lies in two regions.
    assert failures(pair, "clone") == bad
    status = pair.device.clone_status()
    assert status.counters["clone_errors"] == sum(count for _, count in bad)
    assert status.dirty == 4
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("written again")
    status = pair.device.verify_and_wait()
    assert status.health == "ok"


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_unreachable(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A device that can't be reached any more ends the verify; that says nothing of the medium, so
    all stays in sync."""
    said(kernel_log)
    disks = {name: rig.null_blk(SIZE) for name in ("backing", "clone")}
    disks[side] = rig.scsi_debug(SIZE)
    pair = Pair(rig, **disks, features=SHAPE)
    pair.device.start_and_wait()
    event = pair.device.info().event
    with unreachable(disks[side]):
        status = pair.device.verify_and_wait()
    assert status.health == "errors"
    assert status.counters["verified"] < pair.length
    assert status.in_sync == status.total
    pair.device.wait_event(event + 2)
    found = pair.device.errors().failures
    assert {(failure.side, failure.errno) for failure in found} == {(side, errno.ENOLINK)}
    status = pair.device.verify_and_wait()
    assert status.counters["verified"] == pair.length


def test_detached_meanwhile(rig: Rig, kernel_log: Guard) -> None:
    """The loss of the clone ends it, and it is refused until the clone is back."""
    said(kernel_log)
    kernel_log.allow(OURS + "message refused")
    faulty = Faulty(rig, rig.null_blk(SIZE))
    pair = Pair(rig, rig.null_blk(SIZE), faulty.disk, features=SHAPE, gated=True, mode="mirror")
    pair.device.start_and_wait()
    shut = rig.shut(pair.backing_gate)
    pair.device.verify()
    shut.wait_for(2)
    faulty.fail((0, faulty.below.sectors))
    write = rig.background(pair.write, 50 * REGION, stamped("user", 0, 8))
    pair.device.wait_for(lambda status: status.health == "detached", "detached")
    shut.open()
    write.result()
    status = pair.device.wait_for(lambda status: status.state != "verifying", "ended")
    assert status.counters["verified"] < pair.length
    assert status.counters["mismatched"] == 0
    refuse_message(pair.device, "verify", "detached", number=errno.EBUSY)
    faulty.heal()
    pair.device.start_and_wait()
    status = pair.device.verify_and_wait()
    assert (status.counters["mismatched"], status.health) == (0, "ok")
    pair.expect_copy()
    pair.check("after all")


def test_a_write_that_hangs(rig: Rig, kernel_log: Guard) -> None:
    """A mirrored write whose clone hangs: the verify waits for it at its place, a suspend and
    `pause` end it, and nothing is reported."""
    said(kernel_log)
    pair = Pair(
        rig,
        rig.null_blk(SIZE),
        rig.null_blk(SIZE),
        features=(*SHAPE, "on_clone_error", "stop"),
        gated=True,
        mode="mirror",
    )
    pair.device.start_and_wait()
    shut = rig.shut(pair.clone_gate)
    write = rig.background(pair.write, 8, stamped("user", 0, 8))
    shut.wait_for(1)
    pair.device.verify()
    # While users wait, one at a time.
    shut.wait_for(2)
    pair.device.pause()
    assert pair.device.clone_status().state == "verifying"
    pair.clone_gate.load(linear_table(pair.clone.disk))
    shut.open()
    write.result()
    status = pair.device.wait_complete()
    assert (status.counters["mismatched"], status.health) == (0, "ok")
    pair.expect_copy()
    pair.check("after it answered")
