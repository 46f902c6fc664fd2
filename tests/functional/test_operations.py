# SPDX-License-Identifier: GPL-2.0
"""Every block operation ends as it does on a dm-linear, and sends the same bios down.

Each operation is made on a dm-linear and on a clone-rs over the same range. Its result (data or
errno) and the bios that the backing device gets for it, with their flags and sizes, have to be
equal. So FUA, preflush, atomic, discard, write zeroes and their refusals are compared without
listing which device supports what.
"""

import errno
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from harness import io
from harness.backings import BACKINGS
from harness.bio_trace import Bio, BioTrace
from harness.command import run
from harness.data import assert_same, stamped
from harness.disk import Disk
from harness.dm import Device
from harness.kernel_log import Guard
from harness.rig import Rig

OFFSET = 2048
LENGTH = 8192

# scsi/sg.h, scsi/scsi_ioctl.h, linux/fs.h
SG_GET_VERSION_NUM = 0x2282
SCSI_IOCTL_GET_IDLUN = 0x5382

Operation = Callable[[int, int], object]


def _reads(fd: int, block: int) -> object:
    return [io.pread(fd, 64, block), io.pread(fd, 0, 2048), io.pread(fd, LENGTH - block, block)]


def _writes(fd: int, block: int) -> object:
    for sector, count in ((64, block), (2048, 2048), (LENGTH - block, block)):
        io.pwrite(fd, sector, stamped("op", sector, count))
    return None


def _write_past_the_end(fd: int, block: int) -> object:
    return io.pwrite(fd, LENGTH, stamped("op", 0, block))


def _flush(fd: int, block: int) -> object:
    io.pwrite(fd, 64, stamped("flush", 64, block))
    return os.fsync(fd)


def _fua(fd: int, block: int) -> object:
    return io.pwrite(fd, 128, stamped("fua", 128, 2 * block), os.RWF_DSYNC)


def _nowait_read(fd: int, block: int) -> object:
    return io.pread(fd, 64, block, os.RWF_NOWAIT)


def _nowait_write(fd: int, block: int) -> object:
    return io.pwrite(fd, 64, stamped("nowait", 64, block), os.RWF_NOWAIT)


def _atomic_write(fd: int, block: int) -> object:
    return io.pwrite(fd, 64, stamped("atomic", 64, 16), io.RWF_ATOMIC)


def _large_atomic_write(fd: int, block: int) -> object:
    return io.pwrite(fd, 0, stamped("atomic", 0, 4096), io.RWF_ATOMIC)


def _discard(fd: int, block: int) -> object:
    return io.range_ioctl(fd, io.BLKDISCARD, 128 + block, 4096)


def _secure_erase(fd: int, block: int) -> object:
    return io.range_ioctl(fd, io.BLKSECDISCARD, 128, 1024)


def _zero_out(fd: int, block: int) -> object:
    return io.range_ioctl(fd, io.BLKZEROOUT, 128 + block, 4096)


def _zero_range(fd: int, block: int) -> object:
    return io.fallocate(fd, io.FALLOC_FL_ZERO_RANGE | io.FALLOC_FL_KEEP_SIZE, 256, 1024)


def _punch_hole(fd: int, block: int) -> object:
    return io.fallocate(fd, io.FALLOC_FL_PUNCH_HOLE | io.FALLOC_FL_KEEP_SIZE, 256, 1024)


def _write_zeroes(fd: int, block: int) -> object:
    return io.fallocate(fd, io.FALLOC_FL_WRITE_ZEROES | io.FALLOC_FL_KEEP_SIZE, 256, 1024)


def _scattered(fd: int, block: int) -> object:
    """A vector of pieces at odd places of their pages: one bio with many segments."""
    with io.aligned(64 << 10) as memory:
        view = memoryview(memory)
        pieces = [view[i * 4096 + 512 : i * 4096 + 512 + 4096] for i in range(0, 14, 2)]
        try:
            return os.preadv(fd, pieces, 64 * 512)
        finally:
            for piece in pieces:
                piece.release()
            view.release()


OPERATIONS: dict[str, Operation] = {
    function.__name__.lstrip("_"): function
    for function in (
        _reads,
        _writes,
        _write_past_the_end,
        _flush,
        _fua,
        _nowait_read,
        _nowait_write,
        _atomic_write,
        _large_atomic_write,
        _scattered,
        _zero_out,
        _zero_range,
        _write_zeroes,
        _punch_hole,
        _discard,
        _secure_erase,
    )
}


