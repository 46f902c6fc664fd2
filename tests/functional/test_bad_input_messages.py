# SPDX-License-Identifier: GPL-2.0
"""Every bad message is refused with its errno and a log line that names what is wrong; the state,
which is the whole status line, stays as it was. The log is bounded, whatever is sent, and nothing
hangs where messages, status calls, suspends and a remove come at once.
"""

import contextlib
import errno
import threading
import time
from collections.abc import Callable

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice
from harness.dm_ioctl import DmError, Flag
from harness.image import Image
from harness.kernel_log import Guard
from harness.refusals import OURS, UNPRINTABLE, is_ours
from harness.rig import Rig
from harness.wait import wait_until

LENGTH = 4096
REFUSED = OURS + "message refused: "
# What the kernel's rate limit lets through in one interval, and the line about what it did not.
BURST = 10
INTERVAL = 5
# Ranges that may wait to be copied.
MAX_RANGES = 64


@pytest.fixture
def ours(rig: Rig, kernel_log: Guard) -> CloneDevice:
    """A target that has copied something, so that its counters are not all zero."""
    kernel_log.allow(REFUSED)
    device = rig.clone(rig.null_blk(size=2), rig.null_blk(size=2))
    device.copy_and_wait(8, 1000)
    return device


def refuse(
    device: CloneDevice, message: str, *words: object, number: int = errno.EINVAL, at: int = 0
) -> DmError:
    """The message is refused, the log has one line of ours with these words, the status is the
    same."""
    before = [target.text for target in device.status()]
    with pytest.raises(DmError) as caught:
        device.message(message, sector=at)
    error = caught.value
    assert error.errno == number, error
    said = [line for line in error.log if is_ours(line)]
    assert len(said) == 1, error
    for word in words:
        assert str(word) in said[0], error
    assert not UNPRINTABLE.search(said[0]), f"this was not escaped: {said[0]}"
    assert [target.text for target in device.status()] == before
    return error


@pytest.mark.parametrize(
    "message",
    ["nonsense", "cop 0 8", "copyy 0 8", "0 8", "x" * 9000, "start", "pause", "finish", "verify"],
    ids=lambda message: message[:20],
)
def test_unknown(ours: CloneDevice, message: str) -> None:
    """What is no message, and what will be one some day."""
    refuse(ours, message, "there is no message", message.split(maxsplit=1)[0][:100])


def test_no_words(ours: CloneDevice, kernel_log: Guard) -> None:
    """An empty message does not get further than the core."""
    kernel_log.expect("device-mapper: ioctl: Empty message received")
    before = ours.clone_status()
    for message in ("", "   "):
        with pytest.raises(DmError) as caught:
            ours.message(message)
        assert caught.value.errno == errno.EINVAL
    assert ours.clone_status() == before


@pytest.mark.parametrize("words", ["", " 8", " 8 8 8", " 8" * 9000], ids=["0", "1", "3", "9000"])
def test_wrong_number_of_words(ours: CloneDevice, words: str) -> None:
    """`copy` has two arguments."""
    refuse(ours, "copy" + words, "copy has a wrong number of arguments")


@pytest.mark.parametrize(
    "word", ["x", "8x", "-8", "+8", "0x8", "1e1", "8.0", "8k", "18446744073709551616", "9" * 100]
)
def test_not_a_number(ours: CloneDevice, word: str) -> None:
    """Both arguments are digits only, and below 2^64."""
    refuse(ours, f"copy {word} 8", word, "is not a number")
    refuse(ours, f"copy 8 {word}", word, "is not a number")


@pytest.mark.parametrize(
    ("start", "count"),
    [
        (0, 0),
        (8, 0),
        (LENGTH, 0),
        (LENGTH, 8),
        (LENGTH - 8, 16),
        (LENGTH - 1, 2),
        (0, LENGTH + 1),
        (1 << 40, 8),
        (0, 1 << 40),
        (8, (1 << 64) - 8),
        ((1 << 64) - 8, 8),
        ((1 << 64) - 8, 16),
        ((1 << 64) - 1, 1),
        (1, (1 << 64) - 1),
        (1 << 63, 1 << 63),
    ],
)
def test_not_a_range(ours: CloneDevice, start: int, count: int) -> None:
    """Empty, past the end, overflowing: the log has both numbers."""
    refuse(ours, f"copy {start} {count}", f"{count} sectors", f"sector {start} ")


