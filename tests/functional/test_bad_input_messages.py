# SPDX-License-Identifier: GPL-2.0
"""Every bad message is refused with its errno and a log line that names what is wrong; the state,
which is the whole status line, stays as it was. The log is bounded, whatever is sent, and nothing
hangs where messages, status calls, suspends and a remove come at once.
"""

import contextlib
import errno
import time

import pytest

from harness import io
from harness.clone_rs import TRACK, CloneDevice, ErrorList, whole_regions
from harness.crowd import Crowd
from harness.dm_ioctl import DmError, Flag
from harness.image import Image
from harness.kernel_log import Guard
from harness.refusals import OURS, is_ours, refuse_message
from harness.rig import Rig
from harness.wait import wait_until

LENGTH = 4096
REFUSED = OURS + "message refused: "
# What the kernel's rate limit lets through in one interval, and the line about what it did not.
BURST = 10
INTERVAL = 5
# Ranges that may wait to be copied.
MAX_RANGES = 64
# The default for devices of this size.
REGION = 128
# The messages, and how many arguments they have.
ARGUMENTS = {"start": 0, "pause": 0, "finish": 0, "retry": 0, "errors": 0, "copy": 2, "skip": 2}
ARGUMENTS |= {"depth": 1, "batch": 1, "rate": 1, "mode": 1}
# What a tunable must be.
TUNABLES = {
    "depth": "depth must be from 1 to 256",
    "batch": "batch must be a multiple of 8 from 8 to 16384",
    "rate": "rate must be a number of KiB a second below 2^32",
    "mode": "mode must be track, mirror or snapshot",
}


@pytest.fixture
def ours(rig: Rig, kernel_log: Guard) -> CloneDevice:
    """A target that has copied something, so that its counters are not all zero."""
    kernel_log.allow(REFUSED)
    device = rig.clone(rig.null_blk(size=2), rig.null_blk(size=2))
    device.copy_and_wait(8, 1000)
    return device


@pytest.mark.parametrize(
    "message",
    [
        *("nonsense", "cop 0 8", "copyy 0 8", "0 8", "x" * 9000, "star", "started", "resume"),
        *("stop", "finish_", "skipp 0 8", "depths 4", "batc 8", "rates 0", "error", "errors_"),
        *("verified", "modes track", "autostart", "final 8", "region_size 8"),
    ],
    ids=lambda message: message[:20],
)
def test_unknown(ours: CloneDevice, message: str) -> None:
    """What is no message, what will be one some day, and what is a feature only."""
    refuse_message(ours, message, "there is no message", message.split(maxsplit=1)[0][:100])


def test_no_words(ours: CloneDevice, kernel_log: Guard) -> None:
    """An empty message does not get further than the core."""
    kernel_log.expect("device-mapper: ioctl: Empty message received")
    before = ours.clone_status()
    for message in ("", "   "):
        with pytest.raises(DmError) as caught:
            ours.message(message)
        assert caught.value.errno == errno.EINVAL
    assert ours.clone_status() == before


@pytest.mark.parametrize("words", [0, 1, 2, 3, 4, 9000])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_number_of_words(ours: CloneDevice, name: str, words: int) -> None:
    """Each message has as many arguments as it has, and does nothing where that is not so."""
    if words != ARGUMENTS[name]:
        for written in (name, name.upper()):
            refuse_message(
                ours, written + " 8" * words, f"{written} has a wrong number of arguments"
            )


