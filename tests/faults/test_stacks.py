# SPDX-License-Identifier: GPL-2.0
"""The target on itself, eight deep, with I/O and copies on all levels; and swap on it: nothing
waits for itself.
"""

import subprocess
import sys
import time

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice
from harness.data import stamped
from harness.disk import Disk
from harness.fio import STEADY
from harness.image import Image, assert_same_disks
from harness.rig import Rig
from harness.swap import swap_on, swap_used, swapping
from harness.wait import wait_until

DEEP = 8
LENGTH = 4096
FEATURES = (*TRACK, "depth", 2, "batch", 128)


def test_eight_deep(rig: Rig) -> None:
    """Each target's backing device is the one below it: user I/O goes through all of them while
    every one copies to a clone of its own. Then all are equal, and go from the top."""
    bottom = Image(rig.null_blk(size=4), "bottom")
    images = [Image(rig.null_blk(size=4), f"clone{number}") for number in range(DEEP)]
    stack: list[CloneDevice] = []
    below = bottom.disk
    for image in images:
        stack.append(rig.clone(below, image.disk, features=FEATURES))
        below = stack[-1].disk
    load = rig.fio(stack[-1].disk, **STEADY | {"offset": "2m", "size": "2m"})
    load.wait_for_load()
    for _ in range(3):
        for device in stack:
            device.copy(0, LENGTH)
        for device in reversed(stack):
            device.suspend()
        for device in stack:
            device.resume()
    load.finish()
    data = stamped("top", 1000, 500)
    io.write(stack[-1].disk, 1000, data)
    bottom.expect(1000, data)
    for device, image in zip(stack, images, strict=True):
        device.wait_idle()
        device.copy_and_wait(0, LENGTH)
        image.expect_copy(0, bottom, 0, LENGTH)
        # Where fio wrote, only the other half was copied.
        assert io.read(image.disk, 0, LENGTH) == image.content(0, LENGTH), device.name
    for device in reversed(stack):
        device.remove()


def test_eight_deep_on_the_clones_side(rig: Rig) -> None:
    """Each target's clone is the device below it, so that a copy is a user's write there: a whole
    copy on each level, from the top, brings the top's data to the bottom."""
    source = Image(rig.null_blk(size=2), "source")
    last = Image(rig.null_blk(size=2), "last")
    stack: list[CloneDevice] = []
    below = last.disk
    for _ in range(DEEP):
        stack.append(rig.clone(rig.null_blk(size=2), below, features=FEATURES))
        below = stack[-1].disk
    top = rig.clone(source.disk, below, features=FEATURES)
    for _ in range(2):
        top.copy(0, LENGTH)
        for device in reversed(stack):
            device.copy(0, LENGTH)
    for device in (top, *reversed(stack)):
        device.wait_idle()
        device.copy_and_wait(0, LENGTH)
    last.expect_copy(0, source, 0, LENGTH)
    last.check("the data of the top")
    for device in (top, *reversed(stack)):
        device.remove()


def test_swap(rig: Rig, brief: bool) -> None:
    """Pages go out to a target and come back right, again and again, while it copies, is suspended,
    copies the rest inside of the suspend and is resumed; with swap on it, it can't be removed. At
    the end the clone has all of it."""
    device, *disks = swap_device(rig, 32)
    with swap_on(device.disk):
        device.start()
        with swapping(16 if brief else 24, 1 if brief else 4) as process:
            wait_until(lambda: swap_used() > (8 << 10), "pages to go out")
            while process.poll() is None:
                device.finish()
                device.suspend()
                device.resume()
                time.sleep(0.1)
        assert device.info().open_count == 1
        status = device.finish_and_suspend()
        assert (status.state, status.health) == ("complete", "ok")
        assert_same_disks(*disks, "the swap device and its clone")
        device.resume()


def swap_device(rig: Rig, size: int, **queue: object) -> tuple[CloneDevice, Disk, Disk]:
    """A target, and its disks: their memory is allocated here, not when a page is swapped out."""
    images = [Image(rig.null_blk(size=size, **queue), name) for name in ("backing", "clone")]
    backing, clone = (image.disk for image in images)
    return rig.clone(backing, clone, features=FEATURES), backing, clone


# A process that takes memory until so much is swapped out, and then looks at all of it.
PRESSING = """
import mmap, sys
def used():
    return sum(int(line.split()[3]) for line in open("/proc/swaps").readlines()[1:])
goal = int(sys.argv[1]) << 10
step = 2 << 20
pieces = []
while used() < goal:
    piece = mmap.mmap(-1, step)
    for start in range(0, step, 4096):
        piece[start:start + 16] = b"%08d%08d" % (len(pieces), start)
    pieces.append(piece)
print("swapped", len(pieces), flush=True)
for _ in range(2):
    for number, piece in enumerate(pieces):
        for start in range(0, step, 4096):
            assert piece[start:start + 16] == b"%08d%08d" % (number, start), (number, start)
print("right", flush=True)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("queue", [{}, {"irqmode": 2}], ids=["plain", "timer"])
def test_memory_pressure(rig: Rig, queue: dict) -> None:
    """All of the machine's memory is taken, so that the kernel has to swap out through a target to
    get on, while that one copies the swapped pages: all gets on, and all pages come back right."""
    device = swap_device(rig, 64, **queue)[0]
    with swap_on(device.disk):
        process = subprocess.Popen(
            [sys.executable, "-c", PRESSING, "48"], stdout=subprocess.PIPE, text=True
        )
        try:
            while process.poll() is None:
                device.wait_idle(timeout=120)
                device.copy(0, device.disk.sectors)
            text = process.stdout.read()
            assert text.startswith("swapped")
            assert text.endswith("right\n")
        finally:
            process.kill()
            process.wait(60)
        assert device.wait_idle().health == "ok"
