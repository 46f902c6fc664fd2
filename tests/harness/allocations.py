# SPDX-License-Identifier: GPL-2.0
"""Which of the memory that a thread allocated was never freed: from the kernel's own trace.

Counters such as those of /proc/meminfo are blurred by everything else that goes on. The tracepoints
of the group kmem name each object, so that a single one that is lost is found.
"""

import itertools
import os
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from harness import module
from harness.command import read_text, run, write_text

TRACEFS = Path("/sys/kernel/tracing")
_ALLOCATIONS = ("kmalloc", "kmem_cache_alloc", "mm_page_alloc")
_FREES = ("kfree", "kmem_cache_free", "mm_page_free", "mm_page_free_batched")
# See Documentation/admin-guide/mm/pagemap.rst.
KPF_SLAB = 7
# pytest-120 [000] ..... 12.3: kmalloc: call_site=f+0x1/0x2 [module] ptr=00000000c6cc1b32 ...
# pytest-120 [000] ..... 12.3: mm_page_alloc: page=... pfn=0x1ff order=4 migratetype=0 gfp_flags=...
_LINE = re.compile(
    r": (\w+): (?:call_site=([^+ ]+)\S*( \[\w+\])? ptr=(\S+)"
    r"|page=\S+ pfn=(\S+)(?:.* gfp_flags=(\S+))?)"
)

# Where our own code allocates: in it, or in what the kernel has for Rust, which on the debug kernel
# has a frame of its own.
OUR_CODE = re.compile(rf"\[{module.NAME}\]$|^(rust_helper_|kvrealloc_)")
# What a target's constructor allocates: by our own code, or for it by these. Everything else that a
# thread allocates on the way, for sysfs, slabs or the page tables, has a life of its own.
OURS = re.compile(
    rf"{OUR_CODE.pattern}"
    r"|^(dm_|bd_link_|bio|mempool_|alloc_workqueue|apply_wqattrs|init_rescuer|__kthread_create"
    r"|alloc_empty_file)"
    r"|^pages GFP_KERNEL\|__GFP_NOWARN\|__GFP_NORETRY(\|__GFP_COMP)?$"
)

# How many seconds that may take.
_PATIENCE = 10

_numbers = itertools.count()


class Allocations:
    """A context manager; after it `left` tells what was allocated inside of it by the thread that
    made it, and is still there: the callers' names, with a count."""

    def __init__(self, kilobytes: int = 32768):
        if not (TRACEFS / "instances").is_dir():
            run("mount", "-t", "tracefs", "tracefs", TRACEFS)
        self._folder = TRACEFS / "instances" / f"memory-{os.getpid()}-{next(_numbers)}"
        self._kilobytes = kilobytes
        self._left: Counter = Counter()
        self.seen: Counter = Counter()

    @property
    def ours(self) -> dict[str, int]:
        """What is left of that which a constructor allocates; empty is good."""
        assert any(OURS.search(name) for name in self.seen), f"nothing was traced: {self.seen}"
        return {name: count for name, count in self._left.items() if OURS.search(name)}

    @property
    def lost(self) -> dict[str, int]:
        """The same where workqueues were made and have gone: one is freed after a grace period, and
        its pools by the kernel's own worker."""
        return {name: n for name, n in self.ours.items() if name != "alloc_workqueue_va"}

    def _event(self, name: str) -> Path:
        return self._folder / "events/kmem" / name

    def __enter__(self) -> "Allocations":
        self._folder.mkdir()
        write_text(self._folder / "buffer_size_kb", self._kilobytes)
        for name in _ALLOCATIONS:
            write_text(self._event(name) / "filter", f"common_pid == {threading.get_native_id()}")
        for name in (*_FREES, *_ALLOCATIONS):
            write_text(self._event(name) / "enable", 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for name in _ALLOCATIONS:
                write_text(self._event(name) / "enable", 0)
            if kind is None:
                # Pages of files that were read look like ours.
                write_text("/proc/sys/vm/drop_caches", 3)
                self._wait_for_frees()
        finally:
            self._folder.rmdir()

    def _wait_for_frees(self) -> None:
        """A workqueue, and what else waits for the end of an RCU grace period, is freed later, on a
        busy machine much later."""
        for _ in range(_PATIENCE):
            time.sleep(1)
            self._balance()
            if not self.lost:
                break

    def _balance(self) -> None:
        self.seen.clear()
        for file in self._folder.glob("per_cpu/cpu*/stats"):
            lost = re.search(r"^overrun: (\d+)", read_text(file), re.MULTILINE)
            assert lost and lost[1] == "0", "the trace buffer is too small"
        alive: dict[str, str] = {}
        with (self._folder / "trace").open() as trace:
            for line in trace:
                match = _LINE.search(line)
                if match is None:
                    continue
                event, caller, within, pointer, page, flags = match.groups()
                key = pointer or page
                if event in _ALLOCATIONS:
                    alive[key] = f"{caller}{within or ''}" if caller else f"pages {flags}"
                    self.seen[alive[key]] += 1
                else:
                    alive.pop(key, None)
        slabs = _slabs(int(key, 16) for key in alive if key.startswith("0x"))
        self._left = Counter(name for key, name in alive.items() if key not in slabs)


def _slabs(frames: Iterable[int]) -> set[str]:
    """Those of some page frames that hold slab objects, which are accounted for one by one."""
    with open("/proc/kpageflags", "rb") as flags:
        return {hex(frame) for frame in frames if _flags_of(flags, frame) & 1 << KPF_SLAB}


def _flags_of(flags: BinaryIO, frame: int) -> int:
    flags.seek(8 * frame)
    return struct.unpack("=Q", flags.read(8))[0]
