# SPDX-License-Identifier: GPL-2.0
"""Every bad table line is refused with its text, its errno and one log line that names what is
wrong, and leaves nothing behind: no device open or claimed, no reference to a module.

What can't be built here is tested by KUnit alone: an empty word (the core's splitting of a line
never makes one) and a region below the clone's logical block (no device of this kernel has blocks
above 4096 bytes, which is the smallest region).
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import io
from harness.clone_rs import TRACK
from harness.command import CommandFailed, run
from harness.data import stamped
from harness.disk import Disk
from harness.dm_ioctl import DmError
from harness.fault_injection import failing_requests
from harness.image import Image
from harness.kernel_log import Guard
from harness.partitions import add_partition
from harness.refusals import Unused, allow_refusals, check_refusal, is_ours, pack_line, refused
from harness.rig import Rig

LENGTH = 4096
BLKROSET = 0x125D
NO_MODE = "Mode mirror, the default, is not supported yet: give mode track"
COUNT = "Invalid argument count"
SECTOR = "Invalid device sector"
LARGER = "Feature argument count is larger than what follows"
SMALLER = "Feature argument count is smaller than what follows"
UNKNOWN = "Unknown feature argument"
BAD_COUNT = "Invalid feature argument count"
LOOKUP = "Device lookup failed"


# Lines with a place for one word; what is left are {b} and {c}.
OFFSETS = pytest.mark.parametrize(
    "place",
    ["{{b}} {} {{c}} 0 2 mode track", "{{b}} 0 {{c}} {} 2 mode track"],
    ids=["backing", "clone"],
)
DEVICES = pytest.mark.parametrize(
    "place",
    ["{} 0 {{c}} 0 2 mode track", "{{b}} 0 {} 0 2 mode track"],
    ids=["backing", "clone"],
)


class Below:
    """A backing device and a clone, and a mapped device without a table above them."""

    def __init__(
        self, rig: Rig, log: Guard, backing: Disk | None = None, clone: Disk | None = None
    ):
        allow_refusals(log)
        self.rig = rig
        self.backing = backing or rig.null_blk(size=LENGTH >> 11)
        self.clone = clone or rig.null_blk(size=LENGTH >> 11)
        self.device = rig.mapped()
        self.unused = Unused((self.backing, self.clone))

    def line(self, parameters: str, start: int = 0, length: int = LENGTH) -> str:
        """A table of one line; {b} and {c} stand for the devices."""
        words = parameters.format(b=self.backing.path, c=self.clone.path)
        return f"{start} {length} clone-rs {words}"

    def refuse(
        self, table: str | bytes, text: str, *words: object, number: int = errno.EINVAL
    ) -> DmError:
        """This table is refused in all the ways that it has to be."""
        error = refused(self.device, table)
        check_refusal(error, number, text, words)
        self.unused.check()
        return error

    def refuse_line(
        self, parameters: str, text: str, *words: object, number: int = errno.EINVAL
    ) -> DmError:
        """The same for a line with places for the devices."""
        return self.refuse(self.line(parameters), text, *words, number=number)


@pytest.fixture
def below(rig: Rig, kernel_log: Guard) -> Below:
    """Two disks without any peculiarity."""
    return Below(rig, kernel_log)


# The words of the line.


@pytest.mark.parametrize("words", ["", "{b}", "{b} 0", "{b} 0 {c}"], ids=["0", "1", "2", "3"])
def test_too_few_arguments(below: Below, words: str) -> None:
    """Fewer than four words; the log says how many there are."""
    below.refuse_line(words, COUNT, len(words.split()))


NOT_SECTORS = [
    "12x",
    "x12",
    "-1",
    "+1",
    "-0",
    "0x10",
    "1.5",
    "1e3",
    "1,000",
    "1_000",
    "1:0",
    "18446744073709551616",
    "18446744073709551615999",
    "9" * 200,
    "٣",
]


@pytest.mark.parametrize("word", NOT_SECTORS, ids=lambda word: word[:21])
@OFFSETS
def test_not_a_sector(below: Below, place: str, word: str) -> None:
    """Both offsets are digits only, without a sign, and below 2^64."""
    # A very long word is cut off in the log.
    shown = [word[:64]] if word.isascii() else []
    below.refuse_line(place.format(word), SECTOR, *shown)


@pytest.mark.parametrize(
    "word",
    [
        rb"1\ 2",
        b"1\\\n2",
        b"1\\\n<0>panic:\\ not\\ syncing",
        b"1\x1b[31m",
        b"\xff\xfe",
        b"%s%n%p",
        b"\x7f",
        b"9" * 9000,
    ],
    ids=str,
)
def test_nasty_words(below: Below, word: bytes) -> None:
    """Spaces and newlines that were quoted, bytes that are no text, and too many of them: the log
    has one line about it, and nobody can forge another one."""
    backing, clone = below.backing.path.encode(), below.clone.path.encode()
    line = backing + b" 0 " + clone + b" " + word + b" 2 mode track"
    error = below.refuse(pack_line(0, LENGTH, line), SECTOR)
    assert not any(record.startswith("panic") for record in error.log), error
    assert max(len(record) for record in error.log) < 2048
    assert len(error.log) <= 3


def test_many_words(below: Below) -> None:
    """Ten thousand words are refused as any line is."""
    many = " x" * 10000
    below.refuse_line("{b} 0 {c} 0 2 mode track" + many, SMALLER, "2")
    below.refuse_line("{b} 0 {c} 0 10002 mode track" + many, UNKNOWN, "x")


# The feature arguments.


@pytest.mark.parametrize(
    ("features", "text", "word"),
    [
        ("", NO_MODE, "mode"),
        ("0", NO_MODE, "mode"),
        ("2 depth 4", NO_MODE, "mode"),
        ("x", BAD_COUNT, "x"),
        ("-1", BAD_COUNT, "-1"),
        ("2x mode track", BAD_COUNT, "2x"),
        ("mode track", BAD_COUNT, "mode"),
        ("18446744073709551616 mode track", BAD_COUNT, "18446744073709551616"),
        ("3 mode track", LARGER, "3"),
        ("1", LARGER, "1"),
        ("4294967298 mode track", LARGER, "4294967298"),
        ("18446744073709551615 mode track", LARGER, "18446744073709551615"),
        ("0 mode track", SMALLER, "0"),
        ("1 mode track", SMALLER, "1"),
        ("2 mode track nonsense", SMALLER, "2"),
        ("2 mode track depth 4", SMALLER, "2"),
        ("1 nonsense", UNKNOWN, "nonsense"),
        ("3 mode track nonsense", UNKNOWN, "nonsense"),
        ("2 mod track", UNKNOWN, "mod"),
        ("2 modes track", UNKNOWN, "modes"),
        ("2 region-size 8", UNKNOWN, "region-size"),
        ("3 mode track track", UNKNOWN, "track"),
        ("2 mode mirror", "Mode mirror is not supported yet", "mirror"),
        ("2 mode snapshot", "Mode snapshot is not supported yet", "snapshot"),
        ("2 MODE Snapshot", "Mode snapshot is not supported yet", "Snapshot"),
        ("2 mode trackx", "mode must be track, mirror or snapshot", "trackx"),
        ("2 mode 0", "mode must be track, mirror or snapshot", "0"),
        ("2 mode depth", "mode must be track, mirror or snapshot", "depth"),
    ],
)
def test_bad_features(below: Below, features: str, text: str, word: str) -> None:
    """The count, the names, the mode: each with its text, and the word in the log."""
    below.refuse_line(f"{{b}} 0 {{c}} 0 {features}", text, word)


@pytest.mark.parametrize(
    ("feature", "value"),
    [("region_size", "128"), ("mode", "track"), ("depth", "8"), ("batch", "8")],
)
def test_given_twice(below: Below, feature: str, value: str) -> None:
    """A feature given twice is refused by name, with the same value, and in other letters too."""
    text = f"Feature {feature} is given twice"
    for again in (feature, feature.upper()):
        words = f"{feature} {value} {again} {value}"
        if feature != "mode":
            words += " mode track"
        below.refuse_line(f"{{b}} 0 {{c}} 0 {len(words.split())} {words}", text, again)


WITH_VALUE = {
    "region_size": "128",
    "mode": "track",
    "depth": "8",
    "batch": "2048",
    "rate": "100",
    "on_read_error": "stop",
    "on_clone_error": "detach",
    "final": "4096",
    "metadata": "{c}",
}


@pytest.mark.parametrize("feature", WITH_VALUE)
def test_lacks_its_value(below: Below, feature: str) -> None:
    """The last word of a line is the name of a feature that has a value."""
    text = f"Feature {feature} lacks its value"
    below.refuse_line(f"{{b}} 0 {{c}} 0 1 {feature}", text, feature)
    if feature != "mode":
        below.refuse_line(f"{{b}} 0 {{c}} 0 3 mode track {feature.upper()}", text, feature.upper())


@pytest.mark.parametrize(
    "words",
    [
        "autostart",
        "rate 100",
        "rate 0",
        "sparse",
        "SPARSE",
        "delta",
        "strict_discard",
        "stable",
        "on_read_error stop",
        "on_read_error skip",
        "on_clone_error detach",
        "on_clone_error stop",
        "final 4096",
        "metadata {c}",
    ],
)
def test_not_supported_yet(below: Below, words: str) -> None:
    """Of the control surface, what does not exist yet is refused by name, also where it would ask
    for what is the case anyway: a table never changes its meaning."""
    name = words.split(maxsplit=1)[0].lower()
    count = 2 + len(words.split())
    text = f"Feature {name} is not supported yet"
    below.refuse_line(f"{{b}} 0 {{c}} 0 {count} mode track {words}", text, name)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("region_size 0", "region_size must not be 0"),
        ("region_size 4", "region_size must be at least 8 sectors"),
        ("region_size 7", "region_size must be at least 8 sectors"),
        ("region_size 9", "region_size must be a power of two"),
        ("region_size 12", "region_size must be a power of two"),
        ("region_size 127", "region_size must be a power of two"),
        ("region_size 18446744073709551615", "region_size must be a power of two"),
        ("region_size 4194304", "region_size must be at most 2097152 sectors"),
        ("region_size 4294967296", "region_size must be at most 2097152 sectors"),
        ("region_size 9223372036854775808", "region_size must be at most 2097152 sectors"),
        ("region_size 18446744073709551616", "region_size must be a number of sectors"),
        ("region_size -8", "region_size must be a number of sectors"),
        ("region_size 8k", "region_size must be a number of sectors"),
        ("depth 0", "depth must be from 1 to 256"),
        ("depth 257", "depth must be from 1 to 256"),
        ("depth -1", "depth must be from 1 to 256"),
        ("depth 4294967297", "depth must be from 1 to 256"),
        ("depth 1x", "depth must be from 1 to 256"),
        ("batch 0", "batch must be a multiple of 8 from 8 to 16384"),
        ("batch 4", "batch must be a multiple of 8 from 8 to 16384"),
        ("batch 12", "batch must be a multiple of 8 from 8 to 16384"),
        ("batch 16392", "batch must be a multiple of 8 from 8 to 16384"),
        ("batch 4294967304", "batch must be a multiple of 8 from 8 to 16384"),
        ("batch -8", "batch must be a multiple of 8 from 8 to 16384"),
    ],
)
def test_bad_values(below: Below, words: str, text: str) -> None:
    """Numbers that are none, or out of range; the log has the value."""
    below.refuse_line(f"{{b}} 0 {{c}} 0 4 mode track {words}", text, words.split()[1])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("{b} 0 {c} 0 2 mode track", "2 mode track"),
        ("{b} 000 {c} 00 02 MODE TRACK", "2 mode track"),
        ("{b} 0 {c} 0 4 mOdE tRaCk REGION_SIZE 8", "4 region_size 8 mode track"),
        ("{b} 0 {c} 0 4 region_size 2097152 mode track", "4 region_size 2097152 mode track"),
        ("{b} 0 {c} 0 6 depth 1 batch 8 mode track", "6 mode track depth 1 batch 8"),
        ("{b} 0 {c} 0 6 depth 256 batch 64 mode track", "6 mode track depth 256 batch 64"),
        ("{b} 0 {c} 0 6 Depth 1 Batch 16384 mode track", "6 mode track depth 1 batch 16384"),
    ],
)
def test_the_borders_are_accepted(below: Below, line: str, shown: str) -> None:
    """The smallest and the largest values, features in any order and in any letters: what stands
    right beside the refused ones. Thrown away, the table gives everything back."""
    below.device.load(below.line(line))
    assert below.device.table_text(inactive=True).endswith(f" 0 {shown}")
    below.device.clear()
    below.unused.check()


def test_more_memory_than_there_is(below: Below) -> None:
    """A pipeline of 2 GiB in a smaller machine is ENOMEM, not the end of some process, and all
    that had been allocated is free again."""
    total, before = memory("MemTotal"), memory("MemFree")
    if total > 2 << 20:
        pytest.fail(f"{total} KiB are too much memory for this test")
    error = refused(below.device, below.line("{b} 0 {c} 0 6 mode track depth 256 batch 16384"))
    assert error.errno == errno.ENOMEM, error
    assert any("clone-rs: depth times batch is more than" in line for line in error.log), error
    assert not any("Out of memory" in line or "oom" in line for line in error.log), error
    below.unused.check()
    # It has also pushed out caches, so more may be free than before.
    assert memory("MemFree") > before - (32 << 10)


def memory(name: str) -> int:
    """A line of /proc/meminfo, in KiB."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    return next(int(words[1]) for words in lines if words[0] == f"{name}:")


