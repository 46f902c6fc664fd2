# SPDX-License-Identifier: GPL-2.0
"""A mapped device: what `dmsetup create`, `reload`, `suspend`, ... do, as methods."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from harness.disk import Disk
from harness.dm_ioctl import (
    Command,
    DmError,
    Flag,
    Reply,
    Target,
    call,
    pack_message,
    pack_table,
    unpack_targets,
)
from harness.wait import PATIENCE, kernel_stack, wait_until, wait_until_in

ERROR_TABLE = "0 {} error"


class Device:
    """A mapped device by its name. The methods raise DmError with the kernel's errno."""

    def __init__(self, name: str, disk: Disk):
        self.name = name
        self.disk = disk
        self.gone = False

    @classmethod
    def create(cls, name: str, table: str | None = None, readonly: bool = False) -> "Device":
        """Create the device, load its table and resume it, as `dmsetup create` does; without a
        table it stays empty. If that fails nothing is left behind."""
        reply = call(Command.DEV_CREATE, name)
        device = cls(name, Disk(f"dm-{reply.minor}"))
        if table is not None:
            try:
                device.load(table, readonly)
                device.resume()
            except BaseException:
                device.remove()
                raise
        return device

    @property
    def path(self) -> str:
        """The device node."""
        return self.disk.path

    def load(self, table: str, readonly: bool = False) -> None:
        """Load a table into the inactive slot."""
        data, count = pack_table(table)
        flags = Flag.READONLY if readonly else Flag(0)
        call(Command.TABLE_LOAD, self.name, flags, data, count)

    def clear(self) -> None:
        """Throw the inactive table away."""
        call(Command.TABLE_CLEAR, self.name)

    def suspend(self, noflush: bool = False, lockfs: bool = True) -> None:
        """Suspend the device; without `lockfs` a file system above is not frozen."""
        flags = Flag.SUSPEND
        if noflush:
            flags |= Flag.NOFLUSH
        if not lockfs:
            flags |= Flag.SKIP_LOCKFS
        call(Command.DEV_SUSPEND, self.name, flags)

    def resume(self, noflush: bool = False) -> None:
        """Resume the device, with the table in the inactive slot if there is one."""
        call(Command.DEV_SUSPEND, self.name, Flag.NOFLUSH if noflush else Flag(0))

    def reload(self, table: str, noflush: bool = False) -> None:
        """Change the table of a running device: load, suspend, resume."""
        self.load(table)
        self.suspend(noflush)
        self.resume(noflush)

    def remove(self, timeout: float = 5) -> None:
        """Remove the device. Who has it open may be about to close it: wait for that."""
        deadline_error: DmError | None = None

        def gone() -> bool:
            nonlocal deadline_error
            try:
                self.remove_now()
            except DmError as error:
                if error.errno != errno.EBUSY:
                    raise
                deadline_error = error
                return False
            return True

        try:
            wait_until(gone, f"{self.name} to be removed", timeout)
        except AssertionError as error:
            raise error from deadline_error

    def remove_now(self) -> None:
        """One try to remove the device."""
        call(Command.DEV_REMOVE, self.name)
        self.gone = True

    def message(self, text: str, sector: int = 0) -> str:
        """Send a message to the target at a sector; return its answer."""
        return call(Command.TARGET_MSG, self.name, data=pack_message(sector, text)).text()

    def info(self, inactive: bool = False) -> Reply:
        """State, open count and event number."""
        flags = Flag.QUERY_INACTIVE_TABLE if inactive else Flag(0)
        return call(Command.DEV_STATUS, self.name, flags)

    @property
    def suspended(self) -> bool:
        """Whether the device is suspended."""
        return bool(self.info().flags & Flag.SUSPEND)

    def status(self) -> list[Target]:
        """The INFO status of every target; NOFLUSH, so that asking changes nothing."""
        return unpack_targets(call(Command.TABLE_STATUS, self.name, Flag.NOFLUSH))

    def table(self, inactive: bool = False) -> list[Target]:
        """The table, a target a line."""
        flags = Flag.STATUS_TABLE | (Flag.QUERY_INACTIVE_TABLE if inactive else Flag(0))
        return unpack_targets(call(Command.TABLE_STATUS, self.name, flags))

    def table_text(self, inactive: bool = False) -> str:
        """The table as `dmsetup table` prints it, ready to be loaded again."""
        return "\n".join(str(target) for target in self.table(inactive))

    def make_errors(self) -> None:
        """Replace the table by one that fails everything, as `dmsetup wipe_table` does."""
        self.load(ERROR_TABLE.format(self.disk.sectors))
        self.suspend(noflush=True, lockfs=False)
        self.resume(noflush=True)

    def suspend_in_child(self, noflush: bool = False) -> "SuspendingChild":
        """Suspend in a process of its own, which a signal can interrupt."""
        return SuspendingChild(self.name, noflush)


class SuspendingChild:
    """A process that makes one suspend ioctl and can be sent SIGINT while it waits.

    It exits with the errno of the ioctl, 0 for success: its handler for SIGINT does nothing, so
    that the ioctl returns to it.
    """

    _SCRIPT = """
import signal, sys
from harness.dm_ioctl import Command, DmError, Flag, call
signal.signal(signal.SIGINT, lambda *_: None)
try:
    call(Command.DEV_SUSPEND, sys.argv[1], Flag(int(sys.argv[2])))
except DmError as error:
    sys.exit(error.errno)
"""

    def __init__(self, name: str, noflush: bool):
        flags = Flag.SUSPEND | Flag.SKIP_LOCKFS | (Flag.NOFLUSH if noflush else 0)
        root = str(Path(__file__).resolve().parents[1])
        self._child = subprocess.Popen(
            [sys.executable, "-c", self._SCRIPT, name, str(int(flags))],
            env=os.environ | {"PYTHONPATH": root},
        )
        self._task = Path(f"/proc/{self._child.pid}")

    def wait_until_waiting(self) -> None:
        """Until the ioctl waits for I/O that is in flight."""
        self._wait_in("dm_wait_for_completion")

    def wait_until_waiting_for_jobs(self) -> None:
        """Until the ioctl waits for copies that are in flight."""
        self._wait_in("presuspend")

    def _wait_in(self, function: str) -> None:
        wait_until_in(self._task, function, lambda: self._child.poll() is None, "the suspend")

    def asleep_in_kernel(self) -> bool:
        """Whether the ioctl has begun and has not ended."""
        return "dm_suspend" in kernel_stack(self._task)

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process if it is still there."""
        self._child.kill()
        self._child.wait(30)

    def errno(self, timeout: float = 30) -> int:
        """Wait for the end of the ioctl; its errno, 0 for success."""
        return self._child.wait(timeout * PATIENCE)
