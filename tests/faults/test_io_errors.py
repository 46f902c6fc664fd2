# SPDX-License-Identifier: GPL-2.0
"""I/O errors during a copy: of each failed bio the sectors are counted exactly, on its side; its
run is left as it was, and dirty, and all the others are copied; no job is lost, so that suspend,
reload and remove end and a following copy of everything is whole.

Errors are the kernel's injected ones: before a bio reaches a device (fail_make_request), and in a
driver (null_blk), which also loses requests until they time out, and queues them again.
"""

import errno
from pathlib import Path

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, ErrorList, Failure, Status
from harness.command import read_text, write_text
from harness.data import SECTOR
from harness.disk import Disk
from harness.disk_factories import CONFIGFS
from harness.dm_ioctl import DmError
from harness.fault_injection import failing_requests
from harness.fio import fio
from harness.image import Image
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig
from harness.wait import wait_until

LENGTH = 8192
BATCH = 64
# Each job is one region.
FEATURES = (*TRACK, "region_size", BATCH, "depth", 8, "batch", BATCH, "on_clone_error", "stop")
SMALL = (*TRACK, "region_size", 8, "depth", 256, "batch", 8, "on_clone_error", "stop")
SIDES = {"backing": "read_errors", "clone": "clone_errors"}
ERRORS = set(SIDES.values())


