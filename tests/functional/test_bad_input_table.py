# SPDX-License-Identifier: GPL-2.0
"""Every bad table line is refused with its text, its errno and one log line that names what is
wrong, and leaves nothing behind: no device open or claimed, no reference to a module.

What can't be built here is tested by KUnit alone: an empty word (the core's splitting of a line
never makes one).
"""

import pytest

from harness.kernel_log import Guard
from harness.refusals import LENGTH, Below, pack_line
from harness.rig import Rig

COUNT = "Invalid argument count"
SECTOR = "Invalid device sector"
LARGER = "Feature argument count is larger than what follows"
SMALLER = "Feature argument count is smaller than what follows"
UNKNOWN = "Unknown feature argument"
BAD_COUNT = "Invalid feature argument count"
RATE = "rate must be a number of KiB a second below 2^32"
FINAL = "final must be a number of regions below 2^32"
ON_READ_ERROR = "on_read_error must be stop or skip"
ON_CLONE_ERROR = "on_clone_error must be detach or stop"
NOT_32_BITS = ["4294967296", "18446744073709551616", "-1", "+1", "1x", "0x10", "1.5", "max"]
NOT_A_POLICY = ["stopp", "sto", "0", "continue", "stop,skip", "on_read_error"]


# Lines with a place for one word; what is left are {b} and {c}.
OFFSETS = pytest.mark.parametrize(
    "place",
    ["{{b}} {} {{c}} 0 2 mode track", "{{b}} 0 {{c}} {} 2 mode track"],
    ids=["backing", "clone"],
)


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
        ("3 mode mirror track", UNKNOWN, "track"),
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
OTHER_VALUE = {
    "mode": "mirror",
    "rate": "x",
    "on_read_error": "skip",
    "on_clone_error": "stop",
    "final": "0",
}


FLAGS = ("autostart", "sparse", "delta", "strict_discard", "stable", "fill_bad")
# Those that do not exist yet.
REFUSED = ("metadata {c}", "METADATA {c}")


@pytest.mark.parametrize("feature", [*(set(WITH_VALUE) - {"metadata"}), *FLAGS])
def test_given_twice(below: Below, feature: str) -> None:
    """A feature given twice is refused by name, with the same value and with another one, and in
    other letters too."""
    text = f"Feature {feature} is given twice"
    value = WITH_VALUE.get(feature, "")
    for again in (feature, feature.upper()):
        for other in {value, OTHER_VALUE.get(feature, value)}:
            words = f"{feature} {value} {again} {other}"
            if feature != "mode":
                words = f"mode track {words} region_siz 8"
            below.refuse_line(f"{{b}} 0 {{c}} 0 {len(words.split())} {words}", text, again)


@pytest.mark.parametrize("feature", WITH_VALUE)
def test_lacks_its_value(below: Below, feature: str) -> None:
    """The last word of a line is the name of a feature that has a value."""
    text = f"Feature {feature} lacks its value"
    below.refuse_line(f"{{b}} 0 {{c}} 0 1 {feature}", text, feature)
    if feature != "mode":
        below.refuse_line(f"{{b}} 0 {{c}} 0 3 mode track {feature.upper()}", text, feature.upper())


@pytest.mark.parametrize("words", REFUSED)
def test_not_supported_yet(below: Below, words: str) -> None:
    """Of the control surface, what does not exist yet is refused by name, also where it would ask
    for what is the case anyway: a table never changes its meaning."""
    name = words.split(maxsplit=1)[0].lower()
    count = 2 + len(words.split())
    text = f"Feature {name} is not supported yet"
    below.refuse_line(f"{{b}} 0 {{c}} 0 {count} mode track {words}", text, name)


@pytest.mark.parametrize("words", ["fill_bad", "on_read_error stop fill_bad"])
def test_nothing_to_fill(below: Below, words: str) -> None:
    """Where copying stops at what is bad, nothing is filled."""
    count = len(words.split())
    text = "fill_bad needs on_read_error skip"
    below.refuse_line(f"{{b}} 0 {{c}} 0 {count} {words}", text, "fill_bad")


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", ["0", "1", "on", "yes", "true"])
def test_a_flag_has_no_value(below: Below, flag: str, value: str) -> None:
    """What follows it is the next feature."""
    below.refuse_line(f"{{b}} 0 {{c}} 0 4 mode track {flag} {value}", UNKNOWN, value)
    text = f"Feature {flag} is given twice"
    below.refuse_line(f"{{b}} 0 {{c}} 0 4 mode track {flag} {flag}", text, flag)


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
        ("batch mode", "batch must be a multiple of 8 from 8 to 16384"),
        *((f"rate {value}", RATE) for value in NOT_32_BITS),
        *((f"final {value}", FINAL) for value in NOT_32_BITS),
        *((f"on_read_error {word}", ON_READ_ERROR) for word in NOT_A_POLICY),
        *((f"on_clone_error {word}", ON_CLONE_ERROR) for word in NOT_A_POLICY),
        ("on_read_error detach", ON_READ_ERROR),
        ("on_clone_error skip", ON_CLONE_ERROR),
    ],
)
def test_bad_values(below: Below, words: str, text: str) -> None:
    """Numbers that are none, or out of range, and policies that there are not, or of the other
    side; the log has the value."""
    below.refuse_line(f"{{b}} 0 {{c}} 0 4 mode track {words}", text, words.split()[1])


LARGEST = "6 mode track rate 4294967295 final 4294967295"
FLAGS_SHOWN = "4 mode track autostart strict_discard"
POLICIES_SHOWN = "6 mode track on_read_error skip on_clone_error stop"


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
        ("{b} 0 {c} 0 6 rate 4294967295 final 4294967295 mode track", LARGEST),
        ("{b} 0 {c} 0 6 Final 0 RATE 1 mode track", "6 mode track rate 1 final 0"),
        ("{b} 0 {c} 0 6 mode track rate 000 final 04096", "2 mode track"),
        ("{b} 0 {c} 0 4 STRICT_DISCARD AutoStart mode track", FLAGS_SHOWN),
        ("{b} 0 {c} 0 6 On_Read_Error SKIP ON_CLONE_ERROR Stop mode track", POLICIES_SHOWN),
        ("{b} 0 {c} 0 6 on_read_error Stop on_clone_error DETACH mode track", "2 mode track"),
    ],
)
def test_the_borders_are_accepted(below: Below, line: str, shown: str) -> None:
    """The smallest and the largest values, features in any order and in any letters: what stands
    right beside the refused ones. Thrown away, the table gives everything back."""
    below.device.load(below.line(line))
    assert below.device.table_text(inactive=True).endswith(f" 0 {shown}")
    below.device.clear()
    below.unused.check()
