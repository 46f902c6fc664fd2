# SPDX-License-Identifier: GPL-2.0
"""Whatever is done to a mirror, in whatever order and at whatever moment: fio finds what it wrote,
what counts as in sync is equal whenever the device is suspended, and copying ends under load.

Each round is a sequence of messages, suspends, reloads, mode switches and failures of the clone at
random under overlapping load. The seed is printed where a round fails; `--seed` repeats its
decisions, though not its timing.
"""

import time
from collections.abc import Callable

import pytest

from harness.clone_rs import Status
from harness.dm_ioctl import is_busy
from harness.faulty import SAID, Faulty
from harness.fio import Fio
from harness.kernel_log import Guard
from harness.mixed_load import MixedLoad
from harness.random_session import RandomSession
from harness.refusals import OURS
from harness.rig import Rig
from harness.track import PAIRS, Pair

SIZE = 4
KINDS = [kind for kind in PAIRS if kind.startswith("null_blk")] + ["loop", "brd"]


class Session(RandomSession):
    """Of `mode mirror`, with a clone that fails."""

    def __init__(self, rig: Rig, seed: str):
        super().__init__(seed)
        kind = self._random.choice(KINDS)
        backing, clone = PAIRS[kind](rig, SIZE)
        self._faulty = Faulty(rig, clone)
        disks = backing, self._faulty.disk
        layout = self._layout(kind, disks, (0, 8, 64, 1000, 7, 13), (8, 111), SIZE)
        features = self._features(8, "strict_discard", "stable")
        self._pair = Pair(rig, *disks, *layout, features, mode="mirror")
        disk = self._pair.device.disk
        self._load = MixedLoad(rig, disk, randseed=self._random.randrange(1 << 31))
        # Writers that overlap each other all the time, in the part where nobody verifies.
        self._overlapping: Fio = rig.fio(
            disk,
            **{"rw": "randwrite", "bsrange": f"{disk.block * 512}-64k", "iodepth": 16},
            **{"offset": self._load.free * 512, "size": "96k", "norandommap": 1},
            **{"time_based": 1, "runtime": 600, "numjobs": 2},
        )

    def round(self) -> None:
        """Some steps at random, then a look at what is in sync."""
        choose, device = self._random, self._pair.device
        steps = (self._start, self._start, self._pause, self._copy, self._tune)
        steps += (self._suspend, self._suspend, self._reload, self._switch, self._fail)
        steps += (self._verify, self._verify)
        self._take(7, steps)
        self._faulty.heal()
        device.set_mode("mirror")
        self._start()
        if choose.random() < 0.5:
            device.suspend()
            status = device.clone_status()
            assert self._pair.equal_regions() >= status.in_sync, status
            print(f"in sync {status.in_sync} of {status.total}", end=" ")
            device.resume()
            self._start()
        with self._load.without_discards():
            self._wait_complete()
            device.suspend()
        self._check_complete("the end of a round")
        print("ended")
        device.resume()

    def end(self) -> None:
        """The copy is complete under load; the load ends, and both are equal."""
        device = self._pair.device
        self._start()
        with self._load.without_discards():
            self._wait_complete()
        self._overlapping.stop()
        self._overlapping.wait()
        self._load.stop()
        device.wait_complete(60)
        device.suspend()
        self._pair.check_finished("after the end")
        device.resume()

    def _wait_complete(self) -> None:
        """Wait until the copy is complete, under load; discards make regions dirty again, perhaps
        faster than they are copied."""
        device = self._pair.device
        device.wait_for(lambda status: status.state != "verifying", "verified", 60)
        status = device.wait_for(self._is_complete_or_detached, "complete under load", 60)
        if status.state != "complete":
            # A write had failed before the clone was healed, and that was told after `start`.
            self._start()
            device.wait_complete(60)

    def _is_complete_or_detached(self, status: Status) -> bool:
        return status.state == "complete" or status.health == "detached"

    def _copy(self) -> None:
        self._if_attached(super()._copy)

    def _verify(self) -> None:
        self._if_attached(super()._verify)

    def _if_attached(self, act: Callable[[], None]) -> None:
        """Where the clone is detached this is refused; that may be told at any moment."""
        if is_busy(act):
            assert self._pair.device.clone_status().health == "detached"

    def _suspend(self) -> None:
        self._suspended()

    def _reload(self) -> None:
        self._reloaded("mirror", "mirror", "track")

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
    kernel_log.allow(OURS + "(copy: |verify: |clone device |flush of |message refused)")
    kernel_log.allow(SAID)
    Session(rig, seed).play(rounds)


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
