# SPDX-License-Identifier: GPL-2.0
"""Suspend, resume, reload, remove and unload: with I/O and with a copy in flight.

A "gate" is a dm-linear below the target. While it is suspended no I/O to that device ends, so a
test decides what is in flight and for how long; nothing here depends on being fast enough.
"""

import errno
import subprocess
import time

import pytest

from harness import io, module
from harness.allocations import Allocations
from harness.clone_rs import TRACK, CloneDevice, clone_table, linear_table
from harness.command import read_text, run, write_text
from harness.data import stamped
from harness.disk import Disk
from harness.dm import Device
from harness.dm_ioctl import DmError
from harness.fio import STEADY
from harness.image import Image
from harness.kernel_log import Guard
from harness.quiet import assert_quiet
from harness.rig import Rig
from harness.wait import DEBUG_KERNEL, wait_until

LENGTH = 4096
FEATURES = (*TRACK, "batch", 128, "depth", 2)


class Gated:
    """A target whose backing device and clone are behind gates."""

    def __init__(self, rig: Rig, clone: Disk | None = None):
        self._rig = rig
        self.backing = Image(rig.null_blk(size=2), "backing")
        self.clone = Image(clone or rig.null_blk(size=2), "clone")
        self.backing_gate = rig.gate(self.backing.disk)
        self.clone_gate = rig.gate(self.clone.disk)
        self.table = clone_table(self.backing_gate.disk, self.clone_gate.disk, features=FEATURES)
        self.device: CloneDevice = rig.clone_of(self.table)

    def copy_in_flight(self) -> None:
        """Ask for a copy of everything, and return when its two jobs wait for the clone."""
        shut = self._rig.shut(self.clone_gate)
        self.device.copy(0, LENGTH)
        shut.wait_for(2)

    def check_whole_copy(self) -> None:
        """The clone is equal to the backing device."""
        self.clone.expect_copy(0, self.backing, 0, LENGTH)
        self.clone.check("the whole copy")
        self.backing.check("the backing device is only read")

    def open_counts(self) -> tuple[int, int]:
        """How often the two devices below are open."""
        return self.backing_gate.info().open_count, self.clone_gate.info().open_count


@pytest.fixture
def gated(rig: Rig) -> Gated:
    """The devices of these tests."""
    return Gated(rig)


# Suspend.


@pytest.mark.parametrize("noflush", [False, True])
def test_suspend_holds_user_io(rig: Rig, gated: Gated, noflush: bool) -> None:
    """A write to the suspended device waits, reaches nothing, and is done after the resume."""
    gated.device.suspend(noflush)
    data = stamped("late", 8, 8)
    write = rig.background(io.write, gated.device.disk, 8, data)
    assert_quiet(gated.backing.disk, gated.clone.disk)
    assert write.running
    gated.device.resume(noflush)
    write.result()
    gated.backing.expect(8, data)
    gated.backing.check("a write during a suspend")


def test_suspends_under_load(rig: Rig, gated: Gated) -> None:
    """Suspends of both kinds, again and again, lose and reorder nothing that fio verifies."""
    load = rig.fio(gated.device.disk, size="2m", **STEADY)
    load.wait_for_load()
    for number in range(10):
        gated.device.suspend(noflush=bool(number % 2), lockfs=bool(number % 3))
        gated.device.resume()
    load.finish()


def test_nothing_happens_while_suspended(rig: Rig) -> None:
    """A suspend during a copy ends once the jobs in flight have ended; then there is no I/O by the
    target until the resume, after which the copy goes on and is whole."""
    gated = Gated(rig, rig.slow(2, mbps=2))
    gated.device.copy(0, LENGTH)
    wait_until(lambda: gated.device.clone_status().counters["copied"], "the copy to advance")
    gated.device.suspend()
    status = gated.device.clone_status()
    assert status.copying == 0
    assert_quiet(gated.backing.disk, gated.clone.disk)
    assert gated.device.clone_status() == status
    gated.device.resume()
    assert gated.device.wait_idle().counters["copied"] == LENGTH
    gated.check_whole_copy()


