# SPDX-License-Identifier: GPL-2.0
"""Which bios reach a device: the tracepoint block_bio_queue, filtered for it.

Unlike a queue's counters it shows each bio as the layer above sent it: not yet merged or split,
with its flags, and also where the device below is itself bio-based. How urgent they are is seen
where a scheduler gets them as requests (block_rq_insert).
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.command import run, write_text
from harness.disk import Disk

TRACEFS = Path("/sys/kernel/tracing")
# nullb0-123  [000] ..... 12.3: block_bio_queue: 252,0 WS 8 + 16 [fio]
_BIO = re.compile(r"block_bio_queue: (\d+),(\d+) (\S+) (\d+) \+ (\d+) \[.*\]$")
# nullb0-123  [000] ..... 12.3: block_rq_insert: 252,0 WS 4096 () 8 + 16 be,0,4 [fio]
_REQUEST = re.compile(r"block_rq_insert: (\d+),(\d+) .* \+ (\d+) (\w+),\d+,\d+ \[.*\]$")
_TIME = re.compile(r" (\d+\.\d+): block_")
_KEPT = re.compile(r"^# entries-in-buffer/entries-written: (\d+)/(\d+) ", re.MULTILINE)

_numbers = itertools.count()


class Bio(NamedTuple):
    """`kind` is blktrace's: F (flush before), then R W D DE WZ, then F (FUA) A S M U (atomic)."""

    kind: str
    sector: int
    count: int


class Request(NamedTuple):
    """`priority` is an I/O class: none, rt, be, idle."""

    sectors: int
    priority: str


class BioTrace:
    """The bios that some devices have got."""

    def __init__(self, folder: Path):
        self._folder = folder

    def clear(self) -> None:
        """Forget what was seen so far."""
        os.close(os.open(self._folder / "trace", os.O_WRONLY | os.O_TRUNC))

    def _of(self, disk: Disk, pattern: re.Pattern) -> Iterator[re.Match]:
        for line in (self._folder / "trace").read_text().splitlines():
            match = pattern.search(line)
            if match and disk.number == f"{match[1]}:{match[2]}":
                yield match

    def bios(self, disk: Disk) -> list[Bio]:
        """The bios that one device has got since the last clear."""
        return [Bio(match[3], int(match[4]), int(match[5])) for match in self._of(disk, _BIO)]

    def timed(self, disk: Disk) -> list[tuple[float, Bio]]:
        """The same, each with the time in seconds at which it came; fail if any were lost."""
        kept, written = _KEPT.search((self._folder / "trace").read_text()).groups()
        assert kept == written, f"only {kept} of {written} lines are left in the trace"
        return [
            (float(_TIME.search(match.string)[1]), Bio(match[3], int(match[4]), int(match[5])))
            for match in self._of(disk, _BIO)
        ]

    def requests(self, disk: Disk) -> list[Request]:
        """The requests that the scheduler of one device has got since the last clear."""
        return [Request(int(match[3]), match[4].lower()) for match in self._of(disk, _REQUEST)]


@contextlib.contextmanager
def bio_trace(*disks: Disk, event: str = "block_bio_queue", memory: int = 64) -> Iterator[BioTrace]:
    """Trace the bios that these devices get, or another event of theirs. There is room for so many
    KiB of them on each CPU; what comes then replaces the oldest."""
    if not (TRACEFS / "instances").is_dir():
        run("mount", "-t", "tracefs", "tracefs", TRACEFS)
    folder = TRACEFS / "instances" / f"bios-{os.getpid()}-{next(_numbers)}"
    settings = folder / "events/block" / event
    numbers = [[int(word) for word in disk.number.split(":")] for disk in disks]
    # The trace has the kernel's own dev_t: 20 bits of minor number.
    wanted = " || ".join(f"dev == {major << 20 | minor}" for major, minor in numbers)
    folder.mkdir()
    try:
        write_text(folder / "buffer_size_kb", memory)
        # The same on all CPUs.
        write_text(folder / "trace_clock", "mono")
        write_text(settings / "filter", wanted)
        write_text(settings / "enable", 1)
        yield BioTrace(folder)
        write_text(settings / "enable", 0)
    finally:
        folder.rmdir()
