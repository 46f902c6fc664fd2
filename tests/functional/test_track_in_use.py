# SPDX-License-Identifier: GPL-2.0
"""A file system in use gets a clone, and is detached from it again or moves to it: what runs above
does not notice, and both sides are whole.

fio writes to a file all the time and verifies what it wrote.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.clone_rs import TRACK, Status, clone_table, linear_table
from harness.command import run
from harness.disk import Disk
from harness.dm import Device
from harness.dm_ioctl import Command, call
from harness.file_systems import SIZE, check_file_system, digest, make_file_system, write_files
from harness.fio import STEADY
from harness.image import assert_same_disks
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.wait import wait_until

# btrfs writes past the page cache in blocks of 4 KiB only.
LOAD = STEADY | {"size": "4m", "bsrange": "4k-64k"}
FEATURES = (*TRACK, "final", 1 << 20)


def status(device: Device, line: int = 0) -> Status:
    """That of a device which was not a clone-rs at first."""
    return Status.parse(device.status()[line].text)


def copy(device: Device, line: int = 0, at: int = 0) -> None:
    """Start the copy and wait until little is left."""
    device.message("start", at)

    def nearly() -> bool:
        now = status(device, line)
        return now.dirty < now.total // 8

    wait_until(nearly, "nearly all to be in sync", timeout=60)
    device.message("finish", at)


@contextmanager
def load(rig: Rig, disk: Disk, mount: Path) -> Iterator[None]:
    """fio on a file meanwhile, which has done something since the with block."""
    fio = rig.fio(disk, filename=mount / "fio", **LOAD)
    fio.wait_for_load()
    yield
    reads = disk.counters().reads
    wait_until(lambda: disk.counters().reads > reads + 20 or not fio.running, "fio to go on")
    fio.finish()


def check_clone(rig: Rig, kind: str, clone: Disk, where: Path) -> dict[str, str]:
    """Mount it, which replays the journal where there is one, and check it; its files."""
    with rig.mounted(clone, where) as mount:
        files = digest(mount)
    check_file_system(kind, clone)
    return files


def older(files: dict[str, str], *folders: str) -> dict[str, str]:
    """Those in folders that nobody writes to any more."""
    return {name: hash_ for name, hash_ in files.items() if name.split("/")[0] in folders}


@pytest.mark.parametrize(
    "kind", ["ext4", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("btrfs", "xfs"))]
)
def test_detach(rig: Rig, tmp_path: Path, kind: str) -> None:
    """From a dm-linear to clone-rs and back: the clone is the file system of that moment."""
    backing, clone = rig.null_blk(SIZE[kind]), rig.null_blk(SIZE[kind])
    device = rig.linear(backing)
    make_file_system(kind, device.disk)
    with rig.mounted(device.disk, tmp_path / "live") as mount:
        write_files(mount / "before", 20)
        with load(rig, device.disk, mount):
            device.reload(clone_table(backing, clone, features=FEATURES))
            write_files(mount / "attached", 20)
            copy(device)
            device.load(linear_table(backing))
            device.suspend()
            assert status(device).state == "complete"
            assert_same_disks(backing, clone, "the clone")
            device.resume()
            write_files(mount / "detached", 20)
        files = digest(mount)
    check_file_system(kind, device.disk)
    device.remove()
    assert older(check_clone(rig, kind, clone, tmp_path / "clone"), "before", "attached") == older(
        files, "before", "attached"
    )


@pytest.mark.parametrize("kind", ["ext4", "btrfs", pytest.param("xfs", marks=pytest.mark.long)])
def test_cutover(rig: Rig, tmp_path: Path, kind: str) -> None:
    """From a dm-linear on the old disk to one on the new disk, with the file system mounted."""
    backing, clone = rig.null_blk(SIZE[kind]), rig.null_blk(SIZE[kind])
    device = rig.linear(backing)
    make_file_system(kind, device.disk)
    with rig.mounted(device.disk, tmp_path / "live") as mount:
        write_files(mount / "before", 20)
        with load(rig, device.disk, mount):
            device.reload(clone_table(backing, clone, features=FEATURES))
            copy(device)
            device.load(linear_table(clone))
            device.suspend()
            assert status(device).state == "complete"
            assert_same_disks(backing, clone, "the clone")
            device.resume()
            before = backing.counters()
            write_files(mount / "moved", 20)
        files = digest(mount)
        assert backing.counters() == before, "the old disk still gets I/O"
    device.remove()
    assert check_clone(rig, kind, clone, tmp_path / "clone") == files


def test_segments(rig: Rig, tmp_path: Path) -> None:
    """A device of several segments on several disks moves to one clone, segment by segment."""
    disks = [rig.null_blk(16) for _ in range(3)]
    clone = rig.null_blk(64)
    lengths, offsets = (20000, 24568, 32000), (2048, 8, 0)
    starts = [sum(lengths[:number]) for number in range(3)]
    where = list(zip(disks, offsets, lengths, starts, strict=True))

    def table(make: Callable[..., str]) -> str:
        return "\n".join(make(*segment) for segment in where)

    device = rig.mapped(table(linear_table))
    make_file_system("ext4", device.disk)
    with rig.mounted(device.disk, tmp_path / "live") as mount:
        write_files(mount / "before", 20)
        with load(rig, device.disk, mount):
            device.reload(
                table(
                    lambda disk, offset, length, start: clone_table(
                        disk, clone, offset, start + 64, length, start
                    )
                )
            )
            for line, start in enumerate(starts):
                copy(device, line, start)
            device.load(linear_table(clone, 64, sum(lengths)))
            device.suspend()
            for line, (disk, offset, length, start) in enumerate(where):
                assert status(device, line).state == "complete"
                assert_same_disks(disk, clone, f"line {line}", (offset, start + 64), length)
            device.resume()
            write_files(mount / "moved", 20)
        files = digest(mount)
    check_file_system("ext4", device.disk)
    assert check_clone(rig, "ext4", device.disk, tmp_path / "clone") == files


@contextmanager
def logical_volume(*disks: Disk) -> Iterator[str]:
    """A volume on all these disks; its name in device-mapper."""
    group = "clonetest"
    run("vgcreate", group, *(disk.path for disk in disks))
    try:
        run("lvcreate", "--yes", "--wipesignatures=n", "--extents=100%FREE", "--name=live", group)
        yield f"{group}-live"
    finally:
        run("vgremove", "--force", "--force", "--yes", group)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("ext4", 20), ("btrfs", 72), pytest.param("xfs", 160, marks=pytest.mark.long)],
)
def test_logical_volume(rig: Rig, tmp_path: Path, kernel_log: Guard, kind: str, size: int) -> None:
    """A mounted LV on two disks, with dmsetup as an administrator uses it: each line of LVM's table
    becomes one of clone-rs, and LVM's own table is back after that."""
    # mkfs tries to zero in a way that tmpfs can't.
    kernel_log.allow(r"operation not supported error, dev loop")
    disks = rig.loop(size), rig.loop(size)
    clone = rig.null_blk(2 * size)
    with logical_volume(*disks) as name:
        lines = run("dmsetup", "table", name).stdout.splitlines()
        assert len(lines) == 2
        ours, segments = [], []
        for line in lines:
            start, length, target, device, offset = line.split()
            assert target == "linear"
            segments.append((Disk(Path(f"/sys/dev/block/{device}").resolve().name), int(offset)))
            ours.append(
                f"{start} {length} clone-rs {device} {offset} {clone.path} {start} 2 mode track"
            )
        volume = Disk(f"dm-{call(Command.DEV_STATUS, name).minor}")
        make_file_system(kind, volume)
        with rig.mounted(volume, tmp_path / "live") as mount:
            write_files(mount / "before", 20)
            with load(rig, volume, mount):
                run("dmsetup", "reload", name, "--table", "\n".join(ours))
                run("dmsetup", "resume", name)
                for line in ours:
                    run("dmsetup", "message", name, line.split()[0], "start")
                write_files(mount / "attached", 20)
                for line in ours:
                    run("dmsetup", "message", name, line.split()[0], "finish")
                run("dmsetup", "suspend", name)
                copied = run("dmsetup", "status", name).stdout.splitlines()
                try:
                    assert all(" clone-rs complete ok " in line for line in copied), copied
                    for line, (disk, offset) in zip(ours, segments, strict=True):
                        start, length = map(int, line.split()[:2])
                        assert_same_disks(disk, clone, name, (offset, start), length)
                finally:
                    run("dmsetup", "reload", name, "--table", "\n".join(lines))
                    run("dmsetup", "resume", name)
                write_files(mount / "detached", 20)
            files = digest(mount)
        check_file_system(kind, volume)
        assert run("dmsetup", "table", name).stdout.splitlines() == lines
    found = check_clone(rig, kind, clone, tmp_path / "clone")
    assert older(found, "before", "attached") == older(files, "before", "attached")