def test_nasty_words(ours: CloneDevice) -> None:
    """Quoted spaces and newlines and what is no letter: one line of log, that nobody can forge."""
    for message in (r"a\ b", "x\\\n<0>panic:\\ not\\ syncing", "\x1b[31m", "\x7f", "%s%n", "ä"):
        error = refuse(ours, message, "there is no message")
        assert len(error.log) == 1, error


def test_ends_of_the_range(ours: CloneDevice) -> None:
    """What stands right beside the refused ranges is accepted, and no answer is given."""
    for start, count in ((0, 1), (LENGTH - 1, 1), (0, LENGTH)):
        before = ours.clone_status().counters["copied"]
        assert ours.message(f"COPY {start} {count}") == ""
        assert ours.wait_idle().counters["copied"] == before + count


def test_outside_of_the_device(ours: CloneDevice, kernel_log: Guard) -> None:
    """A message to a sector that no target has."""
    kernel_log.expect("device-mapper: ioctl: Target message sector outside device")
    before = ours.clone_status()
    with pytest.raises(DmError) as caught:
        ours.copy(0, 8, at=LENGTH)
    assert caught.value.errno == errno.EINVAL
    assert ours.clone_status() == before


def test_no_table(rig: Rig, ours: CloneDevice, kernel_log: Guard) -> None:
    """A table that is loaded and was never resumed has no live target to talk to."""
    kernel_log.expect("device-mapper: ioctl: The device has no table")
    empty = rig.clone_of(None)
    empty.load(f"0 {LENGTH} clone-rs {ours.path} 0 {rig.null_blk(2).path} 0 2 mode track")
    with pytest.raises(DmError) as caught:
        empty.copy(0, 8)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("noflush", [False, True], ids=["flush", "noflush"])
def test_while_suspended(ours: CloneDevice, noflush: bool) -> None:
    """A good range is EBUSY, a bad one EINVAL as ever; after the resume nothing is remembered, and
    the same message works."""
    ours.suspend(noflush)
    refuse(ours, "copy 0 8", "suspended", number=errno.EBUSY)
    refuse(ours, f"copy {LENGTH} 8", f"sector {LENGTH} ")
    refuse(ours, "nonsense", "nonsense")
    before = ours.clone_status()
    ours.resume()
    assert ours.clone_status() == before
    assert ours.copy_and_wait(0, 8).counters["copied"] == before.counters["copied"] + 8


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_unaligned(rig: Rig, kernel_log: Guard, side: str) -> None:
    """Half blocks of either device can't be copied; of a target that begins inside a table they
    are counted from its own start."""
    kernel_log.allow(REFUSED)
    large = {side: {"blocksize": 4096}}
    backing = rig.null_blk(size=2, **large.get("backing", {}))
    clone = rig.null_blk(size=2, **large.get("clone", {}))
    device = rig.clone(backing, clone, backing_offset=8, clone_offset=16, length=LENGTH - 16)
    for start, count in ((1, 8), (0, 4), (0, 1), (4, 8), (8, 12), (7, 1)):
        refuse(device, f"copy {start} {count}", "whole logical blocks")
    device.copy_and_wait(8, 16)


def test_too_many_ranges(rig: Rig, kernel_log: Guard) -> None:
    """While the clone does not answer, 64 ranges wait, the next one is EBUSY and changes nothing;
    what was accepted is copied, all of it and nothing else."""
    kernel_log.allow(REFUSED)
    backing, clone = Image(rig.null_blk(size=2), "backing"), Image(rig.null_blk(size=2), "clone")
    gate = rig.gate(clone.disk)
    device = rig.clone(backing.disk, gate.disk, features=(*TRACK, "depth", 1, "batch", 8))
    gate.suspend()
    device.copy(0, 8)
    # Once it is in flight it does not wait any more.
    wait_until(lambda: device.clone_status().copying, "the copy to start")
    for number in range(1, MAX_RANGES + 1):
        device.copy(number * 16, 8)
    full = device.clone_status()
    assert full.counters["queued"] == 8 * (MAX_RANGES + 1)
    for _ in range(3):
        refuse(device, f"copy {LENGTH - 8} 8", "too many ranges", number=errno.EBUSY)
    refuse(device, f"copy {LENGTH} 8", f"sector {LENGTH} ")
    gate.resume()
    assert device.wait_idle().counters["copied"] == 8 * (MAX_RANGES + 1)
    for number in range(MAX_RANGES + 1):
        clone.expect_copy(number * 16, backing, number * 16, 8)
    clone.check("the ranges that were accepted")
    device.copy_and_wait(LENGTH - 8, 8)


