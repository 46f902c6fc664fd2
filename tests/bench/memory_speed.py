# SPDX-License-Identifier: GPL-2.0
"""How fast the module finds zeroes and compares, against the kernel's memcmp on the same memory.

The KUnit suite clone_rs_bio_memory measures it each time the module is loaded.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.measuring import arguments, median_interval  # noqa: E402
from harness import module  # noqa: E402
from harness.command import run  # noqa: E402

# The ratio to memcmp that both are to reach.
GOAL = 0.8
SAID = re.compile(r"512 KiB in ns: is_zero (\d+) is_same (\d+) memcmp (\d+)")


def figures() -> tuple[int, int, int]:
    """Load the module anew; how long each took, in ns."""
    module.unload()
    module.load()
    found = SAID.findall(run("dmesg").stdout)
    if not found:
        sys.exit("the kernel has no KUnit, or does not run it when the module is loaded")
    zero, same, memcmp = map(int, found[-1])
    return zero, same, memcmp


def main() -> None:
    """Measure."""
    given = arguments(__doc__.splitlines()[0], rounds=5)
    print(f"512 KiB in memory, {given.rounds} rounds; ratio to memcmp: median [95% interval]")
    seen = [figures() for _ in range(given.rounds)]
    for name, times in (("zero detection", 0), ("compare", 1)):
        median, low, high = median_interval([row[2] / row[times] for row in seen])
        mark = f"  below {GOAL}" if high < GOAL else ""
        print(f"  {name:24}{median:.3f} [{low:.3f}, {high:.3f}]{mark}", flush=True)


if __name__ == "__main__":
    main()
