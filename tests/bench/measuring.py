# SPDX-License-Identifier: GPL-2.0
"""Comparisons in the noise of a machine that does other things, too.

What is compared is measured in turn, round after round. The figure is the median over the rounds of
the ratio to the yardstick of the same round, with the interval that has the true median in it in 95
of 100 cases; of fewer than six rounds it is the least and the largest. The yardstick is measured a
second time in each round: that ratio shows how far noise alone moves one.
"""

import argparse
import math
import statistics
from collections.abc import Callable


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


class Comparison:
    """What is measured in turn, by name, each by a function that measures once and returns how much
    was done a second; the first one is the yardstick."""

    def __init__(self, title: str, functions: dict[str, Callable[[], float]], unit: str):
        self.title = title
        self.unit = unit
        self.yardstick = next(iter(functions))
        self.again = f"{self.yardstick} again"
        self._functions = functions | {self.again: functions[self.yardstick]}

    def run(self, rounds: int) -> dict[str, list[float]]:
        """Measure; another one comes first in each round."""
        names = list(self._functions)
        seen: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seen[name].append(self._functions[name]())
        return seen

    def print(self, rounds: int, goal: float, *without_goal: str) -> None:
        """Measure, and print each ratio in a line of its own, and where its whole interval lies
        below the goal."""
        seen = self.run(rounds)
        base = seen.pop(self.yardstick)
        print(f"{self.title}: {self.yardstick} {statistics.median(base):.0f} {self.unit}")
        for name, values in seen.items():
            ratios = [a / b for a, b in zip(values, base, strict=True)]
            median, low, high = median_interval(ratios)
            judged = name not in (*without_goal, self.again)
            mark = f"  below {goal}" if judged and high < goal else ""
            print(f"  {name:24}{median:.3f} [{low:.3f}, {high:.3f}]{mark}", flush=True)


def arguments(description: str, rounds: int, **more: float) -> argparse.Namespace:
    """--rounds, and more options that take a number."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()