# Ranges.


@pytest.mark.parametrize("side", ["backing", "clone"])
@pytest.mark.parametrize("offset", [1, LENGTH, 1 << 40, (1 << 63), (1 << 64) - 1 - LENGTH])
def test_range_past_the_end(below: Below, side: str, offset: int) -> None:
    """One sector and very much behind the end of a device: the log has the device's size, and what
    the table wants."""
    places = {"backing": f"{{b}} {offset} {{c}} 0", "clone": f"{{b}} 0 {{c}} {offset}"}
    text = f"{side.capitalize()} device is too small"
    words = (f"{side} device", f"{LENGTH} sectors", f"{LENGTH} from sector {offset} ")
    below.refuse_line(f"{places[side]} 2 mode track", text, *words)


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_device_too_small(rig: Rig, kernel_log: Guard, side: str) -> None:
    """The one device has a sector less than the target."""
    disks = {"backing": rig.null_blk(size=3), "clone": rig.null_blk(size=3), side: rig.null_blk(2)}
    below = Below(rig, kernel_log, **disks)
    table = below.line("{b} 0 {c} 0 2 mode track", length=LENGTH + 1)
    text = f"{side.capitalize()} device is too small"
    below.refuse(table, text, f"{LENGTH} sectors", f"{LENGTH + 1} from sector 0 ")


