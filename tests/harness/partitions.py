# SPDX-License-Identifier: GPL-2.0
"""Partitions that exist in the kernel only: no partition table is written."""

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.command import read_text
from harness.disk import Disk
from harness.wait import wait_until

# uapi/linux/blkpg.h
_BLKPG = 0x1269
_ADD_PARTITION = 1
_DEL_PARTITION = 2


class _Partition(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("number", ctypes.c_int),
        ("names", ctypes.c_char * 128),
    )


class _Argument(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("length", ctypes.c_int),
        ("data", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Partition(Disk):
    """A partition, which has its folder in sysfs below its disk's."""

    @property
    def sys(self) -> Path:
        """The folder in sysfs."""
        return Path("/sys/class/block") / self.name


def _blkpg(disk: Disk, operation: int, number: int, start: int = 0, length: int = 0) -> None:
    partition = _Partition(start << 9, length << 9, number)
    size = ctypes.sizeof(partition)
    argument = _Argument(operation, 0, size, ctypes.addressof(partition))
    fd = os.open(disk.path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _BLKPG, argument)
    finally:
        os.close(fd)


@contextlib.contextmanager
def add_partition(disk: Disk, number: int, start: int, length: int) -> Iterator[Partition]:
    """A partition of so many sectors, for the time of a with block."""
    _blkpg(disk, _ADD_PARTITION, number, start, length)
    try:
        between = "p" if disk.name[-1].isdigit() else ""
        partition = Partition(f"{disk.name}{between}{number}")
        wait_until(lambda: os.path.exists(partition.path), f"{partition.path}")
        assert read_text(partition.sys / "start") == str(start)
        yield partition
    finally:
        _blkpg(disk, _DEL_PARTITION, number)
