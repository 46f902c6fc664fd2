# SPDX-License-Identifier: GPL-2.0
"""Load of all sorts on a mapped device: what comes back is verified, whatever happens below."""

import contextlib
import os
import random
import threading
from collections.abc import Iterator

from harness import io
from harness.data import SECTOR, assert_same
from harness.disk import Disk
from harness.fio import STEADY
from harness.rig import Rig
from harness.wait import wait_until

# The largest discard and the like, in sectors.
LARGEST = 512
# So many threads do such at once, each in a part of its own: their parts meet within regions.
THREADS = 3
# What nothing is done to on a device that is not too small, in sectors.
LEFT_ALONE = 192


class Zeroing:
    """Discards, zeroes, writes with FUA and flushes at random places of a range of a disk, each of
    them read back at once, in a thread."""

    def __init__(self, rig: Rig, disk: Disk, sector: int, count: int, seed: int = 7):
        self.done = 0
        self.discards = True
        self._disk, self._first, self._count = disk, sector, count
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._thread = rig.background(self._run)
        rig.until_end(self)

    def kill(self) -> None:
        """Have it end, whatever it has seen."""
        self._ended.set()

    def stop(self) -> None:
        """End it, when it has done something; fail if something was not as it was written."""
        wait_until(lambda: self.done > 10 or not self._thread.running, "discards and zeroes")
        self._ended.set()
        self._thread.result()

    def _run(self) -> None:
        block, choose = self._disk.block, self._random
        can_discard = int(self._disk.queue("discard_max_bytes")) > 0
        with io.direct(self._disk) as fd:
            held = bytearray(io.pread(fd, self._first, self._count))
            while not self._ended.is_set():
                size = min(choose.choice((1, 8, 16, 128, LARGEST)), self._count)
                count = -(-size // block) * block
                at = choose.randrange(0, self._count - count + 1, block)
                place = slice(at * SECTOR, (at + count) * SECTOR)
                sector = self._first + at
                match choose.randrange(4):
                    case 0 if can_discard:
                        if self.discards:
                            io.range_ioctl(fd, io.BLKDISCARD, sector, count)
                            held[place] = io.pread(fd, sector, count)
                    case 1:
                        io.range_ioctl(fd, io.BLKZEROOUT, sector, count)
                        held[place] = bytes(count * SECTOR)
                    case 2:
                        held[place] = choose.randbytes(count * SECTOR)
                        io.pwrite(fd, sector, bytes(held[place]), os.RWF_DSYNC)
                    case _:
                        held[place] = choose.randbytes(count * SECTOR)
                        io.pwrite(fd, sector, bytes(held[place]))
                        os.fsync(fd)
                assert_same(bytes(held), io.pread(fd, self._first, self._count), "read back")
                self.done += 1


class MixedLoad:
    """fio with many writes of 512 B to 1 MiB and flushes in flight, and several Zeroing, each on a
    part of the device. From the sector `free` on LEFT_ALONE are what nothing is done to."""

    def __init__(self, rig: Rig, disk: Disk, **options: object):
        part = min(disk.sectors // disk.block // 4, 2048 // disk.block) * disk.block
        first = disk.sectors - part
        # What is too small for that has no such place.
        free = LEFT_ALONE if part > 768 else 0
        self.free = first
        part -= free
        load = STEADY | {
            "size": first * SECTOR,
            "bsrange": f"{disk.block * SECTOR}-1m",
            "iodepth": 64,
            "fdatasync": 24,
            "verify_backlog": 16,
        }
        before = disk.counters().reads
        self._fio = rig.fio(disk, **load | options)
        wait_until(
            lambda: disk.counters().reads > before or not self.running,
            "fio to verify",
            # Beside other loads it takes its time.
            timeout=60,
        )
        each = max(part // disk.block // THREADS, 1) * disk.block
        self._zeroing = [
            Zeroing(rig, disk, first + free + at, each, seed=7 + at)
            for at in range(0, min(THREADS * each, part), each)
        ]

    @property
    def running(self) -> bool:
        """Whether fio goes on: it ends by itself where something was wrong."""
        return self._fio.running

    @contextlib.contextmanager
    def without_discards(self) -> Iterator[None]:
        """For the time of a with block all of it goes on but the discards."""
        self._set_discards(False)
        try:
            yield
        finally:
            self._set_discards(True)

    def _set_discards(self, wanted: bool) -> None:
        for zeroing in self._zeroing:
            zeroing.discards = wanted

    def stop(self) -> None:
        """End it; fail unless all was right."""
        for zeroing in self._zeroing:
            zeroing.stop()
        assert self.running, "fio ended by itself"
        self._fio.finish()