@OFFSETS
def test_offset_plus_length_overflows(below: Below, place: str) -> None:
    """A sum above 2^64: with the largest offset, and with the smallest one that is too large."""
    for offset in ((1 << 64) - 1, (1 << 64) - LENGTH):
        below.refuse_line(place.format(offset), "Offset plus length overflows", "offset")


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, (1 << 64) - 1), (0, 1 << 63), (0, 1 << 54), (8, (1 << 64) - 8), (0, 0)],
)
def test_impossible_length(below: Below, start: int, length: int) -> None:
    """start + length that overflows, and no length at all: the core does not even ask us."""
    error = refused(below.device, below.line("{b} 0 {c} 0 2 mode track", start, length))
    assert error.errno == errno.EINVAL
    assert not any(is_ours(line) for line in error.log), error
    below.unused.check()


@pytest.mark.parametrize(
    ("length", "features"),
    [
        ((1 << 34) + 1, "4 mode track region_size 8"),
        ((1 << 54) - 1, "4 mode track region_size 2097152"),
        ((1 << 54) - 1, "2 mode track"),
    ],
)
def test_too_many_regions(below: Below, length: int, features: str) -> None:
    """More regions than can be counted, be they asked for or not."""
    table = below.line(f"{{b}} 0 {{c}} 0 {features}", length=length)
    below.refuse(table, "Too many regions: region_size is too small", "region_size")


