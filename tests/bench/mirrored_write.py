# SPDX-License-Identifier: GPL-2.0
"""What a write to two devices costs, against md's RAID1 and dm-mirror over disks of the same kind.

All are measured in turn in the same boot, over pairs of null_blk disks of their own, which do
nothing but complete requests, so that what is seen is what the mirror costs the processors; and
over pairs that take a while for each request, where it is whether both are written at once. md and
dm-mirror keep no log, as clone-rs keeps none on disk.
"""

import contextlib
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measuring import Comparison, arguments  # noqa: E402
from harness.clone_rs import CloneDevice, clone_table  # noqa: E402
from harness.disk import Disk  # noqa: E402
from harness.disk_factories import md_raid1, null_blk  # noqa: E402
from harness.dm import Device  # noqa: E402
from harness.fio import Fio  # noqa: E402

SIZE = 64
DISKS = {
    "in no time": {"irqmode": 0},
    "1 ms a request": {"irqmode": 2, "completion_nsec": 1_000_000},
}
LOADS = {
    "random 4 KiB, one at a time": {"rw": "randwrite", "bs": "4k", "iodepth": 1},
    "random 4 KiB, 32 at a time": {"rw": "randwrite", "bs": "4k", "iodepth": 32},
    "sequential 1 MiB, 4 at a time": {"rw": "write", "bs": "1M", "iodepth": 4},
}
GOAL = 1.0


def iops(disk: Disk, load: dict, seconds: float) -> float:
    """Writes per second of one run of fio."""
    options = load | {"time_based": 1, "runtime": seconds, "norandommap": 1}
    return Fio(disk, **options).wait(timeout=60 * seconds + 60)["write"]["iops"]


def mirrored(device: CloneDevice, measure: functools.partial) -> float:
    """Both devices are the same, and stay so."""
    figure = measure(device.disk)
    assert device.clone_status().state == "complete"
    return figure


def main() -> None:
    """Set up the mirrors, measure, take them away."""
    how = vars(arguments(__doc__.splitlines()[0], rounds=3, seconds=0.3))
    print(f"mirrored writes, {how['rounds']} rounds of {how['seconds']:g} s;")
    print("ratio to md's RAID1: median [95% interval]")
    for kind, attributes in DISKS.items():
        with contextlib.ExitStack() as stack:

            def pair(stack=stack, attributes=attributes) -> tuple[Disk, Disk]:
                how = {"memory_backed": 0, "submit_queues": 2} | attributes
                return tuple(stack.enter_context(null_blk(SIZE, **how)) for _ in range(2))

            def mapped(
                maker: type[Device], name: str, table: str, stack=stack
            ) -> Device | CloneDevice:
                device = maker.create(f"bench-{name}", table)
                stack.callback(device.remove)
                return device

            md = stack.enter_context(md_raid1(*pair()))
            first, second = pair()
            ends = f"2 {first.path} 0 {second.path} 0"
            peer = mapped(Device, "mirror", f"0 {SIZE << 11} mirror core 2 1024 nosync {ends}")
            ours = mapped(CloneDevice, "ours", clone_table(*pair(), features=()))
            features = ("stable",)
            stable = mapped(CloneDevice, "stable", clone_table(*pair(), features=features))
            for device in ours, stable:
                device.start_and_wait()
            for load, options in LOADS.items():
                measure = functools.partial(iops, load=options, seconds=how["seconds"])
                functions = {
                    "md": functools.partial(measure, md),
                    "dm-mirror": functools.partial(measure, peer.disk),
                    "clone-rs": functools.partial(mirrored, ours, measure),
                    "clone-rs, stable": functools.partial(mirrored, stable, measure),
                }
                title = f"{load}; disks that end {kind}"
                Comparison(title, functions, "IOPS").print(how["rounds"], GOAL, "dm-mirror")


if __name__ == "__main__":
    main()