# What they leave lacks protection information in scsi_debug, and can't be read, nor copied.
UNPROTECTED = {"zero_out", "zero_range", "write_zeroes", "punch_hole", "discard"}


def outcome(
    trace: BioTrace, device: Device, backing: Disk, operation: Operation
) -> tuple[object, list[Bio]]:
    """What an operation gives, or the name of its errno, and the bios below."""
    trace.clear()
    with io.direct(device.disk) as fd:
        try:
            result = operation(fd, backing.block)
        except OSError as error:
            result = errno.errorcode[error.errno]
    # Those of a copy that goes on say nothing of who waits for them.
    return result, [bio for bio in trace.bios(backing) if bio.kind != "R"]


WITH_INTEGRITY = [kind for kind in BACKINGS if "dif" in kind]


@pytest.mark.parametrize(
    ("kind", "state", "clone_kind"),
    [
        *((kind, state, "null_blk-512") for kind in BACKINGS for state in ("idle", "mirroring")),
        *((kind, "mirroring", kind) for kind in WITH_INTEGRITY),
    ],
)
def test_same_as_linear(
    rig: Rig, kernel_log: Guard, kind: str, state: str, clone_kind: str
) -> None:
    """All operations, at an offset, on two new devices of one kind: an operation that fails can
    change what its device offers from then on. While ours mirrors, the clone becomes equal, also
    one that wants protection information like the backing device."""
    # A loop device learns only from an error that its file can't write zeroes.
    kernel_log.allow(r"operation not supported error, dev loop")
    below = [BACKINGS[kind](rig), BACKINGS[kind](rig)]
    for disk in below:
        io.write(disk, OFFSET, stamped("old", 0, LENGTH))
    linear = rig.linear(below[0], OFFSET, length=LENGTH)
    clone = BACKINGS[clone_kind](rig)
    features = ("strict_discard", "region_size", 1024)
    ours = rig.clone(below[1], clone, backing_offset=OFFSET, length=LENGTH, features=features)
    if state == "mirroring":
        ours.start_and_wait()
    trace = rig.bio_trace(*below)
    unlike = []
    for name, operation in OPERATIONS.items():
        if state == "mirroring" and kind in WITH_INTEGRITY and name in UNPROTECTED:
            continue
        wanted = outcome(trace, linear, below[0], operation)
        if state == "mirroring":
            # What has failed is done in another way: not while some of it is being copied, as a
            # write is cut where that ends.
            ours.pause()
        found = outcome(trace, ours, below[1], operation)
        if state == "mirroring":
            ours.start_and_wait()
        if wanted != found:
            unlike.append(f"{name}: dm-linear: {_short(wanted)}\n  ours: {_short(found)}")
    assert not unlike, "\n".join(unlike)
    if state == "mirroring":
        wanted = io.read(below[1], OFFSET, LENGTH)
        assert_same(wanted, io.read(clone, 0, LENGTH), "the clone of what was written")


def _short(result: tuple[object, list[Bio]]) -> str:
    value, bios = result
    sent = ", ".join(f"{bio.kind} {bio.sector}+{bio.count}" for bio in bios[:12])
    return f"{str(value)[:100]}; {len(bios)} bios: {sent}"


@pytest.mark.parametrize(
    ("kind", "operation", "bios"),
    [
        ("null_blk-512", "reads", ["RS", "RS", "RS"]),
        ("null_blk-write-cache", "flush", ["WS", "FWS"]),
        ("null_blk-write-cache-fua", "fua", ["WFS", "FWS"]),
        ("scsi-atomic", "atomic_write", ["WSU"]),
        ("null_blk-discard", "discard", ["DS"]),
        ("scsi-provisioned", "zero_out", ["WZS"]),
    ],
)
def test_the_comparison_sees_bios(rig: Rig, kind: str, operation: str, bios: list[str]) -> None:
    """The test above can tell operations apart: what reaches the backing device is of the kind
    that was asked for, and an empty trace would not do."""
    backing = BACKINGS[kind](rig)
    ours = rig.clone(backing, rig.null_blk(), backing_offset=OFFSET, length=LENGTH)
    _, sent = outcome(rig.bio_trace(backing), ours, backing, OPERATIONS[operation])
    assert sent, "no bio seen"
    assert [bio.kind for bio in sent] == bios
    assert all(OFFSET <= bio.sector < OFFSET + LENGTH for bio in sent if bio.count)