def test_the_most_regions(rig: Rig) -> None:
    """2^31 regions are not too many: 8 TiB in regions of 4 KiB, copied at the very end."""
    length = 1 << 34
    backing, clone = (rig.mapped(f"0 {length} zero").disk for _ in range(2))
    ours = rig.clone(backing, clone, features=(*TRACK, "region_size", 8))
    assert ours.clone_status().total == 1 << 31
    assert ours.copy_and_wait(length - 8, 8).counters["copied"] == 8


@pytest.mark.parametrize(
    ("length", "offset"), [(LENGTH - 1, 0), (LENGTH - 4, 0), (LENGTH - 8, 1), (1, 0)]
)
def test_not_whole_blocks_of_the_clone(
    rig: Rig, kernel_log: Guard, length: int, offset: int
) -> None:
    """A clone with blocks of 4096 bytes and a length or an offset that is none of them."""
    below = Below(rig, kernel_log, clone=rig.null_blk(size=LENGTH >> 11, blocksize=4096))
    table = below.line(f"{{b}} 0 {{c}} {offset} 2 mode track", length=length)
    text = "Clone range is not made of whole logical blocks"
    wrong = f"offset {offset} " if offset % 8 else f"length {length} "
    below.refuse(table, text, wrong, "4096")


@pytest.mark.parametrize(("length", "offset"), [(LENGTH - 1, 0), (LENGTH - 8, 1)])
def test_not_whole_blocks_of_the_backing(
    rig: Rig, kernel_log: Guard, length: int, offset: int
) -> None:
    """The same for the backing device is refused by the core, which has then called our
    constructor with success and has to take it all back."""
    kernel_log.allow("^device-mapper: core: Cannot calculate initial queue limits")
    kernel_log.allow("^device-mapper: ioctl: unable to set up device queue for new table")
    below = Below(rig, kernel_log, backing=rig.null_blk(size=LENGTH >> 11, blocksize=4096))
    table = below.line(f"{{b}} {offset} {{c}} 0 2 mode track", length=length)
    error = refused(below.device, table)
    assert error.errno == errno.EINVAL
    assert any("logical block size" in line for line in error.log), error
    below.unused.check()


