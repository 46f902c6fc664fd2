# SPDX-License-Identifier: GPL-2.0
"""The case that the target is for, with the tools that an administrator has: a device in use gets
a clone attached with dmsetup, is copied and detached again, and what runs above does not notice."""

import hashlib
import os
from pathlib import Path

import pytest

from harness.clone_rs import Status
from harness.command import run
from harness.image import assert_same_disks
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.wait import wait_until

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
CHECK = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check"],
}
# The smallest that mkfs makes: 300 MB for xfs, 109 MiB for btrfs.
SIZE = {"ext4": 32, "xfs": 304, "btrfs": 128}


def digest(folder: Path) -> dict[str, str]:
    """The files of a folder with the hash of their content."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def write_files(folder: Path, count: int) -> None:
    """Some files of different sizes."""
    folder.mkdir()
    for number in range(count):
        (folder / f"file{number}").write_bytes(os.urandom(1 + number * 4099))


@pytest.mark.parametrize(
    "kind",
    [
        "ext4",
        pytest.param("xfs", marks=pytest.mark.long),
        pytest.param("btrfs", marks=pytest.mark.long),
    ],
)
def test_mounted_file_system(rig: Rig, tmp_path: Path, kind: str) -> None:
    """A clone is attached to a mounted file system, which is frozen at each reload, is copied and
    detached; the file system is whole and so is the clone, which a copy of an idle moment is."""
    backing, clone = rig.null_blk(SIZE[kind]), rig.null_blk(SIZE[kind])
    device = rig.linear(backing)
    run(*MAKE[kind], device.path)
    with rig.mounted(device.disk, tmp_path / "mounted") as mount:
        write_files(mount / "before", 30)
        line = f"0 {backing.sectors} clone-rs {backing.number} 0 {clone.number} 0 2 mode track"
        run("dmsetup", "reload", device.name, "--table", line)
        run("dmsetup", "resume", device.name)
        write_files(mount / "attached", 30)
        # Frozen, the file system writes nothing: the copy is of one moment.
        run("fsfreeze", "--freeze", mount)
        try:
            run("dmsetup", "message", device.name, 0, "copy", 0, backing.sectors)
            _wait_idle(device.name)
            assert_same_disks(backing, clone, "the clone")
        finally:
            run("fsfreeze", "--unfreeze", mount)
        line = f"0 {backing.sectors} linear {backing.path} 0"
        run("dmsetup", "reload", device.name, "--table", line)
        run("dmsetup", "resume", device.name)
        write_files(mount / "detached", 30)
        files = digest(mount)

    run(*CHECK[kind], device.path)
    # The mount replays the journal, where freezing left one.
    with rig.mounted(clone, tmp_path / "clone") as mount:
        copied = digest(mount)
    run(*CHECK[kind], clone.path)
    assert copied == {name: sum_ for name, sum_ in files.items() if not name.startswith("detached")}


def _wait_idle(name: str) -> Status:
    wait_until(lambda: _status(name).at_rest, "the copy to end", timeout=120)
    return _status(name)


def _status(name: str) -> Status:
    words = run("dmsetup", "status", name).stdout.split(maxsplit=3)
    assert words[2] == "clone-rs"
    return Status.parse(words[3].rstrip("\n"))


def test_dmsetup_session(rig: Rig, kernel_log: Guard) -> None:
    """The commands of the documentation, one after the other, as a person types them."""
    kernel_log.expect(r"message refused: the device is suspended")
    backing, clone = rig.null_blk(), rig.null_blk()
    name = "clone-rs-session"
    line = f"0 {backing.sectors} clone-rs {backing.path} 0 {clone.path} 0 2 mode track"
    run("dmsetup", "create", name, "--table", line)
    try:
        assert run("dmsetup", "table", name).stdout == (
            f"0 {backing.sectors} clone-rs {backing.number} 0 {clone.number} 0 2 mode track\n"
        )
        run("dmsetup", "message", name, 0, "copy", 0, 4096)
        assert _wait_idle(name).counters["copied"] == 4096
        run("dmsetup", "message", name, 0, "skip", 0, 8192)
        assert _status(name).skipped == 64
        run("dmsetup", "message", name, 0, "start")
        wait_until(lambda: _status(name).state == "complete", "the copy to be complete")
        assert run("dmsetup", "message", name, 0, "errors").stdout == "0 0\n"
        run("dmsetup", "message", name, 0, "pause")
        run("dmsetup", "suspend", name)
        refused = run("dmsetup", "message", name, 0, "copy", 0, 8, check=False)
        assert refused.returncode == 1
        assert "Device or resource busy" in refused.stderr
        run("dmsetup", "resume", name)
        assert "clone-rs" in run("dmsetup", "targets").stdout
        deps = run("dmsetup", "deps", "-o", "devno", name).stdout
        assert deps.startswith("2 dependencies")
    finally:
        run("dmsetup", "remove", name)