def lines_allowed(seconds: float) -> int:
    """How many lines a rate limit lets through in so long a time."""
    return (BURST + 1) * (int(seconds / INTERVAL) + 2)


def test_log_is_bounded(ours: CloneDevice, kernel_log: Guard) -> None:
    """Two hundred bad messages, each refused, make a handful of lines; so do they beside a second
    target, whose limit is its own."""
    messages = ["nonsense", "copy", "copy x 8", f"copy {LENGTH} 8", "x" * 5000]
    begin = time.monotonic()
    for number in range(200):
        with pytest.raises(DmError) as caught:
            ours.message(messages[number % len(messages)])
        assert caught.value.errno == errno.EINVAL
    lines = len(kernel_log.records())
    assert 1 <= lines <= lines_allowed(time.monotonic() - begin), kernel_log.text()


class Crowd:
    """Threads that each make one call some times, from one moment on."""

    CALLS = 12

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._begin = threading.Event()
        self._done = 0
        self._lock = threading.Lock()
        self.errors: set[int | str] = set()

    def add(self, threads: int, function: Callable[[], object]) -> None:
        """So many threads more that make this call."""
        for _ in range(threads):
            thread = threading.Thread(target=self._repeat, args=(function,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _repeat(self, function: Callable[[], object]) -> None:
        self._begin.wait()
        for _ in range(self.CALLS):
            try:
                function()
            except DmError as error:
                self.errors.add(error.errno)
            except Exception as error:  # what else it may be is for the test to see
                self.errors.add(repr(error))
            with self._lock:
                self._done += 1

    def begin(self) -> None:
        """All at once."""
        self._begin.set()

    def wait_until_half_is_done(self) -> None:
        """Until half of the calls have returned."""
        half = len(self._threads) * self.CALLS // 2
        wait_until(lambda: self._done >= half, "half of the calls to return", 60)

    def wait(self) -> None:
        """Wait for the end of all threads."""
        self._begin.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a call hangs"


@pytest.mark.parametrize("end", ["remove", "wipe", "reload"])
def test_all_at_once(rig: Rig, kernel_log: Guard, end: str) -> None:
    """A hundred threads send messages, good and bad, ask for the status and the table, suspend and
    resume, and in the midst of it the device is removed, gets a table of errors or a new one: no
    call hangs, each returns 0 or an errno that has a meaning, the log stays bounded, and nothing
    is left open."""
    kernel_log.allow(REFUSED)
    # Once its table is one of errors, the core says that it takes no messages.
    kernel_log.allow("^device-mapper: ioctl: Target type does not support")
    below = rig.null_blk(size=2), rig.null_blk(size=2)
    device = rig.clone(*below, features=(*TRACK, "batch", 8, "depth", 4))
    table = device.table_text()
    crowd = Crowd()
    crowd.add(40, lambda: device.message("copy 0 512"))
    crowd.add(30, lambda: device.message("nonsense"))
    crowd.add(20, device.status)
    crowd.add(6, device.table_text)
    crowd.add(4, lambda: (device.suspend(), device.resume()))
    begin = time.monotonic()
    crowd.begin()
    try:
        crowd.wait_until_half_is_done()
        if end == "remove":
            device.remove(timeout=30)
        else:
            device.load(table if end == "reload" else f"0 {LENGTH} error")
            # Each of the threads' resumes changes to the new table; this one may come too late.
            with contextlib.suppress(DmError):
                device.resume()
    finally:
        crowd.wait()
    # No table, no device, refused, full or suspended; EAGAIN where two suspend at once.
    known = {errno.EINVAL, errno.ENXIO, errno.EBUSY, errno.EAGAIN}
    assert crowd.errors <= known, crowd.errors
    said = [record for record in kernel_log.records() if is_ours(record.text)]
    # Each table has a target of its own, with a limit of its own.
    assert 1 <= len(said) <= 2 * lines_allowed(time.monotonic() - begin), len(said)
    if end != "remove":
        assert device.table()[0].type == {"reload": "clone-rs", "wipe": "error"}[end]
        assert not device.info().flags & Flag.INACTIVE_PRESENT
        device.remove()
    for disk in below:
        assert disk.used_by() == []
        assert len(io.read(disk, 0, 8)) == 4096