def test_second_target_refused(below: Below) -> None:
    """A good target before the bad one is taken back, too."""
    half = LENGTH // 2
    good = below.line("{b} 0 {c} 0 2 mode track", 0, half)
    bad = below.line(f"{{b}} {half} {{c}} {half}x 2 mode track", half, half)
    below.refuse(f"{good}\n{bad}", SECTOR, f"{half}x")


def test_gap_in_the_table(below: Below) -> None:
    """A target that does not begin where the one before it ends is refused by the core."""
    half = LENGTH // 2
    good = below.line("{b} 0 {c} 0 2 mode track", 0, half)
    bad = below.line(f"{{b}} {half} {{c}} {half} 2 mode track", half + 8, half - 8)
    error = refused(below.device, f"{good}\n{bad}")
    assert error.errno == errno.EINVAL
    assert any("Gap in table" in line for line in error.log), error
    below.unused.check()


# Devices.

MISSING = {
    "no-such-node": ("/dev/no-such-node", errno.ENOENT),
    "relative": ("no-such-node", errno.ENOENT),
    "folder": ("/dev", errno.ENOTBLK),
    "character-device": ("/dev/null", errno.ENOTBLK),
    "below-a-file": ("/dev/null/x", errno.ENOTDIR),
    "no-such-number": ("511:1048575", errno.ENXIO),
    "impossible-number": ("4096:0", errno.EOVERFLOW),
    "long-name": ("/dev/" + "x" * 300, errno.ENAMETOOLONG),
}


@pytest.mark.parametrize("what", MISSING)
@DEVICES
def test_missing_device(below: Below, place: str, what: str) -> None:
    """The errno is that of the look-up; the log has the name. Where the clone is missing, the
    backing device was open already."""
    path, number = MISSING[what]
    below.refuse_line(place.format(path), LOOKUP, path, number=number)


@DEVICES
def test_device_that_went_away(below: Below, place: str) -> None:
    """The number of a disk that was there before."""
    with contextlib.ExitStack() as stack:
        number = stack.enter_context(disk_that_goes()).number
    below.refuse_line(place.format(number), LOOKUP, number, number=errno.ENXIO)


