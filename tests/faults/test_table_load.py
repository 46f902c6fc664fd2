# SPDX-License-Identifier: GPL-2.0
"""Loading a table while memory is short: every single allocation on the way fails once.

Each time the table is either refused with ENOMEM, or accepted because there was another way
(smaller pieces of memory); nothing is left open, claimed, referenced or allocated, and the kernel
says no more than that. Then the same table loads, and copies.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import module
from harness.allocations import OUR_CODE, Allocations
from harness.clone_rs import TRACK, CloneDevice, clone_table
from harness.dm_ioctl import DmError
from harness.fault_injection import Code, allocations_below, fail_nth, faults_below
from harness.image import Image
from harness.kernel_log import Guard
from harness.refusals import Unused, allow_refusals, is_ours, refused
from harness.rig import Rig

LENGTH = 4096
SMALL = (*TRACK, "depth", 1, "batch", 8)
# Where no allocation fails below: creating a slab cache answers with a warning of the kernel's own.
NO_FAULTS_IN = "__kmem_cache_create_args"


class Loading:
    """A mapped device without a table, two disks, and a table for it."""

    def __init__(self, rig: Rig, log: Guard, features: tuple = SMALL):
        allow_refusals(log)
        log.allow(r"^workqueue: Failed to (allocate a rescuer|create a rescuer kthread) for wq")
        self.rig = rig
        self.backing = Image(rig.null_blk(size=2), "backing")
        self.clone = Image(rig.null_blk(size=2), "clone")
        self.device: CloneDevice = rig.clone_of(None)
        self.table = clone_table(self.backing.disk, self.clone.disk, features=features)
        self.unused = Unused((self.backing.disk, self.clone.disk))
        # The module's list of targets gets room for two, as there are at a reload.
        self.load()
        self.load()
        self.device.clear()

    def load(self) -> None:
        """Load the table, and leave it in the inactive slot."""
        self.device.load(self.table)

    def fail_each(self) -> tuple[list[DmError], int]:
        """Load the table with its first allocation failing, its second, ...; return the refusals,
        and how often it was accepted although one had failed."""
        refusals, accepted = [], 0
        for number in range(1, 100000):
            outcome = fail_nth(number, self.load)
            if isinstance(outcome.error, DmError):
                assert outcome.injected, outcome.error
                check_refused(outcome.error)
                refusals.append(outcome.error)
            else:
                assert outcome.error is None, outcome.error
                self.device.clear()
                accepted += outcome.injected
            self.unused.check()
            if not outcome.injected:
                break
        assert workers() == [], "threads of workqueues are left"
        return refusals, accepted

    def check_works(self) -> None:
        """The device can be used, and copies."""
        self.load()
        self.device.resume()
        length = self.device.disk.sectors
        self.device.copy_and_wait(0, length)
        self.clone.expect_copy(0, self.backing, 0, length)
        self.clone.check("after all the faults")
        assert len(workers()) == 2
        self.device.remove()
        self.unused.check()


def check_refused(error: DmError) -> None:
    """It is ENOMEM, told once by the core; our own line, if there is one, names a device."""
    assert error.errno == errno.ENOMEM, error
    reasons = [line for line in error.log if re.search(r"table: \d+:\d+: clone-rs: ", line)]
    assert len(reasons) <= 1, error
    known = "clone-rs: (Cannot allocate memory|Device lookup failed|couldn't split parameters) "
    assert all(re.search(known, line) for line in reasons), error
    ours = [line for line in error.log if is_ours(line)]
    assert len(ours) <= 1, error
    assert all("cannot open /dev/" in line for line in ours), error


def workers() -> list[str]:
    """The rescuer threads of the target's workqueues."""
    names = []
    for file in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = file.read_text().strip()
        except OSError:
            continue
        if name.startswith("kworker/R-clone"):
            names.append(name)
    return names


@contextmanager
def memory_is_balanced() -> Iterator[None]:
    """All that a constructor allocates inside is freed again."""
    with Allocations() as allocations:
        yield
    assert not allocations.ours, "lost memory, by who allocated it"


@pytest.mark.parametrize(
    "features",
    [SMALL, (*TRACK, "depth", 3, "batch", 256), pytest.param(TRACK, marks=pytest.mark.long)],
    ids=["small", "pieces", "default"],
)
def test_each_of_our_allocations(rig: Rig, kernel_log: Guard, features: tuple) -> None:
    """Of those that are made by the constructor, or below it."""
    loading = Loading(rig, kernel_log, features)
    with allocations_below(Code.of_module()), memory_is_balanced():
        refusals, accepted = loading.fail_each()
    assert len(refusals) >= 20, "the constructor was expected to allocate more"
    texts = " ".join(" ".join(error.log) for error in refusals)
    for disk in (loading.backing.disk, loading.clone.disk):
        assert f"cannot open {disk.path}" in texts, "no failure while this was opened"
    assert "Cannot allocate memory" in texts
    if features != SMALL:
        assert accepted, "a large piece of memory was expected to be replaced by smaller ones"
    loading.check_works()


