# SPDX-License-Identifier: GPL-2.0
"""What passing through costs, against dm-linear over the same disk in the same boot.

dm-linear and clone-rs in each of its states are mapped over one null_blk disk, which does nothing
but complete requests, and measured in turn. A write to a complete device makes it copy again in the
background, which takes processor time from fio, so such writes are measured twice: with the copying
paused, which is what passing them through costs, and as it is, which has no goal.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measuring import Comparison, arguments  # noqa: E402
from harness.clone_rs import CloneDevice, clone_table, linear_table  # noqa: E402
from harness.disk import Disk  # noqa: E402
from harness.disk_factories import null_blk  # noqa: E402
from harness.dm import Device  # noqa: E402
from harness.fio import Fio  # noqa: E402

LOADS = {
    "random read 4 KiB": {"rw": "randread", "bs": "4k"},
    "random write 4 KiB": {"rw": "randwrite", "bs": "4k"},
    "sequential read 1 MiB": {"rw": "read", "bs": "1M"},
    "sequential write 1 MiB": {"rw": "write", "bs": "1M"},
}
# The ratio that pass-through is to reach.
GOAL = 0.97
RECOPYING = "complete, copied again"
# A disk that costs as little as can be.
FAST = {"size": 64, "memory_backed": 0, "irqmode": 0, "submit_queues": 2}


def iops(disk: Disk, load: dict, seconds: float) -> float:
    """I/Os per second of one run of fio."""
    options = load | {"iodepth": 32, "time_based": 1, "runtime": seconds, "norandommap": 1}
    job = Fio(disk, **options).wait(timeout=60 * seconds + 60)
    return sum(job[way]["iops"] for way in ("read", "write"))


def idle(device: CloneDevice, measure: Callable[[Disk], float]) -> float:
    """Nothing was ever started."""
    figure = measure(device.disk)
    assert device.clone_status().state == "idle"
    return figure


def complete(device: CloneDevice, measure: Callable[[Disk], float]) -> float:
    """All is in sync at the beginning; what is written is copied again at once. It is at rest when
    this returns, so that it disturbs no other."""
    device.start_and_wait()
    figure = measure(device.disk)
    device.wait_complete()
    return figure


def complete_paused(device: CloneDevice, measure: Callable[[Disk], float]) -> float:
    """All is in sync at the beginning; what is written becomes dirty, and is not copied."""
    device.start_and_wait()
    device.pause()
    figure = measure(device.disk)
    assert device.clone_status().state == "paused"
    return figure


def compare(load: str, linear: Device, resting: CloneDevice, copying: CloneDevice, how: dict):
    """Measure one load, and print what came out."""
    measure = functools.partial(iops, load=LOADS[load], seconds=how["seconds"])
    functions = {
        "dm-linear": lambda: measure(linear.disk),
        "idle": lambda: idle(resting, measure),
    }
    if "write" in LOADS[load]["rw"]:
        functions["complete, paused"] = lambda: complete_paused(copying, measure)
        functions[RECOPYING] = lambda: complete(copying, measure)
    else:
        functions["complete"] = lambda: complete(copying, measure)
    Comparison(load, functions, "IOPS").print(how["rounds"], GOAL, RECOPYING)


def main() -> None:
    """Set up the devices, measure, take them away."""
    how = vars(arguments(__doc__.splitlines()[0], rounds=3, seconds=1.0))
    print(f"passing through, {how['rounds']} rounds of {how['seconds']:g} s, queue depth 32;")
    print("ratio to dm-linear: median [95% interval]")
    with contextlib.ExitStack() as stack:
        backing = stack.enter_context(null_blk(**FAST))
        clone = stack.enter_context(null_blk(**FAST))

        def mapped(kind: type[Device], name: str, table: str) -> Device:
            device = kind.create(f"bench-{name}", table)
            stack.callback(device.remove)
            return device

        linear = mapped(Device, "linear", linear_table(backing))
        resting = mapped(CloneDevice, "idle", clone_table(backing, clone))
        copying = mapped(CloneDevice, "copying", clone_table(backing, clone))
        for load in LOADS:
            compare(load, linear, resting, copying, how)


if __name__ == "__main__":
    main()
