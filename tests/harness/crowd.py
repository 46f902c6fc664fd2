# SPDX-License-Identifier: GPL-2.0
"""Many threads that call at once."""

import threading
from collections.abc import Callable

from harness.dm_ioctl import DmError
from harness.wait import PATIENCE, wait_until


class Crowd:
    """Threads that each make one call some times, a few in brief, from one moment on."""

    def __init__(self, brief: bool) -> None:
        self._calls = 3 if brief else 12
        self._threads: list[threading.Thread] = []
        self._begin = threading.Event()
        self._done = 0
        self._lock = threading.Lock()
        self.errors: set[int | str] = set()

    def add(self, threads: int, function: Callable[[], object]) -> None:
        """So many threads more that make this call."""
        for _ in range(threads):
            thread = threading.Thread(target=self._repeat, args=(function,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _repeat(self, function: Callable[[], object]) -> None:
        self._begin.wait()
        for _ in range(self._calls):
            try:
                function()
            except DmError as error:
                self.errors.add(error.errno)
            except Exception as error:  # what else it may be is for the test to see
                self.errors.add(repr(error))
            with self._lock:
                self._done += 1

    def begin(self) -> None:
        """All at once."""
        self._begin.set()

    def wait_until_half_is_done(self) -> None:
        """Until half of the calls have returned."""
        half = len(self._threads) * self._calls // 2
        wait_until(lambda: self._done >= half, "half of the calls to return", 60)

    def wait(self) -> None:
        """Wait for the end of all threads."""
        self._begin.set()
        for thread in self._threads:
            thread.join(60 * PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "a call hangs"