def test_suspend_waits_for_the_jobs_in_flight(rig: Rig, gated: Gated) -> None:
    """With jobs waiting for the clone, a suspend waits for exactly these, and not for the rest of
    the range."""
    gated.copy_in_flight()
    suspend = rig.background(gated.device.suspend)
    suspend.wait_until_in("presuspend")
    assert_quiet(gated.clone.disk)
    assert suspend.running, "the suspend did not wait for the copy's I/O"
    gated.clone_gate.resume()
    suspend.result()
    status = gated.device.clone_status()
    assert status.copying == 0
    # Depth 2 and batch 128.
    assert status.counters["copied"] == 2 * 128
    assert (status.state, status.in_sync) == ("copying", 2)
    assert_quiet(gated.backing.disk, gated.clone.disk)
    gated.device.resume()
    gated.device.wait_idle()
    gated.check_whole_copy()


def test_suspend_puts_back_what_was_read(rig: Rig, gated: Gated) -> None:
    """Jobs that are still reading when a suspend begins are not written after it has begun, and are
    not lost: they are read again after the resume."""
    before = gated.clone.disk.counters()
    shut = rig.shut(gated.backing_gate)
    gated.device.copy(0, LENGTH)
    shut.wait_for(2)
    suspend = rig.background(gated.device.suspend)
    suspend.wait_until_in("presuspend")
    assert_quiet(gated.backing.disk, gated.clone.disk)
    gated.backing_gate.resume()
    suspend.result()
    status = gated.device.clone_status()
    assert (status.copying, status.counters["copied"]) == (0, 0)
    assert (status.state, status.dirty) == ("copying", status.total)
    assert gated.clone.disk.counters() == before
    gated.device.resume()
    assert gated.device.wait_idle().counters["copied"] == LENGTH
    gated.check_whole_copy()


def test_copy_is_refused_while_suspended(gated: Gated, kernel_log: Guard) -> None:
    """The message gets EBUSY and changes nothing."""
    kernel_log.expect(r"message refused: the device is suspended")
    gated.device.suspend()
    before = gated.device.clone_status()
    with pytest.raises(DmError) as caught:
        gated.device.copy(0, 8)
    assert caught.value.errno == errno.EBUSY
    assert gated.device.clone_status() == before
    gated.device.resume()
    assert gated.device.copy_and_wait(0, 8).counters["copied"] == 128


def test_interrupted_suspend(rig: Rig, gated: Gated) -> None:
    """A suspend that waits for user I/O is interrupted: it fails with EINTR, and the device works
    on, with user I/O and with copies (presuspend_undo)."""
    gated.backing_gate.suspend()
    read = rig.background(io.read, gated.device.disk, 0, 8)
    wait_until(lambda: gated.device.disk.counters().in_flight, "the read to be in flight")
    child = rig.suspend_in_child(gated.device)
    child.wait_until_waiting()
    child.interrupt()
    assert child.errno() == errno.EINTR
    assert not gated.device.suspended
    assert read.running
    gated.backing_gate.resume()
    assert read.result() == gated.backing.content(0, 8)
    gated.device.copy_and_wait(0, LENGTH)
    gated.check_whole_copy()


