# SPDX-License-Identifier: GPL-2.0
"""Once a table is loaded nothing is allocated any more by the target: not for the user's I/O, not
for messages, status, suspend and resume, and not for the copy, which goes on without any memory.
"""

import errno
import os
from collections.abc import Callable

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, clone_table
from harness.command import read_text
from harness.data import stamped
from harness.disk import Disk
from harness.dm_ioctl import DmError
from harness.fault_injection import (
    Code,
    allocations_below,
    count_allocations,
    fail_nth,
    faults_below,
)
from harness.image import Image
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig

POLICY = ("depth", 4, "batch", 128, "strict_discard", "on_read_error", "skip")
FEATURES = (*TRACK, *POLICY)
LENGTH = 4096
# What `calls` writes, in sectors.
WRITTEN = 300
# More than any test needs.
ENDLESS = 1000000


def calls(device: CloneDevice) -> dict[str, Callable[[], object]]:
    """What is done with a device that has a table, in this order."""

    def bad_message() -> None:
        with pytest.raises(DmError):
            device.message("nonsense")

    def on_node(function: Callable[[int], object]) -> Callable[[], object]:
        def with_node() -> None:
            with io.direct(device.disk) as fd:
                function(fd)

        return with_node

    return {
        "status": device.status,
        "table": device.table_text,
        "copy": lambda: device.copy(0, 1024),
        "skip": lambda: device.skip(1024, 512),
        "start": device.start,
        "rate": lambda: device.tune("rate", 1 << 20),
        "finish": device.finish,
        "finish in a suspend": device.suspend,
        "resume after it": device.resume,
        "errors": device.errors,
        "pause": device.pause,
        "bad message": bad_message,
        "suspend": device.suspend,
        "status while suspended": device.status,
        "resume": device.resume,
        "noflush suspend": lambda: device.suspend(noflush=True),
        "resume again": device.resume,
        "read": on_node(lambda fd: io.pread(fd, 3, 300)),
        "write": on_node(lambda fd: io.pwrite(fd, 7, stamped("user", 7, WRITTEN))),
        "fsync": on_node(os.fsync),
        "discard": on_node(lambda fd: io.range_ioctl(fd, io.BLKDISCARD, 8, 800)),
        "write zeroes": on_node(lambda fd: io.range_ioctl(fd, io.BLKZEROOUT, 8, 800)),
        "suspend for a reload": device.suspend,
        "taking the state over": device.resume,
        "remove": device.remove,
    }


@pytest.mark.parametrize(
    "mode",
    [TRACK, ("mode", "mirror"), ("mode", "mirror", "stable")],
    ids=["track", "mirror", "stable"],
)
def test_calls_allocate_nothing(rig: Rig, kernel_log: Guard, mode: tuple) -> None:
    """Below the target's own functions no allocation is made by any call, also where it reaches the
    clone; by loading a table some are, which shows that they would be counted."""
    kernel_log.allow(OURS)
    backing, clone = rig.null_blk(size=4, discard=1), rig.null_blk(size=4)
    device = rig.clone_of(None)
    table = clone_table(backing, clone, features=(*mode, *POLICY))
    with allocations_below(Code.of_module()):
        assert count_allocations(lambda: device.load(table)) > 20
        made = {"first resume": count_allocations(device.resume)}
        for name, function in calls(device).items():
            if name == "taking the state over":
                device.load(table)
            written = clone.counters().sectors_written
            made[name] = count_allocations(function)
            if name == "write":
                mirrored = clone.counters().sectors_written - written
                assert mirrored == (0 if mode == TRACK else WRITTEN)
    kernel_log.expect("the state of the table before is kept")
    assert not any(made.values()), made


@pytest.mark.parametrize("call", ["status", "table", "copy", "suspend", "resume"])
def test_the_core_has_no_memory(rig: Rig, kernel_log: Guard, call: str) -> None:
    """Each allocation of the whole ioctl fails once: it is ENOMEM and changes nothing, or works."""
    kernel_log.allow("device-mapper: ioctl: Failed to split target message parameters")
    device = rig.clone(rig.null_blk(size=2), rig.null_blk(size=2), features=FEATURES)
    for number in range(1, 100):
        suspended = call == "resume"
        if suspended:
            device.suspend()
        before = device.clone_status()
        with allocations_below(Code.of_function("ctl_ioctl", "dm_ctl_ioctl")):
            outcome = fail_nth(number, calls(device)[call])
        if outcome.error is not None:
            assert outcome.injected
            assert outcome.error.errno == errno.ENOMEM
            assert device.clone_status() == before
            assert device.suspended == suspended
        if device.suspended:
            device.resume()
        status = device.wait_idle()
        copied = 1024 if call == "copy" and outcome.error is None else 0
        assert status.counters["copied"] == before.counters["copied"] + copied
        if not outcome.injected:
            break


# What allocates below the target when it submits a bio: pieces of a bio that is split, clones of
# bios that dm makes. All of that is from pools, as it has to be.
BELOW: dict[str, Callable[[Rig, Disk], Disk]] = {
    "null_blk": lambda rig, disk: disk,
    "dm-linear": lambda rig, disk: rig.linear(disk).disk,
    "dm-linear-twice": lambda rig, disk: rig.linear(rig.linear(disk).disk).disk,
}


@pytest.mark.parametrize(
    ("below", "queue", "fails"),
    [
        ("null_blk", {}, False),
        ("null_blk", {"max_sectors": 16}, True),
        ("null_blk", {"irqmode": 2}, False),
        ("dm-linear", {}, True),
        ("dm-linear-twice", {"max_sectors": 16}, True),
    ],
    ids=["plain", "split", "timer", "dm", "dm-split"],
)
def test_copy_without_memory(rig: Rig, below: str, queue: dict, fails: bool) -> None:
    """Every allocation fails that is made below the target's functions, in whatever thread: the
    copy ends, without an error, and is right. `fails` is whether there are any."""
    images = [Image(rig.null_blk(size=2, **queue), name) for name in ("backing", "clone")]
    backing, clone = (BELOW[below](rig, image.disk) for image in images)
    device = rig.clone(backing, clone, features=FEATURES)
    faults = {"probability": 100, "times": ENDLESS}
    code = Code.of_module()
    with (
        faults_below("failslab", code, **faults) as slab,
        faults_below("fail_page_alloc", code, **faults) as pages,
    ):
        for _ in range(3):
            status = device.copy_and_wait(0, LENGTH)
        device.suspend()
        device.resume()
        device.copy_and_wait(0, 8)
        failed = [ENDLESS - int(read_text(folder / "times")) for folder in (slab, pages)]
    assert status.health == "ok"
    assert status.counters["copied"] == 3 * LENGTH
    images[1].expect_copy(0, images[0], 0, LENGTH)
    images[1].check("a copy without memory")
    assert any(failed) == fails, f"allocations that failed: {failed}"
