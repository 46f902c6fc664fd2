# SPDX-License-Identifier: GPL-2.0
"""Memory: none is allocated by the copying, however long it goes on; where a message that needs
some gets none, all stays as it was; and what a device has had is there again when it has gone.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.allocations import Allocations
from harness.clone_rs import TRACK, CloneDevice, Status, clone_table
from harness.command import read_text, write_text
from harness.dm_ioctl import DmError
from harness.fault_injection import Code, allocations_below, fail_nth, faults_below
from harness.fio import STEADY
from harness.hog import hog, memory
from harness.kernel_log import Guard
from harness.refusals import OURS, allow_refusals, refused
from harness.rig import Rig
from harness.track import Pair
from harness.wait import DEBUG_KERNEL, wait_until

LENGTH = 4096
# More than any test needs.
ENDLESS = 1000000
LARGE = 1408 << 11


@contextmanager
def no_allocations() -> Iterator[None]:
    """Every allocation below the target's functions fails, in any thread; there may be none."""
    code = Code.of_module()
    faults = {"probability": 100, "times": ENDLESS}
    with (
        faults_below("failslab", code, **faults) as slab,
        faults_below("fail_page_alloc", code, **faults) as pages,
    ):
        yield
        failed = [ENDLESS - int(read_text(folder / "times")) for folder in (slab, pages)]
    assert failed == [0, 0], "allocations of the copying"