@contextlib.contextmanager
def disk_that_goes() -> Iterator[Disk]:
    """A disk of its own rig."""
    rig = Rig()
    try:
        yield rig.null_blk(size=1)
    finally:
        rig.close()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_mounted_device(below: Below, tmp_path: Path, side: str) -> None:
    """A mounted device is EBUSY, and stays mounted; after umount it can be used."""
    disk = below.backing if side == "backing" else below.clone
    run("mkfs.ext4", "-q", disk.path)
    table = below.line("{b} 0 {c} 0 2 mode track")
    with below.rig.mounted(disk, tmp_path / "mnt") as folder:
        error = refused(below.device, table)
        check_refusal(error, errno.EBUSY, LOOKUP, [disk.path])
        (folder / "file").write_text("it works")
    below.unused.check()
    below.device.load(table)
    below.device.clear()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_claimed_device(below: Below, side: str) -> None:
    """A device that somebody has open with O_EXCL is EBUSY; the other one is given back."""
    disk, other = below.backing, below.clone
    if side == "clone":
        disk, other = other, disk
    claim = os.open(disk.path, os.O_RDONLY | os.O_EXCL)
    try:
        error = refused(below.device, below.line("{b} 0 {c} 0 2 mode track"))
        check_refusal(error, errno.EBUSY, LOOKUP, [disk.path])
        os.close(os.open(other.path, os.O_RDONLY | os.O_EXCL))
    finally:
        os.close(claim)
    below.unused.check()


@pytest.mark.parametrize(
    "line",
    [
        "{0.path} 0 {0.path} 0 2 mode track",
        "{0.path} 0 {0.number} 0 2 mode track",
        "{0.path} 0 {0.path} 2048 2 mode track",
    ],
    ids=["same-name", "other-name", "other-place"],
)
def test_same_device(below: Below, line: str) -> None:
    """Backing and clone may not be one device, by whatever name and at whatever place."""
    table = below.line(line.format(below.backing), length=1024)
    text = "Backing and clone are the same device"
    below.refuse(table, text, below.backing.number)


@DEVICES
def test_itself_in_its_table(below: Below, place: str) -> None:
    """The device itself, by number and with a table that is live, is refused by the core."""
    reply = below.device.info()
    own = f"{os.major(reply.device)}:{os.minor(reply.device)}"
    below.refuse_line(place.format(own), LOOKUP, own)
    below.device.load(f"0 {LENGTH} zero")
    below.device.resume()
    assert below.device.disk.number == own
    below.refuse_line(place.format(own), LOOKUP, own)
    below.refuse_line(place.format(below.device.path), LOOKUP, below.device.path)


def test_disk_and_its_partition(below: Below) -> None:
    """A whole disk and a partition of it share sectors: refused in both orders."""
    with add_partition(below.backing, 1, 0, 2048) as part:
        disk = below.backing.path
        for words in (f"{disk} 0 {part.path} 0", f"{part.path} 0 {disk} 0"):
            table = below.line(f"{words} 2 mode track", length=1024)
            error = refused(below.device, table)
            # The kernel's own rules for claiming make the second one busy.
            assert error.errno in (errno.EBUSY, errno.EINVAL), error
        below.unused.check()


def test_partitions_of_one_disk(below: Below) -> None:
    """Two partitions of a disk that do not overlap are fine, and a copy gets from one to the other;
    a range that reaches into the other one is refused."""
    image = Image(below.backing, "disk")
    with (
        add_partition(below.backing, 1, 0, 1024) as first,
        add_partition(below.backing, 2, 1024, 1024) as second,
    ):
        for words in (f"{first.path} 1 {second.path} 0", f"{second.path} 0 {first.path} 1"):
            table = below.line(f"{words} 2 mode track", length=1024)
            error = refused(below.device, table)
            assert error.errno == errno.EINVAL
            assert any("has 1024 sectors" in line for line in error.log if is_ours(line)), error
            below.unused.check()
        table = below.line(f"{first.path} 0 {second.path} 0 2 mode track", length=1024)
        ours = below.rig.clone_of(table)
        ours.copy_and_wait(0, 1024)
        ours.remove()
    image.expect(1024, image.content(0, 1024))
    image.check("the first partition is copied to the second")