def test_interrupted_suspend_with_a_copy(rig: Rig, gated: Gated) -> None:
    """As above with a copy under way when the suspend begins: it goes on by itself."""
    gated.device.copy(0, LENGTH // 2)
    gated.device.wait_idle()
    gated.backing_gate.suspend()
    read = rig.background(io.read, gated.device.disk, 0, 8)
    wait_until(lambda: gated.device.disk.counters().in_flight, "the read to be in flight")
    gated.device.copy(LENGTH // 2, LENGTH // 2)
    wait_until(lambda: gated.device.clone_status().copying, "the copy to start")
    child = rig.suspend_in_child(gated.device)
    # The target may wait for its jobs before the core waits for the read: either will do.
    wait_until(child.asleep_in_kernel, "the suspend to wait")
    child.interrupt()
    gated.backing_gate.resume()
    assert child.errno() in (0, errno.EINTR)
    if gated.device.suspended:
        gated.device.resume()
    read.result()
    gated.device.wait_idle()
    gated.check_whole_copy()


def test_dmsetup_suspend_killed(rig: Rig, gated: Gated) -> None:
    """The same with dmsetup and SIGKILL."""
    gated.backing_gate.suspend()
    read = rig.background(io.read, gated.device.disk, 0, 8)
    wait_until(lambda: gated.device.disk.counters().in_flight, "the read to be in flight")
    child = subprocess.Popen(["dmsetup", "suspend", gated.device.name])
    rig.at_end(child.kill)
    stack = f"/proc/{child.pid}/stack"
    wait_until(lambda: "dm_wait_for_completion" in read_text(stack), "dmsetup to wait")
    child.kill()
    child.wait(10)
    assert not gated.device.suspended
    gated.backing_gate.resume()
    read.result()
    gated.device.copy_and_wait(0, LENGTH)
    gated.check_whole_copy()


# Reload.


def test_reload_under_load(rig: Rig, gated: Gated) -> None:
    """From clone-rs to dm-linear and back and to itself, while fio verifies what it wrote."""
    load = rig.fio(gated.device.disk, size="2m", **STEADY)
    load.wait_for_load()
    linear = linear_table(gated.backing_gate.disk)
    for number in range(4):
        gated.device.reload(linear, noflush=bool(number % 2))
        gated.device.reload(gated.table, noflush=bool(number % 2))
        gated.device.reload(gated.table)
    load.finish()
    assert gated.open_counts() == (1, 1)


def test_reload_to_other_devices(rig: Rig, gated: Gated) -> None:
    """After a reload the old devices get no more I/O and are closed."""
    backing = Image(rig.null_blk(size=2), "other")
    clone = Image(rig.null_blk(size=2), "clone2")
    gated.device.copy(0, LENGTH)
    gated.device.reload(clone_table(backing.disk, clone.disk, features=FEATURES))
    assert gated.open_counts() == (0, 0)
    assert_quiet(gated.backing.disk, gated.clone.disk)
    gated.device.copy_and_wait(0, LENGTH)
    clone.expect_copy(0, backing, 0, LENGTH)
    clone.check("copy to the new clone")
    assert io.read(gated.device.disk, 0, 8) == backing.content(0, 8)


def test_reload_with_a_copy_in_flight(rig: Rig, gated: Gated) -> None:
    """A reload to dm-linear waits for the jobs in flight and leaves the clone alone after that."""
    gated.copy_in_flight()
    reload = rig.background(gated.device.reload, linear_table(gated.backing_gate.disk))
    assert_quiet(gated.clone.disk)
    assert reload.running
    gated.clone_gate.resume()
    reload.result()
    assert_quiet(gated.backing.disk, gated.clone.disk)
    assert gated.open_counts() == (1, 0)


def test_refused_reload_changes_nothing(gated: Gated, kernel_log: Guard) -> None:
    """A table that is refused leaves the live one, its copy and the open counts as they are."""
    kernel_log.expect(r"device-mapper: table: .*clone-rs: ")
    kernel_log.expect(r"clone.rs: \d+:\d+: table refused: ")
    kernel_log.allow(r"device-mapper: ioctl: error adding target to table")
    gated.copy_in_flight()
    with pytest.raises(DmError) as caught:
        gated.device.load(gated.table + " nonsense")
    assert caught.value.errno == errno.EINVAL
    gated.clone_gate.resume()
    gated.device.wait_idle()
    gated.check_whole_copy()
    assert gated.open_counts() == (1, 1)


def test_cleared_table(gated: Gated) -> None:
    """A table that is loaded and thrown away gives its devices back and disturbs nobody."""
    gated.device.load(gated.table)
    gated.device.clear()
    assert gated.open_counts() == (1, 1)
    gated.device.copy_and_wait(0, LENGTH)
    gated.check_whole_copy()


# Remove and unload.


def test_remove_while_open(gated: Gated) -> None:
    """EBUSY, and everything works on."""
    with io.direct(gated.device.disk) as fd:
        with pytest.raises(DmError) as caught:
            gated.device.remove_now()
        assert caught.value.errno == errno.EBUSY
        assert io.pread(fd, 0, 8) == gated.backing.content(0, 8)
    gated.device.remove()
    assert gated.open_counts() == (0, 0)


def test_remove_with_a_copy_in_flight(rig: Rig, gated: Gated) -> None:
    """The remove waits for the jobs in flight; then the clone gets no more and is closed."""
    gated.copy_in_flight()
    remove = rig.background(gated.device.remove)
    assert_quiet(gated.clone.disk)
    assert remove.running, "removed while its own I/O was in flight"
    gated.clone_gate.resume()
    remove.result()
    assert_quiet(gated.backing.disk, gated.clone.disk)
    assert gated.open_counts() == (0, 0)


def test_remove_does_not_wait_for_the_queue(rig: Rig) -> None:
    """Asked for 32 s of copying on a slow clone, a remove takes as long as the jobs in flight."""
    backing, clone = rig.null_blk(size=32), rig.slow(32, mbps=1)
    ours = rig.clone(backing, clone, features=FEATURES)
    ours.copy(0, backing.sectors)
    wait_until(lambda: ours.clone_status().copying, "the copy to start")
    begin = time.monotonic()
    ours.remove()
    assert time.monotonic() - begin < 10
    assert_quiet(clone)


def test_forced_remove_under_load(rig: Rig, gated: Gated) -> None:
    """The table becomes one of errors under load and during a copy, as `dmsetup remove --force`
    makes it: fio fails, and the device can go."""
    load = rig.fio(gated.device.disk, rw="randwrite", bs="4k", time_based=1, runtime=60)
    load.wait_for_load()
    gated.device.copy(0, LENGTH)
    gated.device.make_errors()
    wait_until(lambda: not load.running, "fio to fail")
    run("dmsetup", "remove", "--force", gated.device.name)
    gated.device.gone = True
    assert gated.open_counts() == (0, 0)
    assert_quiet(gated.backing.disk, gated.clone.disk)


def test_create_and_remove_many_times(rig: Rig, gated: Gated, brief: bool) -> None:
    """A hundred devices come and go, each with a copy: the memory that the kernel keeps and the
    open counts are the same after it."""
    gated.device.remove()

    def once() -> None:
        device: Device = rig.clone_of(gated.table)
        device.copy(0, 512)
        device.remove()

    for _ in range(3 if brief else 10):
        once()
    with Allocations() as allocations:
        for _ in range(5):
            once()
    assert not allocations.lost, "lost memory, by who allocated it"
    before = kept_memory()
    for _ in range(3 if brief else 100):
        once()
    if not DEBUG_KERNEL:
        # 100 leaked pages would be 400 KiB; what is freed after grace periods comes back.
        wait_until(lambda: kept_memory() - before < 300, "the kernel to keep no more than before")
    assert gated.open_counts() == (0, 0)


def kept_memory() -> int:
    """KiB that the kernel can't get back: after all that it can has been dropped."""
    write_text("/proc/sys/vm/drop_caches", 3)
    wanted = {"SUnreclaim", "PageTables", "VmallocUsed", "Percpu", "KernelStack"}
    lines = [line.split() for line in read_text("/proc/meminfo").splitlines()]
    return sum(int(words[1]) for words in lines if words[0].rstrip(":") in wanted)


def test_unload_while_in_use(gated: Gated) -> None:
    """The module can't be unloaded while a table uses it, be it only an inactive one."""
    gated.copy_in_flight()
    assert "in use" in module.unload()
    gated.clone_gate.resume()
    gated.device.reload(linear_table(gated.backing_gate.disk))
    gated.device.load(gated.table)
    assert "in use" in module.unload()
    gated.device.clear()


def test_unload_and_load(rig: Rig, gated: Gated) -> None:
    """Unloaded right after the last device went with a copy in flight, and loaded again."""
    gated.device.copy(0, LENGTH)
    gated.device.remove()
    assert module.unload() == ""
    module.load()
    again = rig.clone_of(gated.table)
    again.copy_and_wait(0, LENGTH)
    gated.check_whole_copy()
