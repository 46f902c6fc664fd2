# SPDX-License-Identifier: GPL-2.0
"""What is done to a device at random, in rounds: messages, tunables, reloads."""

import random
import time
from collections.abc import Callable

from harness.disk import Disk
from harness.track import Pair


class RandomSession:
    """A pair of a random layout, and random steps with it; the kinds of sessions have their own
    rounds, and steps that only they know."""

    _pair: Pair

    def __init__(self, seed: str):
        self._random = random.Random(seed)
        self._seed = seed

    def play(self, rounds: int) -> None:
        """All of the session."""
        number = 0
        try:
            for number in range(rounds):
                print(f"round {number}:", end=" ")
                self.round()
            self.end()
        except AssertionError as error:
            raise AssertionError(f"seed {self._seed}, round {number}: {error}") from error

    def round(self) -> None:
        """Some steps at random, then a look at what came of them."""
        raise NotImplementedError

    def end(self) -> None:
        """The load ends, and all is equal."""
        raise NotImplementedError

    def _layout(
        self, kind: str, disks: tuple[Disk, Disk], offsets: tuple, spare: tuple, size: int
    ) -> tuple[tuple[int, int], int]:
        """Offsets and a length in whole blocks of the backing device, on disks of so many MiB."""
        choose = self._random
        block = disks[0].block
        at = (choose.choice(offsets) // block * block, choose.choice(offsets))
        # virtio disks are as large as they were made.
        most = min(*(disk.sectors for disk in disks), size << 11) - max(at)
        lengths = (most, most // 2 - 24, *(most - less for less in spare))
        length = choose.choice(lengths) // block * block
        print(f"seed {self._seed}: {kind} {at} {length}", end=" ")
        return at, length

    def _features(self, sizes: int, *others: str) -> tuple[str | int, ...]:
        """A region size, of so many, and what else there is to choose."""
        choose = self._random
        features = ["region_size", 8 << choose.randrange(sizes), *self._pipeline()]
        features += [word for word in others if choose.random() < 0.5]
        print(features)
        return tuple(features)

    def _take(self, most: int, steps: tuple[Callable[[], None], ...]) -> None:
        """So many of the steps at the most, at least two, and little or no time between them."""
        choose = self._random
        for _ in range(choose.randrange(2, most + 1)):
            step = choose.choice(steps)
            print(step.__name__.lstrip("_"), end=" ")
            step()
            status = self._pair.device.clone_status()
            assert status.counters["mismatched"] == 0, status
            time.sleep(choose.choice((0, 0.002, 0.02, 0.1)))

    def _pipeline(self) -> list[str | int]:
        depth = self._random.choice((1, 2, 8, 32))
        return ["depth", depth, "batch", 8 << self._random.randrange(9)]

    def _range(self) -> tuple[int, int]:
        count = self._random.randrange(1, self._pair.length // 4)
        return self._random.randrange(self._pair.length - count), count

    def _start(self) -> None:
        self._pair.device.start()

    def _pause(self) -> None:
        self._pair.device.pause()

    def _copy(self) -> None:
        self._pair.device.copy(*self._range())

    def _verify(self) -> None:
        self._pair.device.verify()

    def _tune(self) -> None:
        pipeline = zip(*[iter(self._pipeline())] * 2, strict=True)
        name, value = self._random.choice((*pipeline, ("rate", 0), ("rate", 20000)))
        self._pair.device.tune(name, value)

    def _suspended(self, *meanwhile: Callable[[], None]) -> None:
        """Suspend and resume; perhaps one of these is done in between."""
        device, choose = self._pair.device, self._random
        device.suspend(choose.random() < 0.5, choose.random() < 0.5)
        self._check_complete("a suspend")
        if meanwhile:
            choose.choice(meanwhile)()
        time.sleep(choose.choice((0, 0.01)))
        device.resume(choose.random() < 0.5)

    def _reloaded(self, *modes: str) -> None:
        """A table with other tunables, and one of these modes."""
        pair, choose = self._pair, self._random
        others = [word for word in pair.features if word in ("strict_discard", "stable")]
        size = ("region_size", pair.region_size, "mode", choose.choice(modes))
        features = (*size, *self._pipeline(), *others)
        noflush = choose.random() < 0.5
        pair.device.load(pair.line(features=features))
        pair.device.suspend(noflush)
        self._check_complete("a reload")
        pair.device.resume(noflush)

    def _check_complete(self, what: str) -> None:
        """A suspended device that says it is complete is: both are compared whole."""
        status = self._pair.device.clone_status()
        if status.state == "complete":
            print("(complete)", end=" ")
            self._pair.check_equal(what, status.skipped)
