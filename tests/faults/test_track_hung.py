# SPDX-License-Identifier: GPL-2.0
"""Copying from or to a device that hangs: users' I/O, status and messages go on, a suspend, a
reload and a remove wait for the jobs in flight and for nothing more, and nothing is sent after
them.
"""

import errno

import pytest

from harness import io, module
from harness.clone_rs import linear_table
from harness.dm import Device
from harness.fio import STEADY
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

DEPTH = 4
REGION = 64
FEATURES = ("region_size", REGION, "depth", DEPTH, "batch", REGION)
SIDES = ["backing", "clone"]
ENDS = [
    "suspend",
    pytest.param("noflush", marks=pytest.mark.long),
    pytest.param("reload", marks=pytest.mark.long),
    "remove",
]


class Hung:
    """A pair that was started, and a side of it that does not answer."""

    def __init__(self, rig: Rig, side: str):
        self.pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=FEATURES, gated=True)
        self.gate: Device = {"backing": self.pair.backing_gate, "clone": self.pair.clone_gate}[side]
        self.trace = rig.bio_trace(*self.pair.below)
        shut = rig.shut(self.gate)
        self.pair.device.start()
        shut.wait_for(DEPTH)

    def check_quiet(self) -> None:
        """No bio is on its way, and none comes."""
        self.trace.clear()
        assert_quiet(self.pair.backing.disk, self.pair.clone.disk)
        assert not any(self.trace.bios(disk) for disk in self.pair.below)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("side", SIDES)
def test_ends(rig: Rig, side: str, end: str) -> None:
    """It waits for the jobs in flight, which begin nothing new, and after it there is no I/O; what
    they had is copied later."""
    hung = Hung(rig, side)
    pair, device = hung.pair, hung.pair.device
    reads = len(hung.trace.bios(pair.below[0]))
    if end == "reload":
        device.load(linear_table(pair.below[0]))
    noflush = end == "noflush"
    calls = {"remove": (device.remove, 60), "reload": (device.suspend,)}
    waiting = rig.background(*calls.get(end, (device.suspend, noflush)))
    waiting.wait_until_in("presuspend")
    assert_quiet(pair.backing.disk, pair.clone.disk)
    assert waiting.running
    hung.gate.resume()
    waiting.result()
    assert len(hung.trace.bios(pair.below[0])) == reads
    # What had been read only is not written any more.
    assert len(hung.trace.bios(pair.below[1])) == (DEPTH if side == "clone" else 0)
    if end == "remove":
        hung.check_quiet()
        assert module.unload() == "", "something holds the module"
        module.load()
        return
    status = device.clone_status()
    assert (status.state, status.copying, status.health) == ("copying", 0, "ok")
    hung.check_quiet()
    device.resume()
    if end == "reload":
        hung.check_quiet()
        assert io.read(device.disk) == pair.backing.content()
        return
    device.wait_complete()
    pair.expect_copy()
    pair.check("after it went on")


def test_users_go_on(rig: Rig, kernel_log: Guard) -> None:
    """With a clone that hangs: users' writes are done and verified, and each message is answered.
    The module can't be unloaded. When the clone answers all is copied."""
    kernel_log.allow(OURS + "message refused")
    hung = Hung(rig, "clone")
    device = hung.pair.device
    load = rig.fio(device.disk, size="2m", **STEADY)
    load.wait_for_load()
    device.pause()
    assert device.clone_status().copying == DEPTH
    device.start()
    for name, value in (("depth", 16), ("depth", 1), ("batch", 128), ("rate", 10), ("rate", 0)):
        device.tune(name, value)
    device.skip(0, REGION)
    device.copy(0, REGION)
    assert device.errors().failures == []
    assert "in use" in module.unload()
    load.finish()
    hung.gate.resume()
    device.wait_complete()
    hung.pair.check_equal("after it answered")


@pytest.mark.parametrize("side", SIDES)
def test_signal_during_a_suspend(rig: Rig, side: str) -> None:
    """Where users' I/O hangs as well a signal ends the suspend, and copying goes on when the device
    answers. Where only jobs hang they are waited for."""
    hung = Hung(rig, side)
    pair, device = hung.pair, hung.pair.device
    if side == "backing":
        read = rig.background(io.read, device.disk, 0, 8)
        wait_until(lambda: device.disk.counters().in_flight, "the read to be in flight")
    child = rig.suspend_in_child(device)
    wait_until(child.asleep_in_kernel, "the suspend")
    child.interrupt()
    if side == "backing":
        assert child.errno() == errno.EINTR
        assert not device.suspended
        assert read.running
    assert_quiet(pair.backing.disk, pair.clone.disk)
    hung.gate.resume()
    if side == "clone":
        assert child.errno() == 0
        assert device.clone_status().copying == 0
        device.resume()
    device.wait_complete()
    pair.expect_copy()
    pair.check("after a signal")


@pytest.mark.parametrize("armed", [False, True])
def test_signals_under_load(rig: Rig, armed: bool) -> None:
    """Suspends that wait for users' I/O are interrupted while fio writes and copying goes on, as
    they do after that. A `finish` holds for the next suspend."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=FEATURES, gated=True)
    device = pair.device
    load = rig.fio(device.disk, **STEADY)
    load.wait_for_load()
    device.start()
    if armed:
        device.finish()
    for _ in range(2):
        shut = rig.shut(pair.backing_gate)
        read = rig.background(io.read, device.disk, 0, 8)
        wait_until(
            lambda shut=shut: any((bio.sector, bio.count) == (0, 8) for bio in shut.held()),
            "a user's bio to hang",
        )
        child = rig.suspend_in_child(device)
        if armed:
            child.wait_until_waiting()
        else:
            # For jobs, or for users.
            wait_until(child.asleep_in_kernel, "the suspend")
        child.interrupt()
        assert child.errno() == errno.EINTR
        assert not device.suspended
        assert read.running
        before, writes = device.clone_status(), device.disk.counters().writes
        shut.open()
        read.result()
        device.wait_for(
            lambda now, before=before: now.counters["copied"] > before.counters["copied"], "copying"
        )
        wait_until(lambda writes=writes: device.disk.counters().writes > writes, "fio to go on")
    if not armed:
        device.finish()
    device.suspend()
    pair.check_finished("the next suspend")
    device.resume()
    load.finish()


@pytest.mark.parametrize("end", ENDS)
def test_fails_at_last(rig: Rig, kernel_log: Guard, end: str) -> None:
    """A clone that hangs, and then gives errors for all that was sent: the call in the background
    ends as well, and the clone gets nothing more."""
    kernel_log.allow(OURS + "(copy: |clone device )")
    hung = Hung(rig, "clone")
    pair, device = hung.pair, hung.pair.device
    noflush = end == "noflush"
    if end == "reload":
        device.load(pair.table)
    calls = {"remove": (device.remove, 60), "reload": (device.suspend,)}
    waiting = rig.background(*calls.get(end, (device.suspend, noflush)))
    waiting.wait_until_in("presuspend")
    assert_quiet(pair.backing.disk, pair.clone.disk)
    hung.gate.load(f"0 {hung.gate.disk.sectors} error")
    hung.gate.resume()
    waiting.result()
    hung.check_quiet()
    if end == "remove":
        return
    device.resume()
    hung.check_quiet()
    status = device.clone_status()
    assert (status.state, status.health) == ("paused", "detached")
    assert status.counters["clone_errors"] == DEPTH * REGION
    hung.gate.reload(linear_table(pair.clone.disk))
    device.start_and_wait()
    pair.expect_copy()
    pair.check("after a hang and errors")
