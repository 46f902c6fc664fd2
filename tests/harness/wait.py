# SPDX-License-Identifier: GPL-2.0
"""Waiting: by looking until a deadline, never by sleeping for a guessed time."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

DEBUG_KERNEL = Path("/proc/lockdep_stats").exists()
# All is slower there, the more so where the guest is emulated and shares its processors.
PATIENCE = 3 if DEBUG_KERNEL else 1


def wait_until[T](look: Callable[[], T], what: str, timeout: float = 30) -> T:
    """Call `look` until what it returns is true, and return that; fail after `timeout` seconds,
    on the debug kernel after some more."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def kernel_stack(task: Path) -> str:
    """The functions of the kernel and of modules that a task's folder in /proc says it is in; none
    where it has ended."""
    try:
        return (task / "stack").read_text()
    except OSError:
        return ""


def wait_until_in(task: Path, function: str, runs: Callable[[], bool], what: str) -> None:
    """Until a task waits in a function of the kernel; fail where it ends instead."""
    wait_until(
        lambda: not runs() or function in kernel_stack(task), f"{what} to wait in {function}"
    )
    assert runs(), f"{what} ended instead of waiting in {function}"


class Background:
    """A call that may block, made in a thread of its own; `result` waits for its end."""

    def __init__(self, function: Callable, *arguments: object, **named: object):
        self._value = None
        self._error = None
        self._thread = threading.Thread(
            target=self._call, args=(function, arguments, named), daemon=True
        )
        self._thread.start()

    def _call(self, function: Callable, arguments: tuple, named: dict) -> None:
        try:
            self._value = function(*arguments, **named)
        except BaseException as error:  # handed to the one who asks for the result
            self._error = error

    @property
    def running(self) -> bool:
        """Whether the call has not returned yet."""
        return self._thread.is_alive()

    def wait_until_in(self, function: str) -> None:
        """Until the call waits in a function of the kernel or of a module."""
        task = Path(f"/proc/self/task/{self._thread.native_id}")
        wait_until_in(task, function, lambda: self.running, "a call in the background")

    def join(self, timeout: float = 30) -> None:
        """Wait for the end of the call, whatever came of it."""
        timeout *= PATIENCE
        self._thread.join(timeout)
        assert not self.running, f"a call in the background did not end within {timeout} s"

    def result(self, timeout: float = 30):
        """Wait for the end of the call; return what it returned, raise what it raised."""
        self.join(timeout)
        if self._error is not None:
            raise self._error
        return self._value