def set_read_only(disk: Disk, read_only: bool) -> None:
    """What `blockdev --setro` and --setrw do."""
    fd = os.open(disk.path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, BLKROSET, struct.pack("=i", read_only))
    finally:
        os.close(fd)


def test_read_only_clone(below: Below) -> None:
    """EACCES, and nothing was written to it; made writable again it is accepted."""
    table = below.line("{b} 0 {c} 0 2 mode track")
    set_read_only(below.clone, True)
    text = "Clone device is read-only"
    below.refuse(table, text, below.clone.number, number=errno.EACCES)
    assert below.clone.counters().writes == 0
    set_read_only(below.clone, False)
    below.device.load(table)
    below.device.clear()
    below.unused.check()


def test_clone_that_cannot_be_written(below: Below, kernel_log: Guard) -> None:
    """What somebody wrote to the clone and is still in the page cache is written before the table
    is used; where that fails the table is refused with the error, and the device given back."""
    kernel_log.allow("I/O error")
    table = below.line("{b} 0 {c} 0 2 mode track")
    with open(below.clone.path, "wb", buffering=0) as node:
        node.write(bytes(4096))
        with failing_requests(below.clone, probability=100, times=-1):
            error = refused(below.device, table)
        check_refusal(error, errno.EIO, "Clone device cannot be written to", [below.clone.number])
        node.write(bytes(4096))
        below.device.load(table)
        below.device.clear()
    below.unused.check()


def test_read_only_backing(below: Below) -> None:
    """The backing device may be read-only, as for dm-linear: it can be read and copied."""
    data = stamped("ro", 0, 64)
    io.write(below.backing, 0, data)
    set_read_only(below.backing, True)
    ours = below.rig.clone(below.backing, below.clone)
    assert io.read(ours.disk, 0, 64) == data
    ours.copy_and_wait(0, 64)
    assert io.read(below.clone, 0, 64) == data
    ours.remove()
    set_read_only(below.backing, False)


def test_read_only_table(below: Below) -> None:
    """`dmsetup create --readonly` is refused by the core: the target has to write."""
    table = below.line("{b} 0 {c} 0 2 mode track")
    with pytest.raises(DmError) as caught:
        below.device.load(table, readonly=True)
    assert caught.value.errno == errno.EINVAL
    said = "clone-rs: target type may not be included in a read-only table"
    assert any(said in line for line in caught.value.log)
    below.unused.check()


@pytest.mark.parametrize("side", ["backing", "clone"])
def test_zoned_device(rig: Rig, kernel_log: Guard, side: str) -> None:
    """A device with zones, host-managed as null_blk's are, is refused on either side."""
    zoned = rig.null_blk(size=8, zoned=1, zone_size=4)
    below = Below(rig, kernel_log, **{side: zoned})
    text = f"Zoned {side} device is not supported"
    below.refuse_line("{b} 0 {c} 0 2 mode track", text, zoned.number)


def test_refusals_for_both_devices_name_the_right_one(rig: Rig, kernel_log: Guard) -> None:
    """With something wrong on both sides the first one is named, and both are given back."""
    zoned = rig.null_blk(size=8, zoned=1, zone_size=4)
    below = Below(rig, kernel_log, backing=zoned)
    set_read_only(below.clone, True)
    text = "Zoned backing device is not supported"
    below.refuse_line("{b} 0 {c} 0 2 mode track", text, zoned.number)
    set_read_only(below.clone, False)


# dmsetup's own view of it.


def test_dmsetup_shows_the_errno(below: Below) -> None:
    """With dmsetup, as an administrator does it: it fails, prints the reason for the errno, leaves
    no device, and points to the log."""
    table = below.line("{b} 0 {c} 12x 2 mode track")
    with pytest.raises(CommandFailed, match="Invalid argument"):
        run("dmsetup", "create", "refused", "--table", table)
    with pytest.raises(CommandFailed, match=r"Read-only|Invalid argument"):
        run("dmsetup", "create", "refused", "--readonly", "--table", table.replace("12x", "0"))
    assert "refused" not in run("dmsetup", "ls").stdout
    below.unused.check()
