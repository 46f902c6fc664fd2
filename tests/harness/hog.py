# SPDX-License-Identifier: GPL-2.0
"""Memory, and a process that takes most of it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Takes so many KiB, says so, and is the first that the OOM killer would end.
HOG = """
import sys, time
open("/proc/self/oom_score_adj", "w").write("1000")
memory = bytearray(b"x") * (int(sys.argv[1]) << 10)
print("ready", flush=True)
time.sleep(600)
"""


def memory(name: str) -> int:
    """A line of /proc/meminfo, in KiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        word, value = line.split()[:2]
        if word == f"{name}:":
            return int(value)
    raise KeyError(name)


def reclaimed() -> int:
    """How many pages were taken from somebody because others needed them."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    found = dict(line.split() for line in lines)
    return int(found["pgsteal_kswapd"]) + int(found["pgsteal_direct"])


@contextlib.contextmanager
def hog(size: int) -> Iterator[None]:
    """A process has so many KiB, for the time of a with block; nobody may kill it for them."""
    process = subprocess.Popen([sys.executable, "-c", HOG, str(size)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(30)
