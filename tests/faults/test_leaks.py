# SPDX-License-Identifier: GPL-2.0
"""Nothing of what the target allocates is lost: after all that can become of a device has become
of some, kmemleak finds no memory that nobody points to.

Of what is lost it sees what comes from kmalloc and vmalloc, by whoever on our behalf; whole pages
are not known to it, for these see test_table_load.py.
"""

import errno
import os
import re
import time

import pytest

from harness import io, module
from harness.clone_rs import TRACK, CloneDevice, clone_table, linear_table
from harness.command import load_module, write_text
from harness.data import stamped
from harness.disk import Disk
from harness.dm_ioctl import DmError
from harness.fault_injection import DEBUGFS, Code, allocations_below, fail_nth
from harness.kernel_log import Guard
from harness.refusals import CORE, OURS
from harness.rig import Rig
from harness.wait import wait_until

KMEMLEAK = DEBUGFS / "kmemleak"
# The least age in seconds of what kmemleak reports.
AGE = 5
LENGTH = 4096
FEATURES = (*TRACK, "depth", 4, "batch", 128)
# The module may be at other places later, and unloaded code has no names.
FRAME = re.compile(r"^    (?:\S+ \[(\w+)\]|(0x[0-9a-f]+))$", re.MULTILINE)


def lost() -> list[str]:
    """All that kmemleak holds for lost by now. It reports what did not change between two scans."""
    time.sleep(AGE)
    for _ in range(2):
        write_text(KMEMLEAK, "scan")
    return re.split(r"(?m)^(?=unreferenced object)", KMEMLEAK.read_text())[1:]


def is_from(report: str, name: str, codes: list[Code]) -> bool:
    """Whether a module's function was among the callers when this was allocated."""
    return any(
        found == name or (address and any(c.start <= int(address, 16) < c.end for c in codes))
        for found, address in FRAME.findall(report)
    )


def clone_whole(device: CloneDevice, table: str) -> None:
    """Once by a suspend, then by a mirror."""
    # Started, tuned, halted, taken over with dirty regions, compared, and finished by a suspend.
    device.start()
    device.tune("depth", 2)
    device.tune("batch", 256)
    device.pause()
    io.write(device.disk, 0, stamped("user", 0, 2000))
    device.reload(table)
    device.start_and_wait()
    device.verify()
    device.wait_for(lambda status: status.state != "verifying", "verified")
    io.write(device.disk, 0, stamped("again", 0, 2000))
    device.finish()
    device.suspend()
    assert device.clone_status().state == "complete"
    device.resume()
    # A mirror, with a flush of both.
    device.set_mode("mirror")
    device.start_and_wait()
    io.write(device.disk, 100, stamped("mirrored", 100, 2000))
    with io.direct(device.disk) as fd:
        os.fsync(fd)


def lose_clone(rig: Rig, device: CloneDevice, table: str, below: Disk) -> None:
    """The clone fails while a mirror writes to it, and while it is copied to."""
    rig.badblocks(below, 100, 107)
    io.write(device.disk, 96, stamped("lost", 96, 16))
    device.wait_for(lambda status: status.health == "detached", "detached")
    device.set_mode("track")
    errors = device.clone_status().counters["clone_errors"]
    device.start()
    device.wait_for(lambda status: status.counters["clone_errors"] > errors, "the copy to fail")
    device.wait_paused()
    device.reload(table)
    assert device.clone_status().health == "detached"


def exercise(rig: Rig) -> None:
    """A device is used in every way, and goes."""
    backing, below = rig.null_blk(size=2), rig.null_blk(size=2)
    gate = rig.gate(below)
    table = clone_table(backing, gate.disk, features=FEATURES)
    device = rig.clone_of(table)
    io.write(device.disk, 8, stamped("user", 8, 1000))
    device.copy_and_wait(0, LENGTH)
    # Reloaded, suspended and resumed while jobs are in flight and ranges wait.
    for _ in range(3):
        gate.suspend()
        device.copy(0, LENGTH)
        device.copy(8, 8)
        wait_until(lambda: device.clone_status().copying, "the copy to start")
        device.load(table)
        device.clear()
        device.load(table)
        suspend = rig.background(device.suspend)
        gate.resume()
        suspend.result()
        device.resume()
    clone_whole(device, table)
    lose_clone(rig, device, table, below)
    # Another target and back, and refusals.
    device.reload(linear_table(backing))
    device.reload(table)
    for bad in ("nonsense", "copy", f"copy {LENGTH} 8"):
        with pytest.raises(DmError):
            device.message(bad)
    for bad in (f"{table} more", table.replace("depth 4", "depth 0")):
        with pytest.raises(DmError):
            device.load(bad)
    # Removed with ranges waiting, and with a table that was never used.
    device.copy(0, LENGTH)
    device.load(table)
    device.remove()
    gate.remove()


def refuse_for_want_of_memory(rig: Rig) -> None:
    """Each allocation of a table's load fails once."""
    device = rig.clone_of(None)
    table = clone_table(rig.null_blk(size=2), rig.null_blk(size=2), features=FEATURES)
    with allocations_below(Code.of_module()):
        for number in range(1, 10000):
            outcome = fail_nth(number, lambda: device.load(table))
            if outcome.error is None:
                device.clear()
                if not outcome.injected:
                    break
            else:
                assert outcome.error.errno == errno.ENOMEM
    assert number > 20
    device.remove()


@pytest.mark.kmemleak
@pytest.mark.timeout(600)
def test_nothing_is_lost(rig: Rig, kernel_log: Guard, brief: bool) -> None:
    """Neither while the module stays loaded nor after it has gone; kmemleak's own sample shows that
    it would be seen."""
    kernel_log.allow(OURS)
    kernel_log.allow(CORE)
    kernel_log.allow(r"I/O error, dev nullb|kmemleak: |^workqueue: Failed to")
    load_module("kmemleak-test")
    codes = []
    for _ in range(1 if brief else 2):
        codes.append(Code.of_module())
        exercise(rig)
        refuse_for_want_of_memory(rig)
        reports = lost()
        assert any(is_from(report, "kmemleak_test", []) for report in reports), "kmemleak sees none"
        ours = [report for report in reports if is_from(report, module.NAME, codes)]
        assert not ours, "".join(ours)
        assert module.unload() == ""
        module.load()
    assert module.unload() == ""
    reports = lost()
    module.load()
    ours = [report for report in reports if is_from(report, module.NAME, codes)]
    assert not ours, "".join(ours)
