# SPDX-License-Identifier: GPL-2.0
"""Targets eight deep that all copy, swap on a device that is being copied or mirrored, and copying
while memory is short: nothing waits for itself, and all is equal in the end.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice
from harness.command import read_text, write_text
from harness.data import SECTOR, assert_same, stamped
from harness.disk import Disk
from harness.fio import STEADY
from harness.hog import hog, memory, reclaimed
from harness.image import Image, assert_same_disks
from harness.rig import Rig
from harness.swap import in_memory, swap_on, swap_used, swapping
from harness.track import Pair
from harness.wait import wait_until

DEEP = 8
FEATURES = ("depth", 2, "batch", 128)


def stacked(rig: Rig, features: tuple) -> tuple[list[CloneDevice], list[Disk]]:
    """Targets whose backing device is the one below, and all disks: that at the bottom, and the
    clone of each."""
    disks = [rig.null_blk(2) for _ in range(DEEP + 1)]
    below, stack = disks[0], []
    for clone in disks[1:]:
        stack.append(rig.clone(below, clone, features=features))
        below = stack[-1].disk
    return stack, disks


def test_eight_deep(rig: Rig) -> None:
    """Each target's backing device is the target below it, and each copies to a clone of its own
    while fio writes at the top. Suspended from the top, each copies its rest: all are equal."""
    stack, (bottom, *clones) = stacked(rig, (*TRACK, *FEATURES))
    load = rig.fio(stack[-1].disk, size="2m", **STEADY)
    load.wait_for_load()
    for device in stack:
        device.start()
    stack[0].wait_for(lambda status: status.counters["copied"] >= 2048, "on the way")
    for _ in range(2):
        for device in reversed(stack):
            device.suspend()
        for device in stack:
            device.resume()
    for device in reversed(stack):
        device.finish()
        device.suspend()
        assert device.clone_status().state == "complete", device.name
    for clone in clones:
        assert_same_disks(bottom, clone, "a level of the stack")
    for device in stack:
        device.resume()
    load.finish()


def test_eight_deep_on_the_clones_side(rig: Rig) -> None:
    """Each target's clone is the target below it: a write of the copy at the top is a user's write
    in all others, which copy it on, until the last clone has it."""
    source = Image(rig.null_blk(2), "source")
    disks = [rig.null_blk(2) for _ in range(DEEP)]
    below, stack = disks[0], []
    for disk in (*disks[1:], source.disk):
        stack.append(rig.clone(disk, below, features=(*TRACK, *FEATURES)))
        below = stack[-1].disk
    for device in stack:
        device.start()
    # From the top: what a level still writes is dirty in the one below.
    for device in reversed(stack):
        device.wait_complete(60)
        device.finish()
        device.suspend()
        assert device.clone_status().state == "complete", device.name
    for disk in disks:
        assert_same_disks(source.disk, disk, "a level of the stack")
    for device in stack:
        device.resume()


def test_eight_mirrors_deep(rig: Rig) -> None:
    """Each target mirrors the target below it: a write at the top ends when it is on all clones,
    which are equal whenever the stack is suspended."""
    stack, (bottom, *clones) = stacked(rig, FEATURES)
    load = rig.fio(stack[-1].disk, size="2m", **STEADY)
    load.wait_for_load()
    for device in stack:
        device.start()
    for device in stack:
        device.wait_complete(60)
    for _ in range(2):
        for device in reversed(stack):
            device.suspend()
            assert device.clone_status().state == "complete", device.name
        for clone in clones:
            assert_same_disks(bottom, clone, "a level of the stack")
        for device in stack:
            device.resume()
    load.finish()


@pytest.mark.parametrize("mode", ["track", "mirror"])
def test_swap(rig: Rig, mode: str, brief: bool) -> None:
    """Pages go out and come back right while the device is copied, suspended, resumed and
    finished."""
    pair = Pair(rig, rig.null_blk(16), rig.null_blk(16), features=FEATURES, mode=mode)
    with swap_on(pair.device.disk):
        with swapping(8, 1 if brief else 2) as process:
            wait_until(lambda: swap_used() > (4 << 10), "pages to go out")
            pair.device.start()
            while process.poll() is None:
                assert pair.device.finish_and_suspend().state == "complete"
                pair.device.resume()
        assert pair.device.info().open_count == 1
        pair.finish("with pages swapped out")
        pair.device.resume()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["track", "mirror"])
@pytest.mark.parametrize("queue", [{}, {"irqmode": 2}], ids=["plain", "timer"])
def test_memory_pressure(rig: Rig, queue: dict, mode: str) -> None:
    """More is taken than the machine has, and it is swapped out through a device that is being
    copied: all gets on, and the copy completes."""
    disks = [rig.null_blk(96, **queue) for _ in range(2)]
    pair = Pair(rig, *disks, features=FEATURES, mode=mode)
    available = memory("MemAvailable") >> 10
    with swap_on(pair.device.disk):
        pair.device.start()
        with swapping(available + 48, 3) as process:
            wait_until(lambda: swap_used() > (8 << 10), "pages to go out", 120)
            while process.poll() is None:
                pair.device.suspend(lockfs=False)
                pair.device.resume()
                pair.device.wait_for(lambda status: status.health == "ok", "fine")
    pair.device.wait_complete(120)
    # A piece at a time: whole disks would not fit.
    assert_same_disks(*disks, "after swapping")


@contextlib.contextmanager
def many_dirty_pages() -> Iterator[None]:
    """Nobody writes back before half of the memory that is left is dirty: who needs some waits for
    that."""
    settings = [Path("/proc/sys/vm") / name for name in ("dirty_background_ratio", "dirty_ratio")]
    before = [read_text(path) for path in settings]
    for path, percent in zip(settings, (40, 60), strict=True):
        write_text(path, percent)
    try:
        yield
    finally:
        for path, value in zip(settings, before, strict=True):
            write_text(path, value)


@pytest.mark.long
@pytest.mark.parametrize("stable", [False, True])
def test_writeback_makes_memory_free(rig: Rig, stable: bool) -> None:
    """Through the page cache more is written to a complete mirror than there is memory left: that
    becomes free as the pages are written to both devices, which stay equal."""
    # For each block there is a buffer head.
    size, left = 120, 32
    features = (*FEATURES, "stable") if stable else FEATURES
    disks = [rig.null_blk(size, blocksize=4096) for _ in range(2)]
    # They have all the memory that they need before it is short.
    for sector in range(0, disks[0].sectors, 2048):
        io.write(disks[0], sector, stamped("old", sector, 2048))
    device = rig.clone(*disks, features=("mode", "mirror", *features))
    device.start_and_wait()
    write_text("/proc/sys/vm/drop_caches", 3)
    # This process is not to wait for its own program to be read again and again.
    with many_dirty_pages(), in_memory(), hog(memory("MemFree") - (left << 10)):
        before, written = reclaimed(), 0
        fd = os.open(device.disk.path, os.O_WRONLY)
        try:
            # In pages: half of what was left.
            while reclaimed() - before < left << 20 >> 13:
                assert written < device.disk.sectors, "nothing had to be made free"
                data = stamped("cached", written, 2048)
                assert os.pwrite(fd, data, written * SECTOR) == len(data)
                written += 2048
            os.fsync(fd)
        finally:
            os.close(fd)
    status = device.clone_status()
    assert (status.state, status.health, status.dirty) == ("complete", "ok", 0)
    for sector in range(0, written, 2048):
        wanted = stamped("cached", sector, 2048)
        assert_same(wanted, io.read(disks[0], sector, 2048), "what was written", sector)
    assert_same_disks(*disks, "both sides of the mirror")