def test_nowait_on_a_suspended_device(rig: Rig) -> None:
    """I/O that may not wait gets EAGAIN, it is not held."""
    backing = rig.null_blk()
    for device in (rig.linear(backing), rig.clone(backing, rig.null_blk())):
        with io.direct(device.disk) as fd:
            device.suspend()
            for operation in (_nowait_read, _nowait_write):
                with pytest.raises(OSError) as caught:
                    operation(fd, 1)
                assert caught.value.errno == errno.EAGAIN
            device.resume()


@pytest.mark.parametrize("kind", ["randread", "randwrite"])
def test_polled(rig: Rig, kind: str) -> None:
    """Polled I/O is completed by polling the backing device, as through dm-linear; mirrored writes,
    which end when the clone's have ended, too, leave both devices the same."""
    queues = {"poll_queues": 2, "submit_queues": 2}
    backing, clone = rig.null_blk(**queues), rig.null_blk(**queues)
    mirror = rig.clone(backing, clone, features=("mode", "mirror"))
    probes = rig.kprobes(null_poll="null_poll")

    def poll(device: Device) -> None:
        before = probes.hits("null_poll")
        run(
            *("fio", "--name=polled", f"--filename={device.path}", "--direct=1", f"--rw={kind}"),
            *("--bs=4k", "--ioengine=io_uring", "--hipri=1", "--iodepth=4", "--io_size=256k"),
        )
        assert probes.hits("null_poll") - before > 0, device.name

    poll(mirror)
    mirror.start_and_wait()
    poll(mirror)
    status = mirror.clone_status()
    assert (status.state, status.dirty) == ("complete", 0)
    mirror.remove()
    assert_same(io.read(backing), io.read(clone), "the clone of what was written")
    poll(rig.linear(backing))


def test_integrity(rig: Rig, kernel_log: Guard) -> None:
    """With DIF and DIX on, data written through the node, at an offset, reads back through the
    node and from the backing device without a protection error: the reference tags are right."""
    backing = rig.scsi_debug(dif=1, dix=1, guard=0)
    ours = rig.clone(backing, rig.null_blk(), backing_offset=OFFSET, length=LENGTH)
    assert (ours.disk.sys / "integrity/format").read_text() == "T10-DIF-TYPE1-CRC\n"
    data = stamped("dif", 0, LENGTH)
    io.write(ours.disk, 0, data)
    assert io.read(ours.disk) == data
    assert io.read(backing, OFFSET, LENGTH) == data
    assert "protection error" not in kernel_log.text()


@pytest.mark.parametrize("partial", [False, True])
def test_ioctls(rig: Rig, partial: bool) -> None:
    """An ioctl for the hardware is forwarded where the whole device is mapped; of a part it needs
    CAP_SYS_RAWIO; both as through dm-linear."""
    backing = rig.scsi_debug()
    where = {"backing_offset": 8} if partial else {}
    answers = {}
    for device in (rig.linear(backing, **where), rig.clone(backing, rig.null_blk(), **where)):
        answers[device.name] = [
            (_int_ioctl(device.path, SG_GET_VERSION_NUM)),
            (_int_ioctl(device.path, SCSI_IOCTL_GET_IDLUN)),
            _unprivileged_ioctl(device.path, SG_GET_VERSION_NUM),
            run("blockdev", "--getro", device.path).stdout,
        ]
    wanted, found = answers.values()
    assert found == wanted
    assert found[0] >= 30000
    assert found[2] == (errno.ENOTTY if partial else 0)


def _int_ioctl(path: str, request: int) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0]
    finally:
        os.close(fd)


def _unprivileged_ioctl(path: str, request: int) -> int:
    """The errno of an ioctl without CAP_SYS_RAWIO."""
    script = (
        "import fcntl, os, sys\n"
        f"fd = os.open({path!r}, os.O_RDONLY)\n"
        f"try: fcntl.ioctl(fd, {request}, bytes(4))\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    dropped = ["setpriv", "--bounding-set=-sys_rawio", "--inh-caps=-sys_rawio"]
    return subprocess.run([*dropped, sys.executable, "-c", script], check=False).returncode


def test_read_only_open(rig: Rig) -> None:
    """A device opened for reading only reads, and refuses to write with EBADF."""
    backing = rig.null_blk()
    ours = rig.clone(backing, rig.null_blk())
    with io.direct(ours.disk, os.O_RDONLY) as fd:
        assert io.pread(fd, 0, 8) == bytes(4096)
        with pytest.raises(OSError) as caught:
            io.pwrite(fd, 0, bytes(4096))
        assert caught.value.errno == errno.EBADF
