# SPDX-License-Identifier: GPL-2.0
"""A suspend that copies the rest and meets an error ends, is not complete, and says so; one that
meets a device that hangs goes on when that answers. Afterwards the device works on.
"""

import errno

import pytest

from harness.clone_rs import Failure, Status
from harness.faulty import SAID, Faulty, FaultyPair
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
LENGTH = 4096
FEATURES = ("region_size", REGION, "depth", 1, "batch", REGION)
GAVE_UP = OURS + "finish: the rest could not be copied"
BAD = 30
# Side, features, regions that are copied of the five that are left, health.
POLICIES = {
    "stop": ("backing", ("on_read_error", "stop"), 2, "errors"),
    "skip": ("backing", ("on_read_error", "skip"), 4, "errors"),
    "detach": ("clone", ("on_clone_error", "detach"), 2, "detached"),
    "clone-stop": ("clone", ("on_clone_error", "stop"), 2, "errors"),
}


def leave_rest(pair: Pair, *regions: int) -> Status:
    """All is copied and flushed but these regions, which wait for a rate of 1 KiB a second."""
    pair.device.start_and_wait()
    pair.device.tune("rate", 1)
    pair.write_regions("user", 0)
    pair.device.wait_for(lambda status: status.counters["recopied"] == REGION, "copying again")
    pair.device.wait_complete()
    pair.write_regions("rest", *regions)
    status = pair.device.clone_status()
    assert (status.state, status.dirty) == ("copying", len(regions))
    return status


def check_usable(pair: Pair) -> None:
    """After a resume the rest is copied, and the next suspend finishes it."""
    pair.device.resume()
    pair.device.tune("rate", 0)
    pair.device.start_and_wait()
    pair.write_regions("again", 7, 8)
    pair.finish("finished after all")
    pair.device.resume()


@pytest.mark.parametrize("policy", POLICIES)
def test_error(rig: Rig, kernel_log: Guard, policy: str) -> None:
    """One bad block in the third of five regions that are left."""
    kernel_log.allow(OURS + "(copy: |clone device )")
    kernel_log.allow(SAID)
    kernel_log.expect(GAVE_UP)
    side, feature, copied, health = POLICIES[policy]
    pair = FaultyPair(rig, Faulty, side, (*FEATURES, *feature))
    before = leave_rest(pair, 10, 20, BAD, 40, 50)
    bad = BAD * REGION + 9
    pair.faulty.fail((bad, 1))
    status = pair.device.finish_and_suspend()
    assert (status.state, status.health, status.copying) == ("paused", health, 0)
    again = copied if policy == "detach" else 0
    assert status.dirty == 5 - copied + again
    # With `skip` it is narrowed down to the sector.
    place, count, rest = (bad, 1, REGION - 1) if policy == "skip" else (BAD * REGION, REGION, 0)
    assert status.counters["copied"] == before.counters["copied"] + copied * REGION + rest
    assert pair.device.errors().failures == [Failure(side, errno.EIO, place, count)]
    assert_quiet(*pair.below)
    pair.faulty.heal()
    check_usable(pair)


def test_everything_fails(rig: Rig, kernel_log: Guard) -> None:
    """Many jobs in flight, all of which fail; the table is replaced by that suspend, and the new
    one knows of it."""
    kernel_log.allow(OURS + "(copy: |clone device )")
    kernel_log.allow(SAID)
    kernel_log.expect(GAVE_UP)
    pair = FaultyPair(rig, Faulty, "clone", ("region_size", REGION, "batch", REGION))
    leave_rest(pair, *range(10, 60))
    pair.faulty.fail((0, LENGTH))
    pair.device.finish()
    pair.device.load(pair.table)
    pair.device.suspend()
    status = pair.device.clone_status()
    assert (status.health, status.dirty) == ("detached", 50)
    assert status.counters["clone_errors"] <= 8 * REGION
    pair.device.resume()
    assert pair.device.clone_status().health == "detached"
    pair.faulty.heal()
    pair.device.suspend()
    check_usable(pair)


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_hangs(rig: Rig, side: str) -> None:
    """The suspend waits as long as the device does not answer, and is complete then."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=FEATURES, gated=True)
    leave_rest(pair, *range(20, 30))
    gate = {"backing": pair.backing_gate, "clone": pair.clone_gate}[side]
    shut = rig.shut(gate)
    pair.device.finish()
    suspend = rig.background(pair.device.suspend)
    shut.wait_for(1)
    assert_quiet(pair.backing.disk, pair.clone.disk)
    assert suspend.running
    assert pair.device.clone_status().dirty == 10
    shut.open()
    suspend.result()
    pair.check_finished("a suspend that had to wait")
    check_usable(pair)


@pytest.mark.parametrize("message", ["pause", "start"])
def test_message_while_it_hangs(rig: Rig, kernel_log: Guard, message: str) -> None:
    """`pause` ends the suspend when the device answers, without the rest; `start` changes
    nothing."""
    kernel_log.allow(GAVE_UP)
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=FEATURES, gated=True)
    leave_rest(pair, *range(20, 30))
    shut = rig.shut(pair.clone_gate)
    pair.device.finish()
    suspend = rig.background(pair.device.suspend)
    shut.wait_for(1)
    pair.device.message(message)
    shut.open()
    suspend.result()
    status = pair.device.clone_status()
    if message == "pause":
        # The job that hung, and none after it.
        assert (status.state, status.health, status.dirty) == ("paused", "ok", 9)
        assert "the rest could not be copied" in kernel_log.text()
    else:
        pair.check_finished("with a start")
    check_usable(pair)


def test_pause_at_any_time(rig: Rig, kernel_log: Guard, brief: bool) -> None:
    """`pause` at whatever moment of such a suspend: it ends, complete or paused."""
    kernel_log.allow(GAVE_UP)
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=FEATURES)
    pair.device.start_and_wait()
    pair.device.tune("rate", 1)
    outcomes = set()
    for number in range(8 if brief else 40):
        pair.write_regions(f"rest{number}", 10, 20, 30)
        pair.device.start()
        pair.device.finish()
        suspend = rig.background(pair.device.suspend)
        if number % 4:
            wait_until(lambda call=suspend: pair.device.suspended or not call.running, "the call")
        pair.device.pause()
        suspend.result()
        status = pair.device.clone_status()
        assert status.state in ("complete", "paused")
        # Where the last flush was not sent any more, nothing is dirty and it is not complete.
        assert status.dirty == 0 or status.state == "paused"
        outcomes.add(status.state)
        pair.device.resume()
    pair.device.suspend()
    check_usable(pair)
