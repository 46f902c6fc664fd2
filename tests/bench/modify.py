# SPDX-License-Identifier: GPL-2.0
"""What it costs to look for zeroes, and to compare, against a copy that does neither, between the
same two devices in the same boot: of data that never repeats, so that nothing is gained by it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.copy_throughput import by_clone_rs  # noqa: E402
from bench.measuring import Comparison, arguments  # noqa: E402
from harness.data import SECTOR, stamped  # noqa: E402
from harness.disk import Disk  # noqa: E402
from harness.disk_factories import loop, null_blk  # noqa: E402
from harness.image import assert_same_disks  # noqa: E402
from harness.io import write  # noqa: E402

# The ratio to a plain copy that one with `sparse` is to reach.
GOAL = 0.97
SIZE = 64


def measure(backing: Disk, clone: Disk, rounds: int) -> None:
    """Compare, and see that all is copied."""
    write(backing, 0, stamped("bench", 0, backing.sectors))
    by_clone_rs(backing, clone, "sparse")
    assert_same_disks(backing, clone, "sparse")

    def differing() -> float:
        write(clone, 0, bytes(clone.sectors * SECTOR))
        return by_clone_rs(backing, clone, "delta")

    def copy() -> float:
        return by_clone_rs(backing, clone)

    # What `delta` reads has its price; only `sparse` has a goal, and nothing slow between.
    title = "null_blk to a loop device in memory"
    functions = {"copy": copy, "sparse": lambda: by_clone_rs(backing, clone, "sparse")}
    Comparison(title, functions, "MiB/s").print(rounds, GOAL)
    functions = {
        "copy": copy,
        "delta, all differs": differing,
        "delta, nothing does": lambda: by_clone_rs(backing, clone, "delta", dealt="unchanged"),
    }
    Comparison(title, functions, "MiB/s").print(rounds, GOAL, *functions)


def main() -> None:
    """Measure."""
    given = arguments(__doc__.splitlines()[0], rounds=3)
    print(f"copying, {given.rounds} rounds; ratio to a plain copy: median [95% interval]")
    with null_blk(SIZE, irqmode=0, submit_queues=2) as backing, loop(SIZE) as clone:
        measure(backing, clone, given.rounds)


if __name__ == "__main__":
    main()
