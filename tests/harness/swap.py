# SPDX-License-Identifier: GPL-2.0
"""Swap on a mapped device, and processes whose pages go there."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness.command import run
from harness.disk import Disk

# A process that fills memory, has it swapped out, and looks at it again.
SWAPPING = """
import mmap, sys
size, rounds = int(sys.argv[1]) << 20, int(sys.argv[2])
memory = mmap.mmap(-1, size)
for start in range(0, size, 4096):
    memory[start:start + 16] = b"%016d" % start
for _ in range(rounds):
    memory.madvise(21)  # MADV_PAGEOUT
    for start in range(0, size, 4096):
        assert memory[start:start + 16] == b"%016d" % start, start
print("right", flush=True)
"""


def swap_used() -> int:
    """KiB on swap devices."""
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return sum(int(line.split()[3]) for line in lines)


_libc = ctypes.CDLL(None, use_errno=True)
MCL_CURRENT, MCL_FUTURE = 1, 2


@contextlib.contextmanager
def in_memory() -> Iterator[None]:
    """Nothing of this process is swapped out: it may be the one to resume the device."""
    if _libc.mlockall(MCL_CURRENT | MCL_FUTURE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        yield
    finally:
        _libc.munlockall()


@contextlib.contextmanager
def swap_on(disk: Disk) -> Iterator[None]:
    """Swap on a disk, for the time of a with block."""
    run("mkswap", disk.path)
    with in_memory():
        run("swapon", disk.path)
        try:
            yield
        finally:
            run("swapoff", disk.path)


@contextlib.contextmanager
def swapping(size: int, rounds: int) -> Iterator[subprocess.Popen]:
    """A process with so many MiB that are swapped out and in; fails unless all pages were right."""
    words = [sys.executable, "-c", SWAPPING, str(size), str(rounds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        yield process
        text, _ = process.communicate(timeout=300)
        assert (text, process.returncode) == ("right\n", 0)
    finally:
        process.kill()
        process.wait(30)
