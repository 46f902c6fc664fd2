# SPDX-License-Identifier: GPL-2.0
"""device-mapper's control ioctls, spoken directly (include/uapi/linux/dm-ioctl.h).

dmsetup prints a text and exits with 1 whatever went wrong. The tests want the errno, the flags
that came back and buffers of their own sizes, so they talk to /dev/mapper/control themselves.
"""

import ctypes
import enum
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from harness.kernel_log import KernelLog

CONTROL = "/dev/mapper/control"

# version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev,
# name[128], uuid[129], data[7]
_HEADER = struct.Struct("=3I II I i I I I Q 128s 129s 7x")
# sector_start, length, status, next, target_type[16]
_SPEC = struct.Struct("=QQ i I 16s")
_MESSAGE_SECTOR = struct.Struct("=Q")
_VERSION = (4, 0, 0)
ROOM = 16384

# fcntl.ioctl keeps the interpreter's lock during the call, so a suspend that waits for what another
# thread is to do would wait for ever; ctypes lets go of it.
_libc = ctypes.CDLL(None, use_errno=True)

HEADER_SIZE = _HEADER.size
SPEC_SIZE = _SPEC.size


class Command(enum.IntEnum):
    """The ioctls' numbers."""

    LIST_DEVICES = 2
    DEV_CREATE = 3
    DEV_REMOVE = 4
    DEV_SUSPEND = 6
    DEV_STATUS = 7
    DEV_WAIT = 8
    TABLE_LOAD = 9
    TABLE_CLEAR = 10
    TABLE_STATUS = 12
    TARGET_MSG = 14


class Flag(enum.IntFlag):
    """The flags of struct dm_ioctl."""

    READONLY = 1 << 0
    SUSPEND = 1 << 1
    STATUS_TABLE = 1 << 4
    ACTIVE_PRESENT = 1 << 5
    INACTIVE_PRESENT = 1 << 6
    BUFFER_FULL = 1 << 8
    SKIP_LOCKFS = 1 << 10
    NOFLUSH = 1 << 11
    QUERY_INACTIVE_TABLE = 1 << 12
    DATA_OUT = 1 << 16
    DEFERRED_REMOVE = 1 << 17
    IMA_MEASUREMENT = 1 << 19


class DmError(OSError):
    """A refused ioctl: the errno, and what the kernel logged about it (with ti->error in it)."""

    def __init__(self, number: int, what: str, log: list[str]):
        super().__init__(number, os.strerror(number), what)
        self.log = log

    def __str__(self) -> str:
        said = "".join(f"\n  kernel: {line}" for line in self.log)
        return f"{self.filename}: {errno.errorcode[self.errno]} ({self.strerror}){said}"


def is_busy(act: Callable[[], object]) -> bool:
    """Whether something is refused with EBUSY; else it is done."""
    try:
        act()
    except DmError as error:
        assert error.errno == errno.EBUSY
        return True
    return False


@dataclass(frozen=True)
class Reply:
    """What came back from the kernel."""

    flags: Flag
    open_count: int
    event: int
    target_count: int
    device: int
    data_size: int
    data_start: int
    buffer: bytearray

    @property
    def minor(self) -> int:
        """The minor number of the mapped device."""
        return (self.device & 0xFF) | ((self.device >> 12) & 0xFFF00)

    def text(self) -> str:
        """The answer to a message: empty where the target gave none."""
        if Flag.DATA_OUT not in self.flags:
            return ""
        return bytes(self.buffer[self.data_start :]).split(b"\0", 1)[0].decode()


@dataclass(frozen=True)
class Target:
    """One line of a table or of a status."""

    start: int
    length: int
    type: str
    text: str

    def __str__(self) -> str:
        return f"{self.start} {self.length} {self.type} {self.text}".rstrip()


def call(
    command: Command,
    name: str = "",
    flags: Flag = Flag(0),
    data: bytes = b"",
    target_count: int = 0,
    event: int = 0,
    size: int | None = None,
    canary: int = 0,
) -> Reply:
    """Make one ioctl. `size` is the data_size told to the kernel, if it is not to be generous;
    `canary` bytes of 0xA5 stand behind it in the buffer."""
    if size is None:
        size = HEADER_SIZE + max(len(data) + 8, ROOM)
    header = _HEADER.pack(
        *_VERSION, size, HEADER_SIZE, target_count, 0, flags, event, 0, 0, name.encode(), b""
    )
    buffer = bytearray((header + data).ljust(size, b"\0") + b"\xa5" * canary)
    request = (3 << 30) | (HEADER_SIZE << 16) | (0xFD << 8) | command
    log = KernelLog()
    control = os.open(CONTROL, os.O_RDWR)
    try:
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        if _libc.ioctl(control, ctypes.c_ulong(request), memory):
            lines = [record.text for record in log.read()]
            raise DmError(ctypes.get_errno(), f"{command.name} {name}".rstrip(), lines)
    finally:
        os.close(control)
        log.close()
    fields = _HEADER.unpack_from(buffer)
    return Reply(
        flags=Flag(fields[7]),
        open_count=fields[6],
        event=fields[8],
        target_count=fields[5],
        device=fields[10],
        data_size=fields[3],
        data_start=fields[4],
        buffer=buffer,
    )


def pack_table(table: str) -> tuple[bytes, int]:
    """A table in dmsetup's format (a target a line) as TABLE_LOAD takes it, and its line count."""
    lines = [line for line in table.strip().splitlines() if line.strip()]
    packed = b""
    for line in lines:
        start, length, kind, *parameters = line.split(maxsplit=3)
        text = (parameters[0] if parameters else "").encode() + b"\0"
        # `next` counts from the start of this line's spec.
        size = (SPEC_SIZE + len(text) + 7) & ~7
        spec = _SPEC.pack(int(start), int(length), 0, size, kind.encode())
        packed += (spec + text).ljust(size, b"\0")
    return packed, len(lines)


def unpack_targets(reply: Reply) -> list[Target]:
    """The lines of TABLE_STATUS."""
    targets = []
    position = reply.data_start
    for _ in range(reply.target_count):
        start, length, _, following, kind = _SPEC.unpack_from(reply.buffer, position)
        text = bytes(reply.buffer[position + SPEC_SIZE :]).split(b"\0", 1)[0].decode()
        targets.append(Target(start, length, kind.rstrip(b"\0").decode(), text))
        # Here `next` counts from the start of the data.
        position = reply.data_start + following
    return targets


def pack_message(sector: int, text: str) -> bytes:
    """A message as TARGET_MSG takes it."""
    return _MESSAGE_SECTOR.pack(sector) + text.encode() + b"\0"


def device_names() -> list[str]:
    """The names of all mapped devices."""
    reply = call(Command.LIST_DEVICES)
    names = []
    position = reply.data_start
    if reply.data_size <= HEADER_SIZE:
        return names
    while True:
        device, following = struct.unpack_from("=QI", reply.buffer, position)
        if not device:
            return names
        names.append(bytes(reply.buffer[position + 12 :]).split(b"\0", 1)[0].decode())
        if not following:
            return names
        position += following