@pytest.mark.parametrize(
    "word", ["x", "8x", "-8", "+8", "0x8", "1e1", "8.0", "8k", "18446744073709551616", "9" * 100]
)
def test_not_a_number(ours: CloneDevice, word: str) -> None:
    """All arguments are digits only; sectors are below 2^64."""
    for name in ("copy", "skip"):
        refuse_message(ours, f"{name} {word} 8", word, "is not a number")
        refuse_message(ours, f"{name} 8 {word}", word, "is not a number")
    for name, wanted in TUNABLES.items():
        refuse_message(ours, f"{name} {word}", word, wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("depth", value) for value in (0, 257, 1 << 32, (1 << 32) + 1)),
        *(("batch", value) for value in (0, 4, 7, 9, 12, 16385, 16392, (1 << 32) + 8)),
        *(("rate", value) for value in (1 << 32, (1 << 64) - 1)),
    ],
)
def test_out_of_range(ours: CloneDevice, name: str, value: int) -> None:
    """Tunables have the bounds that they have in a table, and keep their values."""
    refuse_message(ours, f"{name} {value}", value, TUNABLES[name])


@pytest.mark.parametrize(
    ("name", "values"),
    [("depth", (1, 256, 8)), ("batch", (8, 16384, 2048)), ("rate", ((1 << 32) - 1, 1, 0))],
)
def test_ends_of_the_tunables(ours: CloneDevice, name: str, values: tuple[int, ...]) -> None:
    """What stands right beside the refused values is accepted, without regard to case, and no
    answer is given."""
    if name == "batch":
        ours.tune("depth", 1)
    if name == "depth":
        ours.tune("batch", 8)
    for value in values:
        for written in (name, name.upper(), name.capitalize()):
            assert ours.message(f"{written} {value:03}") == ""
            assert ours.clone_status().tunables[name] == value


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_batch_of_half_blocks(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A batch is made of whole blocks of both devices, as in a table: 8 sectors are one block of
    4096 bytes, so nothing that the bounds let through can be refused for that on such a disk."""
    kernel_log.allow(REFUSED)
    disks = {"backing": rig.null_blk(size=2), "clone": rig.null_blk(size=2)}
    disks[side] = rig.null_blk(size=2, blocksize=4096)
    device = rig.clone(disks["backing"], disks["clone"])
    refuse_message(device, "batch 12", 12, TUNABLES["batch"])
    device.tune("batch", 8)
    assert device.copy_and_wait(0, LENGTH).counters["copied"] == LENGTH


def test_more_memory_than_there_is(ours: CloneDevice) -> None:
    """A pipeline of 2 GiB is ENOMEM, by either message, and keeps the old one; that copies on."""
    for first, second in (("depth 256", "batch 16384"), ("batch 16384", "depth 256")):
        ours.tune("depth", 1)
        ours.tune("batch", 8)
        ours.message(first)
        refuse_message(ours, second, "there is no memory for it", number=errno.ENOMEM)
    assert ours.clone_status().tunables == {"depth": 1, "batch": 16384, "rate": 0}
    assert ours.copy_and_wait(0, LENGTH).in_sync == LENGTH // REGION


def test_finish_without_a_start(ours: CloneDevice, kernel_log: Guard) -> None:
    """`finish` is for a copy that was started and is not paused; a suspend after one that was
    refused copies nothing."""
    refuse_message(ours, "finish", "nothing was started")
    ours.pause()
    refuse_message(ours, "FINISH", "nothing was started")
    assert ours.clone_status().state == "idle"
    ours.start_and_wait()
    ours.pause()
    io.write(ours.disk, 0, bytes(4096))
    before = ours.clone_status()
    assert (before.state, before.dirty) == ("paused", 1)
    refuse_message(ours, "finish", "copying is paused")
    ours.suspend()
    assert ours.clone_status() == before
    ours.resume()


def test_twice_is_as_once(ours: CloneDevice) -> None:
    """`start`, `pause` and `finish` may be said again, in any letters."""
    assert ours.message("START") == ours.message("Start") == ours.message("start") == ""
    assert ours.wait_complete().dirty == 0
    assert ours.message("Finish") == ours.message("FINISH") == ""
    assert ours.clone_status().state == "complete"
    assert ours.message("PAUSE") == ours.message("Pause") == ""
    status = ours.clone_status()
    assert (status.state, status.copying) == ("complete", 0)
    assert ours.message("ERRORS") == ours.message("errors") == "0 0"
    assert ours.clone_status() == status


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
    for name in ("copy", "skip"):
        refuse_message(ours, f"{name} {start} {count}", f"{count} sectors", f"sector {start} ")


def test_nasty_words(ours: CloneDevice) -> None:
    """Quoted spaces and newlines and what is no letter: one line of log, that nobody can forge."""
    for message in (r"a\ b", "x\\\n<0>panic:\\ not\\ syncing", "\x1b[31m", "\x7f", "%s%n", "ä"):
        error = refuse_message(ours, message, "there is no message")
        assert len(error.log) == 1, error


def test_ends_of_the_range(ours: CloneDevice) -> None:
    """What stands right beside the refused ranges is accepted, and no answer is given."""
    for start, count in ((0, 1), (LENGTH - 1, 1), (0, LENGTH)):
        before = ours.clone_status().counters["copied"]
        assert ours.message(f"COPY {start} {count}") == ""
        _, size = whole_regions(start, count, REGION, LENGTH)
        assert ours.wait_idle().counters["copied"] == before + size
    for start, count, skipped in ((0, 1, 0), (LENGTH - REGION, REGION, 1), (0, LENGTH, 32)):
        assert ours.message(f"Skip {start} {count}") == ""
        assert ours.clone_status().skipped == skipped


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
@pytest.mark.parametrize("message", ["copy 0 8", "skip 0 4096", "finish", "depth 2", "batch 64"])
def test_while_suspended(ours: CloneDevice, message: str, noflush: bool) -> None:
    """A good message is EBUSY, a bad one EINVAL as ever; after the resume nothing is remembered,
    and the same message works."""
    ours.start_and_wait()
    ours.suspend(noflush)
    refuse_message(ours, message, "suspended", number=errno.EBUSY)
    refuse_message(ours, f"copy {LENGTH} 8", f"sector {LENGTH} ")
    refuse_message(ours, "depth 0", TUNABLES["depth"])
    refuse_message(ours, "nonsense", "nonsense")
    before = ours.clone_status()
    ours.resume()
    assert ours.clone_status() == before
    assert ours.message(message) == ""


@pytest.mark.parametrize("noflush", [False, True], ids=["flush", "noflush"])
def test_allowed_while_suspended(ours: CloneDevice, noflush: bool) -> None:
    """`start`, `pause`, `rate` and `errors` work, and no I/O comes of them before the resume."""
    ours.suspend(noflush)
    ours.start()
    ours.tune("rate", 1 << 20)
    status = ours.clone_status()
    assert (status.state, status.copying, status.tunables["rate"]) == ("copying", 0, 1 << 20)
    assert ours.errors() == ErrorList([], 0)
    ours.pause()
    assert ours.clone_status().state == "paused"
    ours.resume()
    assert ours.wait_paused().in_sync == status.in_sync
    ours.suspend(noflush)
    ours.start()
    ours.resume()
    assert ours.wait_complete().dirty == 0


def test_before_the_first_resume(rig: Rig, kernel_log: Guard) -> None:
    """A new table that waits for its resume is not what a message reaches: it goes to the live
    target, here a suspended one."""
    kernel_log.allow(REFUSED)
    device = rig.clone(rig.null_blk(size=2), rig.null_blk(size=2))
    device.load(device.table_text())
    device.suspend()
    refuse_message(device, "copy 0 8", "suspended", number=errno.EBUSY)
    device.start()
    assert device.clone_status().state == "copying"
    device.resume()
    assert device.wait_complete().dirty == 0


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_half_blocks(rig: Rig, side: str) -> None:
    """Ranges of half blocks are no error: `copy` rounds them out to regions, `skip` in, in a target
    that begins inside its devices from its own start."""
    large = {side: {"blocksize": 4096}}
    backing = rig.null_blk(size=2, **large.get("backing", {}))
    clone = rig.null_blk(size=2, **large.get("clone", {}))
    features = (*TRACK, "region_size", 8)
    device = rig.clone(backing, clone, 8, 16, LENGTH - 16, features=features)
    regions = 0
    for start, count in ((1, 8), (16, 4), (24, 1), (36, 8), (48, 12), (71, 1)):
        regions += whole_regions(start, count, 8, LENGTH)[1] // 8
        assert device.copy_and_wait(start, count).in_sync == regions
    for start, count, skipped in ((801, 14, 0), (801, 15, 1), (817, 22, 2), (840, 8, 3)):
        device.skip(start, count)
        assert device.clone_status().skipped == skipped


def test_too_many_ranges(rig: Rig, kernel_log: Guard) -> None:
    """While the clone does not answer, 64 ranges wait, that being copied among them, the next one
    is EBUSY and changes nothing; what was accepted is copied, all of it and nothing else."""
    kernel_log.allow(REFUSED)
    backing, clone = Image(rig.null_blk(size=2), "backing"), Image(rig.null_blk(size=2), "clone")
    gate = rig.gate(clone.disk)
    features = (*TRACK, "region_size", 8, "depth", 1, "batch", 8)
    device = rig.clone(backing.disk, gate.disk, features=features)
    gate.suspend()
    device.copy(0, 8)
    wait_until(lambda: device.clone_status().copying, "the copy to start")
    for number in range(1, MAX_RANGES):
        device.copy(number * 16, 8)
    for _ in range(3):
        refuse_message(device, f"copy {LENGTH - 8} 8", "too many ranges", number=errno.EBUSY)
    refuse_message(device, f"copy {LENGTH} 8", f"sector {LENGTH} ")
    gate.resume()
    status = device.wait_idle()
    assert (status.counters["copied"], status.in_sync) == (8 * MAX_RANGES, MAX_RANGES)
    for number in range(MAX_RANGES):
        clone.expect_copy(number * 16, backing, number * 16, 8)
    clone.check("the ranges that were accepted")
    device.copy_and_wait(LENGTH - 8, 8)


def lines_allowed(seconds: float) -> int:
    """How many lines a rate limit lets through in so long a time."""
    return (BURST + 1) * (int(seconds / INTERVAL) + 2)


def test_log_is_bounded(ours: CloneDevice, kernel_log: Guard) -> None:
    """Two hundred bad messages, each refused, make a handful of lines; so do they beside a second
    target, whose limit is its own."""
    messages = ["nonsense", "copy", "copy x 8", f"skip {LENGTH} 8", "x" * 5000, "depth 0", "finish"]
    begin = time.monotonic()
    for number in range(200):
        with pytest.raises(DmError) as caught:
            ours.message(messages[number % len(messages)])
        assert caught.value.errno == errno.EINVAL
    lines = len(kernel_log.records())
    assert 1 <= lines <= lines_allowed(time.monotonic() - begin), kernel_log.text()


@pytest.mark.parametrize("end", ["remove", "wipe", "reload"])
def test_all_at_once(rig: Rig, kernel_log: Guard, end: str, brief: bool) -> None:
    """A hundred threads send messages, good and bad, ask for the status and the table, suspend and
    resume, and in the midst of it the device is removed, gets a table of errors or a new one: no
    call hangs, each returns 0 or an errno that has a meaning, the log stays bounded, and nothing
    is left open."""
    kernel_log.allow(REFUSED)
    # A suspend that a `finish` armed may find too much, or meet a `pause`.
    kernel_log.allow(OURS + "finish: ")
    # Once its table is one of errors, the core says that it takes no messages.
    kernel_log.allow("^device-mapper: ioctl: Target type does not support")
    below = rig.null_blk(size=2), rig.null_blk(size=2)
    device = rig.clone(*below, features=(*TRACK, "batch", 8, "depth", 4))
    table = device.table_text()
    crowd = Crowd(brief)
    crowd.add(20, lambda: device.message("copy 0 512"))
    for message in ("start", "pause", "finish", "skip 0 512", "depth 3", "batch 64", "rate 9999"):
        crowd.add(3, lambda message=message: device.message(message))
    crowd.add(4, lambda: device.message("errors"))
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
