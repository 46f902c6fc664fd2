# SPDX-License-Identifier: GPL-2.0
"""Reading and writing block devices past the page cache."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.data import SECTOR
from harness.disk import Disk

# uapi/linux/fs.h; not all of them are in the os module of Python 3.13.
RWF_ATOMIC = 0x40
BLKSSZGET = 0x1268
BLKDISCARD = 0x1277
BLKSECDISCARD = 0x127D
BLKZEROOUT = 0x127F
# uapi/linux/falloc.h
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_WRITE_ZEROES = 0x80

# The most that is read or written with one call.
CHUNK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _path(device: Disk | str) -> str:
    return device if isinstance(device, str) else device.path


@contextmanager
def direct(device: Disk | str, flags: int = os.O_RDWR) -> Iterator[int]:
    """A file descriptor for direct I/O."""
    fd = os.open(_path(device), flags | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


def aligned(data: bytes | int) -> mmap.mmap:
    """Memory that begins at a page: with this content, or of this size."""
    buffer = mmap.mmap(-1, data if isinstance(data, int) else len(data))
    if not isinstance(data, int):
        buffer[:] = data
    return buffer


def pread(fd: int, sector: int, count: int, flags: int = 0) -> bytes:
    """One direct read; a short one is an error."""
    with aligned(count * SECTOR) as buffer:
        done = os.preadv(fd, [buffer], sector * SECTOR, flags)
        if done != count * SECTOR:
            raise OSError(errno.EIO, f"a read of {count} sectors at {sector} gave {done} bytes")
        return buffer[:]


def pwrite(fd: int, sector: int, data: bytes, flags: int = 0) -> None:
    """One direct write; a short one is an error."""
    with aligned(data) as buffer:
        done = os.pwritev(fd, [buffer], sector * SECTOR, flags)
        if done != len(data):
            raise OSError(errno.EIO, f"a write of {len(data)} bytes at {sector} took {done}")


def read(device: Disk | str, sector: int = 0, count: int | None = None) -> bytes:
    """Read sectors past the page cache, also a part of a block; by default all to the end of the
    device."""
    with direct(device, os.O_RDONLY) as fd:
        if count is None:
            count = os.lseek(fd, 0, os.SEEK_END) // SECTOR - sector
        block = _block(fd)
        first, end = sector // block * block, -(-(sector + count) // block) * block
        step = CHUNK // SECTOR
        found = b"".join(pread(fd, at, min(step, end - at)) for at in range(first, end, step))
        return found[(sector - first) * SECTOR : (sector - first + count) * SECTOR]


def write(device: Disk | str, sector: int, data: bytes) -> None:
    """Write sectors past the page cache; of a block that is written in part the rest stays."""
    with direct(device) as fd:
        block = _block(fd)
        lead, rest = sector % block, -(sector + len(data) // SECTOR) % block
        if lead:
            data = pread(fd, sector - lead, block)[: lead * SECTOR] + data
        if rest:
            last = sector + rest + len(data) // SECTOR - lead - block
            data += pread(fd, last, block)[-rest * SECTOR :]
        for position in range(0, len(data), CHUNK):
            pwrite(fd, sector - lead + position // SECTOR, data[position : position + CHUNK])


def _block(fd: int) -> int:
    """Sectors of a logical block."""
    size = fcntl.ioctl(fd, BLKSSZGET, struct.pack("=i", 0))
    return struct.unpack("=i", size)[0] // SECTOR


def range_ioctl(fd: int, request: int, sector: int, count: int) -> None:
    """BLKDISCARD, BLKSECDISCARD or BLKZEROOUT of a range of sectors.

    By ctypes, as fcntl.ioctl keeps the interpreter's lock: a thread that waits here for a suspended
    device would stop the one that is to resume it.
    """
    _call(_libc.ioctl, fd, request, struct.pack("=QQ", sector * SECTOR, count * SECTOR))


def fallocate(fd: int, mode: int, sector: int, count: int) -> None:
    """fallocate on a block device: FALLOC_FL_* of a range of sectors."""
    _call(_libc.fallocate, fd, mode, sector * SECTOR, count * SECTOR)


def _call(function: Callable, *arguments: object) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
