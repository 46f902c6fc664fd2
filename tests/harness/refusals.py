# SPDX-License-Identifier: GPL-2.0
"""What a refused table line or message must get, and must leave behind: nothing."""

import errno
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness import module
from harness.clone_rs import CloneDevice
from harness.command import read_text
from harness.disk import Disk
from harness.dm import Device
from harness.dm_ioctl import SPEC_SIZE, Command, DmError, call
from harness.kernel_log import Guard
from harness.rig import Rig

# Of the devices of Below, in sectors.
LENGTH = 4096
# How our own lines begin, and what the core says of a table that is refused; a device that we did
# not put, or put twice, is no such thing.
OURS = r"^(device-mapper: clone-rs|dm_clone_rs): (\d+:\d+: )?"
CORE = (
    r"^device-mapper: (table: \d+:\d+: (?!device |dm_table_destroy)"
    r"|ioctl: error adding target to table)"
)
# Bytes that are no text, as /dev/kmsg shows them (a backslash too, but that is harmless).
UNPRINTABLE = re.compile(r"\\x(?!5c)")

_SPEC = struct.Struct("=QQ i I 16s")


def is_ours(line: str) -> bool:
    """Whether this line of the kernel log is the target's own."""
    return re.search(OURS, line) is not None


def pack_line(start: int, length: int, parameters: bytes, kind: bytes = b"clone-rs") -> bytes:
    """One line as TABLE_LOAD takes it, with any bytes but NUL in it (pack_table reads text)."""
    text = parameters + b"\0"
    size = (SPEC_SIZE + len(text) + 7) & ~7
    return (_SPEC.pack(start, length, 0, size, kind) + text).ljust(size, b"\0")


def references(*modules: str) -> dict[str, int]:
    """How often modules are in use."""
    names = (module.NAME, *modules)
    folders = {name: Path("/sys/module") / name for name in names}
    return {
        name: int(read_text(folder / "refcnt"))
        for name, folder in folders.items()
        if (folder / "refcnt").exists()
    }


def opens_exclusively(path: str) -> bool:
    """Whether nobody has claimed the device (as device-mapper does with what is in a table)."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


class Unused:
    """Checks that devices are used by nobody and modules by no more than before."""

    def __init__(self, disks: Iterable[Disk], modules: Iterable[str] = ("null_blk",)):
        self._disks = tuple(disks)
        self._modules = tuple(modules)
        self._before = references(*self._modules)

    def check(self) -> None:
        """Fail if anything is left."""
        for disk in self._disks:
            assert disk.used_by() == [], f"{disk.name} has holders"
            assert opens_exclusively(disk.path), f"{disk.name} is still claimed"
        assert references(*self._modules) == self._before, "references to modules are left"


def refused(device: Device, table: str | bytes, flags: int = 0) -> DmError:
    """Load a table that is refused; return the error, with what the kernel logged."""
    try:
        if isinstance(table, bytes):
            call(Command.TABLE_LOAD, device.name, flags, table, 1)
        else:
            device.load(table)
    except DmError as error:
        return error
    device.clear()
    raise AssertionError(f"this table was accepted: {table!r}")


def check_refusal(error: DmError, number: int, text: str, words: Iterable[object]) -> None:
    """The errno, `ti->error` as the core prints it, and one line of our own with these words."""
    name = errno.errorcode[number]
    assert error.errno == number, f"not {name}: {error}"
    # %pe prints a name or a number, depending on how the kernel was built.
    core = rf"^device-mapper: table: \d+:\d+: clone-rs: {re.escape(text)} \(-({name}|{number})\)$"
    assert any(re.search(core, line) for line in error.log), f"not {text!r}: {error}"
    ours = [line for line in error.log if is_ours(line)]
    assert len(ours) == 1, f"not one line of our own: {error}"
    assert not UNPRINTABLE.search(ours[0]), f"this was not escaped: {ours[0]}"
    for word in words:
        assert str(word) in ours[0], f"{word!r} is not in {ours[0]!r}"


def allow_refusals(log: Guard) -> None:
    """Tables will be refused in this test: what is logged then is looked at by the test."""
    log.allow(OURS)
    log.allow(CORE)


class Below:
    """A backing device and a clone of LENGTH sectors, and a mapped device without a table above
    them."""

    def __init__(
        self, rig: Rig, log: Guard, backing: Disk | None = None, clone: Disk | None = None
    ):
        allow_refusals(log)
        self.rig = rig
        self.backing = backing or rig.null_blk(size=LENGTH >> 11)
        self.clone = clone or rig.null_blk(size=LENGTH >> 11)
        self.device = rig.mapped()
        self.unused = Unused((self.backing, self.clone))

    def line(self, parameters: str, start: int = 0, length: int = LENGTH) -> str:
        """A table of one line; {b} and {c} stand for the devices."""
        words = parameters.format(b=self.backing.path, c=self.clone.path)
        return f"{start} {length} clone-rs {words}"

    def refuse(
        self, table: str | bytes, text: str, *words: object, number: int = errno.EINVAL
    ) -> DmError:
        """This table is refused in all the ways that it has to be."""
        error = refused(self.device, table)
        check_refusal(error, number, text, words)
        self.unused.check()
        return error

    def refuse_line(
        self, parameters: str, text: str, *words: object, number: int = errno.EINVAL
    ) -> DmError:
        """The same for a line with places for the devices."""
        return self.refuse(self.line(parameters), text, *words, number=number)


def refuse_message(
    device: CloneDevice, message: str, *words: object, number: int = errno.EINVAL, at: int = 0
) -> DmError:
    """The message is refused, the log has one line of ours with these words, the status is the
    same."""
    before = [target.text for target in device.status()]
    with pytest.raises(DmError) as caught:
        device.message(message, sector=at)
    error = caught.value
    assert error.errno == number, error
    said = [line for line in error.log if is_ours(line)]
    assert len(said) == 1, error
    for word in words:
        assert str(word) in said[0], error
    assert not UNPRINTABLE.search(said[0]), f"this was not escaped: {said[0]}"
    assert [target.text for target in device.status()] == before
    return error
