# SPDX-License-Identifier: GPL-2.0
"""Whatever is done to a mirror, in whatever order and at whatever moment: fio finds what it wrote,
what counts as in sync is equal whenever the device is suspended, and copying ends under load.

Each round is a sequence of messages, suspends, reloads, mode switches and failures of the clone at
random under overlapping load. The seed is printed where a round fails; `--seed` repeats its
decisions, though not its timing.
"""

import random
import time

import pytest

from harness.faulty import SAID, Faulty
from harness.fio import Fio
from harness.kernel_log import Guard
from harness.mixed_load import MixedLoad
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import PAIRS, Pair

KINDS = ["null_blk-512", "null_blk-4096", "null_blk-4096-512", "loop", "brd"]


class Session:
    """A mirror of a random layout, and random rounds with it."""

    def __init__(self, rig: Rig, seed: str):
        self._random = choose = random.Random(seed)
        kind = choose.choice(KINDS)
        backing, clone = PAIRS[kind](rig, 4)
        self._faulty = Faulty(rig, clone)
        block = max(backing.block, clone.block)
        offsets = tuple(choose.choice((0, 8, 64, 1000)) // block * block for _ in range(2))
        most = min(backing.sectors, clone.sectors) - max(offsets)
        length = choose.choice((most, most - 8, most // 2 - 24)) // block * block
        features = ["region_size", 8 << choose.randrange(8), *self._pipeline()]
        if choose.random() < 0.5:
            features.append("strict_discard")
        if choose.random() < 0.3:
            features.append("stable")
        print(f"seed {seed}: {kind} {offsets} {length} {features}")
        self._pair = Pair(
            rig, backing, self._faulty.disk, offsets, length, tuple(features), mode="mirror"
        )
        disk = self._pair.device.disk
        self._load = MixedLoad(rig, disk, randseed=choose.randrange(1 << 31))
        # Writers that overlap each other all the time, in the part where nobody verifies.
        self._overlapping: Fio = rig.fio(
            disk,
            **{"rw": "randwrite", "bsrange": f"{block * 512}-64k", "iodepth": 16, "numjobs": 2},
            **{"offset": self._load.free * 512, "size": "96k", "norandommap": 1},
            **{"time_based": 1, "runtime": 600},
        )

    def round(self) -> None:
        """Some steps at random, then a look at what is in sync."""
        choose, device = self._random, self._pair.device
        steps = (self._start, self._start, device.pause, self._copy, self._tune)
        steps += (self._suspend, self._suspend, self._reload, self._switch, self._fail)
        for _ in range(choose.randrange(2, 8)):
            step = choose.choice(steps)
            print(step.__name__.lstrip("_"), end=" ")
            step()
            time.sleep(choose.choice((0, 0.002, 0.02, 0.1)))
        self._faulty.heal()
        device.set_mode("mirror")
        self._start()
        if choose.random() < 0.5:
            self._wait_complete()
        device.suspend()
        status = device.clone_status()
        assert self._pair.equal_regions() >= status.in_sync, status
        print(f"in sync {status.in_sync} of {status.total}")
        device.resume()

    def end(self) -> None:
        """The copy is complete under load; the load ends, and both are equal."""
        device = self._pair.device
        self._start()
        self._wait_complete()
        self._overlapping.stop()
        self._overlapping.wait()
        self._load.stop()
        device.wait_complete(60)
        device.suspend()
        self._pair.check_finished("after the end")
        device.resume()

    def _wait_complete(self) -> None:
        """Wait until the copy is complete, if only for a moment: the load's discards make regions
        dirty again. The event tells of it."""
        device = self._pair.device
        event = device.info().event
        device.wait_for(
            lambda status: status.state == "complete" or device.info().event > event,
            "complete under load",
            60,
        )

    def _pipeline(self) -> list[str | int]:
        return [
            *("depth", self._random.choice((1, 2, 8, 32))),
            *("batch", 8 << self._random.randrange(9)),
        ]

    def _start(self) -> None:
        self._pair.device.start()

    def _copy(self) -> None:
        count = self._random.randrange(1, self._pair.length // 4)
        if self._pair.device.clone_status().health != "detached":
            self._pair.device.copy(self._random.randrange(self._pair.length - count), count)

    def _tune(self) -> None:
        name, value = self._random.choice(
            (*zip(*[iter(self._pipeline())] * 2, strict=True), ("rate", 0), ("rate", 20000))
        )
        self._pair.device.tune(name, value)

    def _suspend(self) -> None:
        device, choose = self._pair.device, self._random
        device.suspend(choose.random() < 0.5, choose.random() < 0.5)
        time.sleep(choose.choice((0, 0.01)))
        device.resume(choose.random() < 0.5)

    def _reload(self) -> None:
        pair, choose = self._pair, self._random
        others = [word for word in pair.features if word == "strict_discard"]
        mode = ("mode", choose.choice(("mirror", "mirror", "track")))
        size = ("region_size", pair.region_size)
        features = (*size, *mode, *self._pipeline(), *others)
        pair.device.reload(pair.line(features=features), choose.random() < 0.5)

    def _switch(self) -> None:
        self._pair.device.set_mode(self._random.choice(("track", "mirror")))

    def _fail(self) -> None:
        """The clone fails somewhere for a moment."""
        sectors = self._faulty.below.sectors
        # Whole pages: dm complains of less where blocks have that size.
        at = self._random.randrange(sectors // 2) // 8 * 8
        self._faulty.fail((at, sectors // 32 * 8))
        time.sleep(self._random.choice((0, 0.02)))
        self._faulty.heal()


def play(rig: Rig, kernel_log: Guard, seed: str, rounds: int) -> None:
    """One session."""
    kernel_log.allow(r"operation not supported error, dev loop")
    kernel_log.allow(OURS + "(copy: |clone device |flush of |message refused)")
    kernel_log.allow(SAID)
    session = Session(rig, seed)
    for number in range(rounds):
        print(f"round {number}:", end=" ")
        session.round()
    session.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(5))
def test_random_rounds(rig: Rig, kernel_log: Guard, seed: int, number: int, brief: bool) -> None:
    """30 rounds in five sessions."""
    play(rig, kernel_log, f"{seed}-{number}", rounds=2 if brief else 6)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(5, 45))
def test_many_random_rounds(rig: Rig, kernel_log: Guard, seed: int, number: int) -> None:
    """Hundreds of rounds."""
    play(rig, kernel_log, f"{seed}-{number}", rounds=12)