def test_passes_under_load(rig: Rig, brief: bool) -> None:
    """One pass after the other while fio writes, pauses, suspends and a finish."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("batch", 64))
    load = rig.fio(pair.device.disk, size="1m", **STEADY)
    load.wait_for_load()
    with no_allocations():
        pair.device.start()
        again = (1 if brief else 4) * LENGTH
        pair.device.wait_for(lambda status: status.counters["recopied"] >= again, "copying")
        pair.device.pause()
        pair.device.suspend()
        pair.device.resume()
        pair.device.start()
        pair.finish("without memory")
        pair.device.resume()
    load.finish()


@pytest.mark.parametrize(
    "batch", [128, pytest.param(8, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_many_jobs(rig: Rig, batch: int, brief: bool) -> None:
    """Twenty thousand jobs, and in the long tier as many as an hour has at 100 MiB a second: none
    allocates anything. The disks store nothing, and take a batch as one bio: what splits bios
    allocates the pieces."""
    length = LARGE // 8 if brief else LARGE
    disks = [rig.null_blk(length >> 11, memory_backed=0) for _ in range(2)]
    device = rig.clone(*disks, features=(*TRACK, "region_size", 8, "depth", 32, "batch", batch))
    assert all(batch <= 2 * int(disk.queue("max_sectors_kb")) for disk in disks)
    with no_allocations():
        status = device.start_and_wait(800)
    assert status.counters["copied"] == length
    assert brief or LARGE // batch >= 20000


def tuned(device: CloneDevice, name: str, value: int) -> Callable[[], None]:
    """A message as a call."""
    return lambda: device.tune(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 12),
        pytest.param("depth", 2, marks=pytest.mark.long),
        ("batch", 256),
        pytest.param("batch", 8, marks=pytest.mark.long),
    ],
)
def test_tuning_without_memory(rig: Rig, kernel_log: Guard, name: str, value: int) -> None:
    """Each allocation of `depth` and `batch` fails once, while copying goes on: it is ENOMEM, the
    old values stay, nothing is lost; without a fault the message works."""
    kernel_log.allow(OURS + "message refused")
    features = ("region_size", 8, "depth", 4, "batch", 64, "rate", 2000)
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=features)
    pair.device.start()
    before = pair.device.clone_status().tunables
    refusals = 0
    with allocations_below(Code.of_module()), Allocations() as allocations:
        for number in range(1, 1000):
            outcome = fail_nth(number, tuned(pair.device, name, value))
            if outcome.error is not None:
                refusals += 1
                assert outcome.error.errno == errno.ENOMEM
                assert pair.device.clone_status().tunables == before
            else:
                pair.device.tune(name, before[name])
            if not outcome.injected:
                break
        pair.device.pause()
        pair.device.suspend()
        pair.device.remove()
    assert refusals >= 1
    assert not allocations.ours, "lost memory, by who allocated it"


def test_reload_without_memory(rig: Rig, kernel_log: Guard) -> None:
    """Each allocation of the resume that changes tables fails once, the core's own as well: the
    state is taken over, or the resume fails; the next one then works, with that state or all
    dirty."""
    kernel_log.allow("^device-mapper: ")
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("depth", 1, "batch", 8))
    before = pair.device.start_and_wait()
    failed = 0
    for number in range(1, 200):
        pair.device.load(pair.table)
        pair.device.suspend()
        with allocations_below(Code.of_function("ctl_ioctl", "dm_ctl_ioctl")):
            outcome = fail_nth(number, pair.device.resume)
        if outcome.error is not None:
            failed += 1
            assert outcome.error.errno == errno.ENOMEM
            pair.device.resume()
        status = pair.device.clone_status()
        if (status.state, status.in_sync) != (before.state, before.in_sync):
            check_honest(status)
            pair.device.start_and_wait()
        if not outcome.injected:
            break
    assert status.state == "complete"
    pair.expect_copy()
    pair.check("after many reloads")


def check_honest(status: Status) -> None:
    """Nothing is known."""
    assert (status.state, status.in_sync, status.dirty) == ("idle", 0, status.total)


def free() -> int:
    """KiB that nobody needs: free memory after caches were dropped."""
    write_text("/proc/sys/vm/drop_caches", 3)
    return memory("MemFree")


def test_others_have_the_memory(rig: Rig, kernel_log: Guard) -> None:
    """Regions that are within the bound, but more than what is free: ENOMEM, and nobody is killed
    for them."""
    allow_refusals(kernel_log)
    # A byte each, together a sixteenth to an eighth of the memory.
    regions = 1 << (memory("MemTotal") * 1024 // 8).bit_length() - 1
    disks = [rig.mapped(f"0 {8 * regions} zero").disk for _ in range(2)]
    features = (*TRACK, "region_size", 8, "depth", 1, "batch", 8)
    table, device = clone_table(*disks, features=features), rig.clone_of(None)
    device.load(table)
    device.clear()
    with hog(memory("MemAvailable") - (regions // 2 >> 10)):
        error = refused(device, table)
        assert error.errno == errno.ENOMEM
    device.load(table)


@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=pytest.mark.long)])
def test_memory_comes_back(rig: Rig, rounds: int, brief: bool) -> None:
    """Devices that are made, copied under load, tuned, reloaded and removed, again and again:
    memory is what it was but for the noise; what one of them has is a hundred times that."""
    if brief:
        rounds = 2
    disks = [rig.null_blk(2) for _ in range(2)]
    table = clone_table(*disks, features=(*TRACK, "region_size", 8, "batch", 8192))

    def cycle() -> int:
        device = rig.clone_of(table)
        device.start_and_wait()
        device.tune("depth", 12)
        device.tune("depth", 8)
        device.tune("batch", 4096)
        device.reload(table)
        left = free()
        device.remove()
        return left

    # The list of all targets grows once.
    cycle()
    with Allocations() as allocations:
        cycle()
    assert not allocations.lost, "lost memory, by who allocated it"
    for _ in range(3):
        cycle()
    before = free()
    during = min(cycle() for _ in range(rounds))
    assert before - during >= 24 << 10, "that would not be seen"
    # KASAN keeps what was freed for a while, so that counters of memory tell nothing there.
    if not DEBUG_KERNEL:
        # Some of it comes back in the background.
        wait_until(lambda: before - free() < 1024 + 64 * rounds, "memory to come back")


def test_no_memory_for_a_reload(rig: Rig, kernel_log: Guard) -> None:
    """A table that is refused for want of memory leaves the live target copying."""
    kernel_log.allow(OURS)
    kernel_log.allow("^device-mapper: (table|ioctl): |^workqueue: Failed to")
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("batch", 8, "rate", 2000))
    pair.device.start()
    refusals = 0
    with allocations_below(Code.of_module()):
        for number in range(1, 60):
            outcome = fail_nth(number, lambda: pair.device.load(pair.table))
            if isinstance(outcome.error, DmError):
                assert outcome.error.errno == errno.ENOMEM
                refusals += 1
            pair.device.clear()
    assert refusals >= 20
    pair.device.tune("rate", 0)
    assert pair.device.wait_complete().counters["copied"] == LENGTH
    pair.expect_copy()
    pair.check("beside tables that were refused")
