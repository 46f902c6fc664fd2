# SPDX-License-Identifier: GPL-2.0
"""Whatever is done to a device, in whatever order and at whatever moment: fio finds what it wrote,
and a suspend that finishes the copy leaves both ranges equal and all around them as it was.

Each round is a sequence of messages, suspends and reloads at random under load, and ends with such
a suspend. The seed is printed where a round fails; `--seed` repeats its decisions, though not its
timing.
"""

import time

import pytest

from harness.kernel_log import Guard
from harness.mixed_load import MixedLoad
from harness.random_session import RandomSession
from harness.rig import Rig
from harness.track import PAIRS, Pair

SIZE = 4
KINDS = list(PAIRS)


class Session(RandomSession):
    """Of `mode track`."""

    def __init__(self, rig: Rig, seed: str):
        super().__init__(seed)
        self._started = False
        self._skipped: list[tuple[int, int]] = []
        kind = self._random.choice(KINDS)
        disks = PAIRS[kind](rig, SIZE)
        layout = self._layout(kind, disks, (0, 8, 64, 1000, 7, 13), (8, 111), SIZE)
        features = self._features(11, "strict_discard")
        self._pair = Pair(rig, *disks, *layout, features)
        disk = self._pair.device.disk
        self._load = MixedLoad(rig, disk, randseed=self._random.randrange(1 << 31))

    def round(self) -> None:
        """Some steps at random, then the end of the copy."""
        choose, device = self._random, self._pair.device
        steps = (self._start, self._start, self._pause, self._copy, self._skip)
        steps += (self._tune, self._tune, self._suspend, self._suspend)
        steps += (self._verify, self._verify)
        self._take(8, (*steps, self._reload, self._reload, self._finish))
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

    def _start(self) -> None:
        super()._start()
        self._started = True

    def _pause(self) -> None:
        super()._pause()
        self._started = False

    def _skip(self) -> None:
        self._skipped.append(self._range())
        self._pair.device.skip(*self._skipped[-1])

    def _suspend(self) -> None:
        self._suspended(self._start, self._pause, lambda: None)

    def _reload(self) -> None:
        self._reloaded("track")

    def _finish(self) -> None:
        """Arm, and let something else come before the suspend."""
        if self._started:
            self._pair.device.finish()


@pytest.mark.parametrize("number", range(5))
def test_random_rounds(rig: Rig, kernel_log: Guard, seed: int, number: int, brief: bool) -> None:
    """30 rounds in five sessions."""
    kernel_log.allow(r"operation not supported error, dev loop")
    Session(rig, f"{seed}-{number}").play(2 if brief else 6)


@pytest.mark.long
@pytest.mark.parametrize("number", range(5, 45))
def test_many_random_rounds(rig: Rig, kernel_log: Guard, seed: int, number: int) -> None:
    """Hundreds of rounds."""
    kernel_log.allow(r"operation not supported error, dev loop")
    Session(rig, f"{seed}-{number}").play(12)
