# SPDX-License-Identifier: GPL-2.0
"""The kernel's fault injection (Documentation/fault-injection/fault-injection.rst).

`FailNth` fails the n-th allocation of a call, and tells whether there was one. Only allocations are
counted that are made below chosen functions, so neither the interpreter nor another thread gets
into the way, and a number means the same allocation each time.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness import module
from harness.command import read_text, write_text
from harness.disk import Disk

DEBUGFS = Path("/sys/kernel/debug")
# More than any call allocates.
_NEVER = 1000000
# Debug objects refill a pool of their own, in whatever thread an object begins: that is nobody's
# allocation, and when it fails too often they are off. Only the debug kernel has this function.
_REFILL = "fill_pool"
# Nor is what the allocator takes for lists of its own when something is freed: it does without.
_FREEING = "__pcs_replace_full_main"


class Code(NamedTuple):
    """A range of the kernel's code, where a call trace has to come through."""

    start: int
    end: int

    @classmethod
    def of_module(cls, name: str = module.NAME) -> "Code":
        """All functions of a module."""
        found = [
            int(words[0], 16)
            for words in _symbols()
            if words[-1] == f"[{name}]" and words[1] in "tT"
        ]
        # The last function's size isn't known; modules are placed in pages of their own.
        return cls(min(found), (max(found) | 0xFFF) + 1)

    @classmethod
    @functools.cache
    def of_function(cls, *names: str) -> "Code":
        """The first of these functions that the kernel has (the others are inlined into it)."""
        symbols = sorted(
            (int(words[0], 16), words[2])
            for words in _symbols()
            if words[1] in "tT" and len(words) == 3
        )
        for name in names:
            for (start, found), (end, _) in zip(symbols, symbols[1:], strict=False):
                if found == name and end > start:
                    return cls(start, end)
        raise LookupError(f"the kernel has none of {names}")


def _symbols() -> Iterator[list[str]]:
    for line in Path("/proc/kallsyms").read_text().splitlines():
        yield line.split()


@contextlib.contextmanager
def settings(name: str, probability: int = 0, **values: object) -> Iterator[Path]:
    """Set files of one kind of faults (failslab, ...), with _ for -; they are set back at the
    end. Nothing is printed about a fault.

    The probability is set last and set back first: with half of the rest in force, faults would
    get to anyone in the system.
    """
    folder = DEBUGFS / name
    values = {"verbose": 0} | values | {"probability": probability}
    files = {folder / key.replace("_", "-"): value for key, value in values.items()}
    before = {file: read_text(file) for file in files}
    try:
        for file, value in files.items():
            write_text(file, value)
        yield folder
    finally:
        for file in reversed(files):
            write_text(file, before[file])


@contextlib.contextmanager
def faults_below(name: str, code: Code, **values: object) -> Iterator[Path]:
    """Let allocations in this code fail, of one kind: failslab or fail_page_alloc. Unless another
    range is rejected, those are left out that the kernel makes for itself."""
    common = {
        "ignore_gfp_wait": "N",
        "require_start": hex(code.start),
        "require_end": hex(code.end),
        "stacktrace_depth": 32,
        "interval": 1,
    }
    if name == "fail_page_alloc":
        common["min_order"] = 0
    # Debug objects come first: there may be one range only.
    with contextlib.suppress(LookupError):
        nobodys = Code.of_function(_REFILL, _FREEING)
        common |= {"reject_start": hex(nobodys.start), "reject_end": hex(nobodys.end)}
    with settings(name, **(common | values)) as folder:
        yield folder


@contextlib.contextmanager
def allocations_below(code: Code, **values: object) -> Iterator[None]:
    """Make every allocation in this code one that can fail, slab objects and pages of any order:
    the n-th of a thread (fail_nth), or by the probability among the values."""
    with faults_below("failslab", code, **values), faults_below("fail_page_alloc", code, **values):
        yield


class Outcome(NamedTuple):
    """What came of a call: its result or its error, and whether a fault was injected."""

    result: object
    error: OSError | None
    injected: bool


def fail_nth(number: int, function: Callable[[], object]) -> Outcome:
    """Call a function with its number-th allocation failing (see allocations_below), in the thread
    that calls this."""
    outcome, left = _armed(number, function)
    return outcome._replace(injected=left == 0)


def count_allocations(function: Callable[[], object]) -> int:
    """How many allocations a call makes that could fail (see allocations_below); none fails."""
    outcome, left = _armed(_NEVER, function)
    if outcome.error is not None:
        raise outcome.error
    return _NEVER - left


def _armed(number: int, function: Callable[[], object]) -> tuple[Outcome, int]:
    result = error = None
    fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
    try:
        os.pwrite(fd, b"%d" % number, 0)
        try:
            result = function()
        except OSError as caught:
            error = caught
        finally:
            left = int(os.pread(fd, 32, 0))
            os.pwrite(fd, b"0", 0)
    finally:
        os.close(fd)
    return Outcome(result, error, False), left


@contextlib.contextmanager
def failing_requests(*disks: Disk, probability: int, times: int) -> Iterator[Path]:
    """Let `times` bios fail that go to these disks, each with a probability in percent; the file
    `times` of the yielded folder says how many are still to fail. -1 is without end."""
    with settings("fail_make_request", probability, times=times, interval=1) as folder:
        try:
            for disk in disks:
                write_text(disk.sys / "make-it-fail", 1)
            yield folder
        finally:
            for disk in disks:
                if disk.sys.is_dir():
                    write_text(disk.sys / "make-it-fail", 0)
