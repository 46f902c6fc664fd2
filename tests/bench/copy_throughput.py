# SPDX-License-Identifier: GPL-2.0
"""How fast a whole device is copied, against dd between the same two devices in the same boot.

clone-rs is timed from `start` to the event of `complete`, so with the flush of the clone; dd
(bs=1M iflag=direct oflag=direct) times itself, so without its own start.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measuring import Comparison, arguments  # noqa: E402
from harness.clone_rs import TRACK, CloneDevice, clone_table  # noqa: E402
from harness.command import run  # noqa: E402
from harness.data import stamped  # noqa: E402
from harness.disk import Disk  # noqa: E402
from harness.disk_factories import Brd, null_blk  # noqa: E402
from harness.dm_ioctl import Command, call  # noqa: E402
from harness.image import assert_same_disks  # noqa: E402
from harness.io import write  # noqa: E402

# The ratio to dd that copying is to reach.
GOAL = 1.0
NAME = "bench-copy"


def by_clone_rs(backing: Disk, clone: Disk, *features: str, dealt: str = "copied") -> float:
    """Copy once; MiB a second. What is dealt with all sectors is this."""
    table = clone_table(backing, clone, features=(*TRACK, *features))
    device = CloneDevice.create(NAME, table)
    try:
        event = device.info().event
        begin = time.monotonic()
        device.start()
        call(Command.DEV_WAIT, NAME, event=event)
        seconds = time.monotonic() - begin
        status = device.clone_status()
        assert status.state == "complete", status
        assert status.counters[dealt] == backing.sectors, status
    finally:
        device.remove()
    return backing.sectors / 2048 / seconds


def by_dd(backing: Disk, clone: Disk) -> float:
    """Copy once; MiB a second."""
    said = run(
        *("dd", f"if={backing.path}", f"of={clone.path}", "bs=1M"),
        *("iflag=direct", "oflag=direct"),
    ).stderr
    copied = re.search(r"^(\d+) bytes .* copied, ([\d.e-]+) s", said, re.MULTILINE)
    assert copied and int(copied[1]) == backing.sectors * 512, said
    return int(copied[1]) / (1 << 20) / float(copied[2])


@contextlib.contextmanager
def two_null_blk(size: int, **attributes: object) -> Iterator[tuple[Disk, Disk]]:
    """A pair of null_blk disks."""
    attributes = {"submit_queues": 2} | attributes
    with null_blk(size, **attributes) as backing, null_blk(size, **attributes) as clone:
        yield backing, clone


@contextlib.contextmanager
def two_brd(size: int) -> Iterator[tuple[Disk, Disk]]:
    """A pair of RAM disks."""
    module = Brd(size)
    try:
        yield module.add(), module.add()
    finally:
        module.close()


# What the devices are, by name: fast ones show what the copy costs the processors, those with a
# bound or a delay whether it keeps the devices busy. Sizes in MiB.
PAIRS: dict[str, Callable] = {
    "null_blk, in memory": lambda: two_null_blk(128, irqmode=0),
    "null_blk, in memory, completed by softirq": lambda: two_null_blk(128, irqmode=1),
    "brd": lambda: two_brd(128),
    "null_blk, 200 MB/s each": lambda: two_null_blk(64, mbps=200),
    "null_blk, 2 ms a request": lambda: two_null_blk(64, irqmode=2, completion_nsec=2_000_000),
}


def measure(name: str, backing: Disk, clone: Disk, rounds: int) -> None:
    """Compare on one pair, and see that something is copied at all."""
    write(backing, 0, stamped("bench", 0, backing.sectors))
    by_clone_rs(backing, clone)
    assert_same_disks(backing, clone, name)
    functions = {
        "dd": lambda: by_dd(backing, clone),
        "clone-rs": lambda: by_clone_rs(backing, clone),
    }
    Comparison(name, functions, "MiB/s").print(rounds, GOAL)


def main() -> None:
    """Measure on all pairs."""
    given = arguments(__doc__.splitlines()[0], rounds=9)
    print(f"copying, {given.rounds} rounds; ratio to dd: median [95% interval]")
    for name, pair in PAIRS.items():
        with pair() as (backing, clone):
            measure(name, backing, clone, given.rounds)


if __name__ == "__main__":
    main()