def test_each_allocation_of_the_load(rig: Rig, kernel_log: Guard) -> None:
    """Of those of the whole ioctl: before the constructor, in it, and after its success, when the
    core throws away a target that was never resumed."""
    loading = Loading(rig, kernel_log)
    kernel_log.allow(r"^device-mapper: core: Cannot calculate initial queue limits")
    kernel_log.allow("^device-mapper: ioctl: unable to set up device queue for new table")
    kernel_log.allow(r"^device-mapper: table: (unable to allocate|could not construct|Couldn't)")
    code = Code.of_function("ctl_ioctl", "dm_ctl_ioctl")
    without = Code.of_function(NO_FAULTS_IN)
    with (
        allocations_below(code, reject_start=hex(without.start), reject_end=hex(without.end)),
        memory_is_balanced(),
    ):
        refusals, _ = loading.fail_each()
    assert len(refusals) >= 50
    texts = " ".join(" ".join(error.log) for error in refusals)
    assert "couldn't split parameters" in texts, "no failure before the constructor"
    assert "unable to allocate mempools" in texts, "no failure after the constructor"
    loading.check_works()


def test_lost_memory_is_seen(rig: Rig, kernel_log: Guard) -> None:
    """The account of memory can fail: of a table that stays loaded everything is listed that a
    constructor allocates, down to the pages; thrown away, nothing is."""
    loading = Loading(rig, kernel_log)
    with Allocations() as allocations:
        loading.load()
    names = set(allocations.ours)
    assert any(OUR_CODE.search(name) for name in names), names
    assert any(name.startswith("pages ") for name in names), names
    assert {"init_rescuer", "mempool_init_node", "dm_get_device"} <= names
    with memory_is_balanced():
        loading.load()
        loading.device.clear()


@pytest.mark.parametrize(
    ("batch", "fits"), [(8, True), (256, True), (2048, True), (2056, False), (16384, False)]
)
def test_single_pages_only(rig: Rig, kernel_log: Guard, batch: int, fits: bool) -> None:
    """Where no two pages are to be had together, a job's memory consists of single ones, as many as
    a bio can carry; a larger batch is refused, and gives back what it had got."""
    # More jobs than a slab has objects left, of those that are larger than a page.
    depth = 32 if fits else 2
    loading = Loading(rig, kernel_log, (*TRACK, "depth", depth, "batch", batch))
    faults = {"min_order": 1, "probability": 100, "times": -1}
    with faults_below("fail_page_alloc", Code.of_module(), **faults), memory_is_balanced():
        if fits:
            loading.load()
            loading.device.clear()
        else:
            error = refused(loading.device, loading.table)
            check_refused(error)
            assert any("Cannot allocate memory" in line for line in error.log), error
    if fits:
        with faults_below("fail_page_alloc", Code.of_module(), **faults):
            loading.check_works()
    loading.unused.check()


@pytest.mark.parametrize(("name", "value"), [("depth", 3), ("batch", 1024)])
def test_each_allocation_of_a_message(rig: Rig, kernel_log: Guard, name: str, value: int) -> None:
    """A larger `depth` or `batch` that finds no memory is ENOMEM and keeps the old value and all
    that it works with; once the table has gone nothing of all these is left."""
    loading = Loading(rig, kernel_log, (*TRACK, "depth", 2, "batch", 256))

    def fail_each() -> int:
        loading.load()
        loading.device.resume()
        with allocations_below(Code.of_module()):
            refusals = tune_with_faults(loading.device, name, value)
        loading.device.remove()
        return refusals

    # What is read from files the first time is not the target's.
    assert fail_each() >= 3
    loading.device = rig.clone_of(None)
    with memory_is_balanced():
        fail_each()
    loading.clone.expect_copy(0, loading.backing, 0, LENGTH)
    loading.clone.check("after all the faults")
    loading.unused.check()


def tune_with_faults(device: CloneDevice, name: str, value: int) -> int:
    """Set a tunable with the first allocation failing, the second, ...; each time it is back at
    its old value afterwards, and the device copies. Return how often it was refused."""
    before = device.clone_status().tunables
    refusals = 0
    for number in range(1, 1000):
        outcome = fail_nth(number, lambda: device.tune(name, value))
        tunables = device.clone_status().tunables
        if outcome.error is None:
            assert tunables == before | {name: value}
            device.tune(name, before[name])
        else:
            assert outcome.injected
            assert outcome.error.errno == errno.ENOMEM
            assert tunables == before
            refusals += 1
        if not outcome.injected:
            break
    assert device.copy_and_wait(0, LENGTH).state == "complete"
    return refusals


def test_unload_between_faults(rig: Rig, kernel_log: Guard) -> None:
    """After refusals the module can be unloaded, and loaded again: nothing holds it."""
    loading = Loading(rig, kernel_log)
    with allocations_below(Code.of_module()):
        loading.fail_each()
    assert module.unload() == ""
    assert not os.path.exists(f"/sys/module/{module.NAME}")
    module.load()
    # Its code may be at another place now.
    with allocations_below(Code.of_module()):
        loading.fail_each()
    loading.check_works()
