# SPDX-License-Identifier: GPL-2.0
"""File systems above a mapped device: made, checked, and filled with files."""

import hashlib
import os
from pathlib import Path

from harness.command import run
from harness.disk import Disk

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
_NO_DISCARD = {"ext4": ["-E", "nodiscard"], "xfs": ["-K"], "btrfs": ["--nodiscard"]}
_CHECK = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check"],
}
# The smallest that mkfs makes, in MiB: 300 MB for xfs, 109 MiB for btrfs.
SIZE = {"ext4": 32, "xfs": 304, "btrfs": 128}


def make_file_system(kind: str, disk: Disk, discard: bool = True) -> None:
    """Make an empty one; without `discard` the disk is not discarded before."""
    run(*_MAKE[kind], *(() if discard else _NO_DISCARD[kind]), disk.path)


def check_file_system(kind: str, disk: Disk) -> None:
    """Fail unless it is whole. One that was not unmounted has to be mounted before, which replays
    its journal."""
    run(*_CHECK[kind], disk.path)


def write_files(folder: Path, count: int) -> None:
    """Some files of different sizes."""
    folder.mkdir()
    for number in range(count):
        (folder / f"file{number}").write_bytes(os.urandom(1 + number * 4099))


def digest(folder: Path) -> dict[str, str]:
    """The files of a folder with the hash of their content."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
