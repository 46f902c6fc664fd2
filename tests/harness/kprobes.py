# SPDX-License-Identifier: GPL-2.0
"""Counting the calls of kernel functions, with kprobe events."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from harness.command import run, write_text

TRACEFS = Path("/sys/kernel/tracing")

_numbers = itertools.count()


class Probes:
    """Kprobes on kernel functions; `hits` tells how often one was called."""

    def __init__(self, group: str):
        self._group = group

    def hits(self, name: str) -> int:
        """How often the function was called since the probe was set."""
        for line in (TRACEFS / "kprobe_profile").read_text().splitlines():
            event, hits, _ = line.split()
            if event in (name, f"{self._group}/{name}"):
                return int(hits)
        raise LookupError(name)


@contextlib.contextmanager
def kprobes(**functions: str) -> Iterator[Probes]:
    """Probe kernel functions: kprobes(name="function")."""
    if not (TRACEFS / "kprobe_events").exists():
        run("mount", "-t", "tracefs", "tracefs", TRACEFS)
    group = f"tests{os.getpid()}x{next(_numbers)}"
    made = []
    try:
        for name, function in functions.items():
            write_text(TRACEFS / "kprobe_events", f"p:{group}/{name} {function}")
            made.append(name)
            write_text(TRACEFS / "events" / group / name / "enable", 1)
        yield Probes(group)
    finally:
        for name in made:
            write_text(TRACEFS / "events" / group / name / "enable", 0)
            write_text(TRACEFS / "kprobe_events", f"-:{group}/{name}")