class Pair:
    """A backing device and a clone with different contents, and the target above both."""

    def __init__(self, rig: Rig, log: Guard, features: tuple = FEATURES, **queue: object):
        log.allow(OURS + "(copy: |flush of clone device )")
        size = LENGTH >> 11
        self.backing = Image(rig.null_blk(size=size, **queue), "backing")
        self.clone = Image(rig.null_blk(size=size, **queue), "clone")
        self.device: CloneDevice = rig.clone(self.backing.disk, self.clone.disk, features=features)

    def disk(self, side: str) -> Disk:
        """The disk of a side."""
        return {"backing": self.backing, "clone": self.clone}[side].disk

    def keep_apart(self) -> None:
        """Let no two jobs become one request, which would fail as a whole."""
        for side in SIDES:
            self.disk(side).set_queue("nomerges", 2)

    def runs_left_out(self) -> int:
        """Compare the clone run by run: each is copied or as it was; return how many were not."""
        found = io.read(self.clone.disk)
        left_out = 0
        for sector in range(0, LENGTH, BATCH):
            run = found[sector * SECTOR : (sector + BATCH) * SECTOR]
            if run == self.clone.content(sector, BATCH):
                left_out += 1
            else:
                assert run == self.backing.content(sector, BATCH), f"a mixture at {sector}"
        return left_out

    def check_whole_copy(self, before: Status) -> None:
        """Without errors everything is copied; the old errors stay counted, no new ones come."""
        # Also a clone that could not be flushed is used again, and nothing but the copy goes on.
        self.device.suspend()
        self.device.start()
        self.device.pause()
        self.device.resume()
        status = self.device.copy_and_wait(0, LENGTH)
        assert (status.state, status.health) == ("complete", "ok")
        assert status.counters["copied"] == before.counters["copied"] + LENGTH
        for name in ERRORS:
            assert status.counters[name] == before.counters[name]
        self.clone.expect_copy(0, self.backing, 0, LENGTH)
        self.clone.check("a copy of everything after the errors")
        self.backing.check("the backing device is only read")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("probability", "times"), [(100, 1), (30, 10), (100, LENGTH // BATCH)])
def test_counters_are_exact(
    rig: Rig, kernel_log: Guard, side: str, probability: int, times: int
) -> None:
    """The sectors of as many jobs are counted as bios failed, on the side where they failed; what
    is not counted as copied was not touched, and is dirty."""
    pair = Pair(rig, kernel_log)
    pair.keep_apart()
    with failing_requests(pair.disk(side), probability=probability, times=times) as folder:
        status = pair.device.copy_and_wait(0, LENGTH)
        counted = times - int(read_text(folder / "times"))
    failed = pair.runs_left_out()
    # Two that fail at the same time may count as one where that is the last one.
    assert counted >= 1 and failed in ([counted] if counted < times else [times, times + 1])
    assert status.counters[SIDES[side]] == failed * BATCH
    assert [status.counters[name] for name in ERRORS - {SIDES[side]}] == [0]
    assert status.counters["copied"] == LENGTH - failed * BATCH
    assert (status.health, status.dirty) == ("errors", failed)
    pair.check_whole_copy(status)


def test_both_sides_at_once(rig: Rig, kernel_log: Guard) -> None:
    """Errors on both sides: together they account for all that is not copied; the flush at the end
    may fail as well, and then nothing counts as in sync."""
    pair = Pair(rig, kernel_log)
    with failing_requests(
        pair.backing.disk, pair.clone.disk, probability=25, times=LENGTH
    ) as folder:
        pair.device.copy_and_wait(0, LENGTH)
        # Its end is that of the flush, too.
        pair.device.suspend()
        failed = LENGTH - int(read_text(folder / "times"))
        status = pair.device.clone_status()
    flush_failed = Failure("clone", errno.EIO, 0, 0) in pair.device.errors().failures
    failed -= flush_failed
    assert min(errors(status)) >= BATCH
    assert sum(errors(status)) == failed * BATCH
    assert status.counters["copied"] == LENGTH - failed * BATCH
    assert status.in_sync == (0 if flush_failed else LENGTH // BATCH - failed)
    assert pair.runs_left_out() == failed
    pair.device.resume()
    pair.check_whole_copy(status)


@pytest.mark.parametrize("side", SIDES)
def test_nothing_works(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A deep pipeline where each bio fails at once: it neither hangs nor recurses, and says so in a
    few lines; the user's I/O does not notice a clone that is gone."""
    pair = Pair(rig, kernel_log, SMALL)
    with failing_requests(pair.disk(side), probability=100, times=-1):
        status = pair.device.copy_and_wait(0, LENGTH)
        if side == "clone":
            fio(pair.device.disk, rw="randread", bs="4k", size="1m")
    assert status.counters[SIDES[side]] == LENGTH
    assert (status.counters["copied"], status.in_sync) == (0, 0)
    assert len(kernel_log.records()) < 50
    pair.check_whole_copy(status)


@pytest.mark.parametrize("end", ["suspend", "noflush", "reload", "remove"])
def test_lifecycle_during_errors(rig: Rig, kernel_log: Guard, end: str) -> None:
    """While half of all bios fail and ranges wait, the device is suspended, reloaded or removed
    again and again: each of it ends, and the jobs are all there afterwards."""
    pair = Pair(rig, kernel_log, features=SMALL)
    pair.device.tune("depth", 8)
    table = pair.device.table_text()

    def counted() -> int:
        return sum(errors(pair.device.clone_status()))

    with failing_requests(pair.backing.disk, pair.clone.disk, probability=50, times=-1):
        for _ in range(4):
            before = counted()
            for start in range(0, LENGTH, LENGTH // 8):
                pair.device.copy(start, LENGTH // 8)
            wait_until(lambda: counted() > before, "an error")  # noqa: B023
            if end in ("suspend", "noflush"):
                pair.device.suspend(noflush=end == "noflush")
                assert pair.device.clone_status().copying == 0
                pair.device.resume()
            elif end == "reload":
                pair.device.reload(table)
            else:
                pair.device.remove()
                pair.device = rig.clone_of(table)
        # What is left is one pipeline's work.
        status = pair.device.wait_idle()
    assert (status.state, status.copying) == ("idle", 0)
    pair.check_whole_copy(status)


def errors(status: Status) -> list[int]:
    """Both counters of errors."""
    return [status.counters[name] for name in ERRORS]


def injected(disk: Disk, kind: str, probability: int, times: int) -> Path:
    """Set null_blk's own faults: requeue_inject, timeout_inject."""
    folder = CONFIGFS / "nullb" / disk.name / kind
    for name, value in (("verbose", 0), ("interval", 1), ("times", times)):
        write_text(folder / name, value)
    write_text(folder / "probability", probability)
    return folder


def test_requests_that_are_queued_again(rig: Rig, kernel_log: Guard) -> None:
    """A driver that can't take a request now is no error: the block layer sends it again."""
    pair = Pair(rig, kernel_log)
    for side in SIDES:
        injected(pair.disk(side), "requeue_inject", 50, LENGTH)
    status = pair.device.copy_and_wait(0, LENGTH)
    for side in SIDES:
        folder = injected(pair.disk(side), "requeue_inject", 0, 0)
        assert read_text(folder / "probability") == "0"
    assert status.health == "ok"
    assert status.counters["copied"] == LENGTH
    assert pair.runs_left_out() == 0


@pytest.mark.parametrize("side", SIDES)
def test_requests_that_time_out(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A device that does not answer is waited for as long as its driver waits; then it is an error
    like any other. A suspend waits for it as well; as it puts other jobs of the range back, all of
    the range that is dirty is tried again after the resume."""
    kernel_log.allow(r"timed out|timeout error, dev nullb")
    pair = Pair(rig, kernel_log)
    pair.keep_apart()
    pair.disk(side).set_queue("io_timeout", 500)
    injected(pair.disk(side), "timeout_inject", 100, 3)
    pair.device.copy(0, LENGTH)
    wait_until(lambda: pair.device.clone_status().copying, "the copy to start")
    pair.device.suspend()
    assert pair.device.clone_status().copying == 0
    pair.device.resume()
    status = pair.device.wait_idle()
    assert status.counters[SIDES[side]] == 3 * BATCH
    assert sum(errors(status)) == 3 * BATCH
    assert status.dirty <= 3
    assert status.counters["copied"] == LENGTH - status.dirty * BATCH
    assert pair.runs_left_out() <= status.dirty
    pair.check_whole_copy(status)


@pytest.mark.parametrize("merged", [False, True], ids=["apart", "merged"])
@pytest.mark.parametrize("irqmode", [0, 1, 2])
def test_errors_of_a_driver(rig: Rig, kernel_log: Guard, irqmode: int, merged: bool) -> None:
    """Bad blocks whose errors come in the submitter's context, in softirq, in hard interrupts. Jobs
    that became one request fail together, each of them for itself."""
    kernel_log.allow(r"I/O error, dev nullb")
    pair = Pair(rig, kernel_log, irqmode=irqmode)
    if not merged:
        pair.keep_apart()
    bad = [(BATCH * 3 + 5, pair.backing.disk), (BATCH * 9, pair.clone.disk)]
    for sector, disk in bad:
        rig.badblocks(disk, sector, sector)
    status = pair.device.copy_and_wait(0, LENGTH)
    for sector, disk in bad:
        rig.no_badblocks(disk, sector, sector)
    assert min(errors(status)) >= BATCH
    if not merged:
        assert errors(status) == [BATCH, BATCH]
    assert status.counters["copied"] == LENGTH - sum(errors(status))
    pair.check_whole_copy(status)


def test_message_after_an_error(rig: Rig, kernel_log: Guard) -> None:
    """Errors stay in the status, and nothing of the control is refused because of them; `errors`
    lists them."""
    kernel_log.allow(OURS + "message refused")
    pair = Pair(rig, kernel_log)
    with failing_requests(pair.clone.disk, probability=100, times=1):
        failed = pair.device.copy_and_wait(0, BATCH)
    assert (failed.counters["clone_errors"], failed.counters["read_errors"]) == (BATCH, 0)
    assert pair.device.errors() == ErrorList([Failure("clone", errno.EIO, 0, BATCH)], 0)
    with pytest.raises(DmError):
        pair.device.message("nonsense")
    assert pair.device.clone_status() == failed
    pair.check_whole_copy(failed)
