# SPDX-License-Identifier: GPL-2.0
"""What passing through costs, against dm-linear over the same disk in the same boot.

Three mapped devices over one null_blk disk are measured in turn, round after round: dm-linear,
clone-rs, and dm-linear once more. The figure is the median over the rounds of the ratio of their
I/Os per second, with the interval that has the true median in it in 95 of 100 cases; the second
dm-linear shows how far the machine's noise alone moves a ratio.
"""

import argparse
import itertools
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.clone_rs import clone_table, linear_table  # noqa: E402
from harness.disk import Disk  # noqa: E402
from harness.disk_factories import null_blk  # noqa: E402
from harness.dm import Device  # noqa: E402
from harness.fio import Fio  # noqa: E402

LOADS = {
    "random read 4k": {"rw": "randread", "bs": "4k"},
    "random write 4k": {"rw": "randwrite", "bs": "4k"},
    "sequential read 1M": {"rw": "read", "bs": "1M"},
    "sequential write 1M": {"rw": "write", "bs": "1M"},
}
# The ratio that pass-through is to reach.
GOAL = 0.97


def iops(disk: Disk, load: dict, seconds: float) -> float:
    """I/Os per second of one run of fio."""
    options = load | {"iodepth": 32, "time_based": 1, "runtime": seconds, "norandommap": 1}
    job = Fio(disk, **options).wait(timeout=seconds + 60)
    return sum(job[way]["iops"] for way in ("read", "write"))


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the order statistics that have the true one between them at 95%."""
    ordered = sorted(values)
    n = len(ordered)
    outside = 0
    below = 0.0
    while True:
        below += math.comb(n, outside) / 2**n
        if 2 * below > 0.05 or outside >= n // 2:
            break
        outside += 1
    lowest = max(outside - 1, 0)
    return statistics.median(ordered), ordered[lowest], ordered[n - 1 - lowest]


def measure(devices: dict[str, Disk], rounds: int, seconds: float) -> None:
    """Print a table of ratios, a line for each load."""
    print(f"{rounds} rounds of {seconds:g} s each; ratio to dm-linear: median [95% interval]")
    print(f"{'':22}{'dm-linear':>12}  {'clone-rs':24}{'dm-linear again'}")
    for name, load in LOADS.items():
        seen: dict[str, list[float]] = {device: [] for device in devices}
        for turn in range(rounds):
            # Each device comes first as often as the others.
            order = itertools.islice(itertools.cycle(devices), turn, turn + len(devices))
            for device in order:
                seen[device].append(iops(devices[device], load, seconds))
        line = f"{name:22}{statistics.median(seen['linear']):12.0f}  "
        for device in ("clone-rs", "linear again"):
            ratios = [a / b for a, b in zip(seen[device], seen["linear"], strict=True)]
            median, low, high = median_interval(ratios)
            mark = "" if device != "clone-rs" or high >= GOAL else "  below 0.97"
            line += f"{f'{median:.3f} [{low:.3f}, {high:.3f}]{mark}':24}"
        print(line, flush=True)


def main() -> None:
    """Set up the devices, measure, take them away."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1)
    arguments = parser.parse_args()

    fast = {"memory_backed": 0, "irqmode": 0, "submit_queues": 2}
    with null_blk(size=64, **fast) as backing, null_blk(size=64, **fast) as clone:
        tables = {
            "linear": linear_table(backing),
            "clone-rs": clone_table(backing, clone),
            "linear again": linear_table(backing),
        }
        devices: dict[str, Device] = {}
        try:
            for number, (name, table) in enumerate(tables.items()):
                devices[name] = Device.create(f"bench{number}", table)
            disks = {name: device.disk for name, device in devices.items()}
            measure(disks, arguments.rounds, arguments.seconds)
        finally:
            for device in devices.values():
                device.remove()


if __name__ == "__main__":
    main()
