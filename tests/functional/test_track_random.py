# SPDX-License-Identifier: GPL-2.0
"""Whatever is done to a device, in whatever order and at whatever moment: fio finds what it wrote,
and a suspend that finishes the copy leaves both ranges equal and all around them as it was.

Each round is a sequence of messages, suspends and reloads at random under load, and ends with such
a suspend. The seed is printed where a round fails; `--seed` repeats its decisions, though not its
timing.
"""

import random
import time

import pytest

from harness.kernel_log import Guard
from harness.mixed_load import MixedLoad
from harness.rig import Rig
from harness.track import PAIRS, Pair

SIZE = 4
KINDS = list(PAIRS)


class Session:
    """A device of a random layout, and random rounds with it."""

    def __init__(self, rig: Rig, seed: str):
        self._random = choose = random.Random(seed)
        self._started = False
        self._skipped: list[tuple[int, int]] = []
        kind = choose.choice(KINDS)
        backing, clone = PAIRS[kind](rig, SIZE)
        block = max(backing.block, clone.block)
        offsets = tuple(choose.choice((0, 8, 64, 1000, 7, 13)) // block * block for _ in range(2))
        # virtio disks are as large as they were made.
        most = min(backing.sectors, clone.sectors, SIZE << 11) - max(offsets)
        length = choose.choice((most, most - 8, most // 2 - 24, most - 111)) // block * block
        features = ["region_size", 8 << choose.randrange(11), *self._pipeline()]
        if choose.random() < 0.5:
            features.append("strict_discard")
        print(f"seed {seed}: {kind} {offsets} {length} {features}")
        self._pair = Pair(rig, backing, clone, offsets, length, tuple(features))
        self._load = MixedLoad(rig, self._pair.device.disk, randseed=choose.randrange(1 << 31))

    def round(self) -> None:
        """Some steps at random, then the end of the copy."""
        choose, device = self._random, self._pair.device
        steps = (
            *(
                self._start,
                self._start,
                self._pause,
                self._copy,
                self._skip,
                self._tune,
                self._tune,
            ),
            *(self._suspend, self._suspend, self._reload, self._reload, self._finish),
        )
        for _ in range(choose.randrange(2, 9)):
            step = choose.choice(steps)
            print(step.__name__.lstrip("_"), end=" ")
            step()
            time.sleep(choose.choice((0, 0.002, 0.02, 0.1)))
        for sector, count in self._skipped:
            device.copy(sector, count)
        self._skipped.clear()
        self._start()
        time.sleep(choose.choice((0, 0.01, 0.2)))
        if choose.random() < 0.3:
            device.load(self._pair.table)
        self._pair.finish("the end of a round")
        print("finished")
        device.resume()

    def end(self) -> None:
        """End the load, and remove the device, which finishes the copy, too."""
        device = self._pair.device
        self._start()
        self._load.stop()
        device.finish()
        skipped = device.clone_status().skipped
        device.remove()
        self._pair.check_equal("after the end", skipped)

    def _pipeline(self) -> list[str | int]:
        return [
            "depth",
            self._random.choice((1, 2, 8, 32)),
            "batch",
            8 << self._random.randrange(9),
        ]

    def _range(self) -> tuple[int, int]:
        count = self._random.randrange(1, self._pair.length // 4)
        return self._random.randrange(self._pair.length - count), count

    def _start(self) -> None:
        self._pair.device.start()
        self._started = True

    def _pause(self) -> None:
        self._pair.device.pause()
        self._started = False

    def _copy(self) -> None:
        self._pair.device.copy(*self._range())

    def _skip(self) -> None:
        self._skipped.append(self._range())
        self._pair.device.skip(*self._skipped[-1])

    def _tune(self) -> None:
        name, value = self._random.choice(
            (*zip(*[iter(self._pipeline())] * 2, strict=True), ("rate", 0), ("rate", 20000))
        )
        self._pair.device.tune(name, value)

    def _suspend(self) -> None:
        device, choose = self._pair.device, self._random
        device.suspend(choose.random() < 0.5, choose.random() < 0.5)
        choose.choice((self._start, self._pause, lambda: None))()
        time.sleep(choose.choice((0, 0.01)))
        device.resume(choose.random() < 0.5)

    def _reload(self) -> None:
        pair, choose = self._pair, self._random
        others = [word for word in pair.features if word == "strict_discard"]
        size = ("region_size", pair.region_size, "mode", "track")
        features = (*size, *self._pipeline(), *others)
        pair.device.reload(pair.line(features=features), choose.random() < 0.5)

    def _finish(self) -> None:
        """Arm, and let something else come before the suspend."""
        if self._started:
            self._pair.device.finish()


def play(rig: Rig, seed: str, rounds: int) -> None:
    """One session."""
    session = Session(rig, seed)
    for number in range(rounds):
        print(f"round {number}:", end=" ")
        session.round()
    session.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(5))
def test_random_rounds(rig: Rig, kernel_log: Guard, seed: int, number: int, brief: bool) -> None:
    """30 rounds in five sessions."""
    kernel_log.allow(r"operation not supported error, dev loop")
    play(rig, f"{seed}-{number}", rounds=2 if brief else 6)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(5, 45))
def test_many_random_rounds(rig: Rig, kernel_log: Guard, seed: int, number: int) -> None:
    """Hundreds of rounds."""
    kernel_log.allow(r"operation not supported error, dev loop")
    play(rig, f"{seed}-{number}", rounds=12)
