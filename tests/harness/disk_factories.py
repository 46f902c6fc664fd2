# SPDX-License-Identifier: GPL-2.0
"""The devices below: made with the properties that a test asks for, and taken away after it.

Each is a context manager that yields a `Disk`; where a disk's properties are given when its module
is loaded, a class stands for the module and gives one disk after the other. All sizes are in MiB.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from harness.command import load_module, read_text, run, unload_module, write_text
from harness.disk import Disk
from harness.wait import wait_until

CONFIGFS = Path("/sys/kernel/config")
NULL_BLK_POLL_QUEUES = 2

# null_blk with mbps=N lets N * 20 KiB through every 20 ms, and a larger request never.
SLOW = {"max_sectors": 32}

_numbers = itertools.count()
# mdadm takes numbers below 512.
_md_numbers = itertools.count(100)


def _mounted(path: Path, kind: str) -> Path:
    """The mount point of a kernel file system, mounted if it is not yet."""
    if not os.path.ismount(path):
        run("mount", "-t", kind, kind, path)
    return path


def _null_blk_folder() -> Path:
    """Load null_blk so that its devices can have poll queues, which its load sets a bound to."""
    parameters = Path("/sys/module/null_blk/parameters")
    if parameters.is_dir() and int(read_text(parameters / "poll_queues")) < NULL_BLK_POLL_QUEUES:
        unload_module("null_blk")
    if not parameters.is_dir():
        load_module("null_blk", nr_devices=0, poll_queues=NULL_BLK_POLL_QUEUES)
    return _mounted(CONFIGFS, "configfs") / "nullb"


@contextlib.contextmanager
def null_blk(size: int = 16, **attributes: object) -> Iterator[Disk]:
    """A null_blk disk in memory.

    The attributes are those of its configfs folder: blocksize, cache_size (MiB, makes a volatile
    write cache), fua, discard, poll_queues, submit_queues, irqmode (0 in the submitter's context,
    1 softirq, 2 timer with completion_nsec), mbps, virt_boundary, max_sectors, zoned, zone_size,
    badblocks_partial_io, ...
    """
    folder = _null_blk_folder() / f"nullb{next(_numbers)}"
    folder.mkdir()
    try:
        settings = {"size": size, "memory_backed": 1, "poll_queues": 0, "blocksize": 512}
        for attribute, value in (settings | attributes).items():
            write_text(folder / attribute, value)
        write_text(folder / "power", 1)
        yield Disk(folder.name)
    finally:
        folder.rmdir()


def null_blk_badblocks(disk: Disk, first: int, last: int) -> None:
    """Make a null_blk disk fail everything that touches the sectors first..last."""
    write_text(CONFIGFS / "nullb" / disk.name / "badblocks", f"+{first}-{last}")


def null_blk_no_badblocks(disk: Disk, first: int, last: int) -> None:
    """Take back null_blk_badblocks."""
    write_text(CONFIGFS / "nullb" / disk.name / "badblocks", f"-{first}-{last}")


class ScsiDebug:
    """The module scsi_debug, loaded with these parameters; `add` gives one disk after the other.

    The parameters are the module's: sector_size, dif, dix, lbpu, lbpws, atomic_wr, opt_blks,
    opt_xferlen_exp, physblk_exp, ... (modinfo scsi_debug). The disks share one memory (each has
    the same content) unless per_host_store=1 is given.
    """

    _bus = Path("/sys/bus/pseudo/drivers/scsi_debug")
    _debugfs = Path("/sys/kernel/debug/scsi_debug")

    def __init__(self, size: int = 16, **parameters: object):
        self.parameters = {"dev_size_mb": size, "delay": 0} | parameters
        load_module("scsi_debug", add_host=0, **self.parameters)

    def _names(self) -> set[str]:
        return {folder.name for folder in self._bus.glob("adapter*/host*/target*/*/block/*")}

    def add(self) -> Disk:
        """One disk more."""
        before = self._names()
        write_text(self._bus / "add_host", 1)
        disk = Disk(wait_until(lambda: self._names() - before, "a scsi_debug disk").pop())
        # The probe goes on after the node has appeared; the last thing that it sets is the size.
        wait_until(lambda: disk.exists() and disk.sectors, f"the size of {disk.name}")
        wait_until(lambda: _opens(disk), f"{disk.name} to open")
        return disk

    def close(self) -> None:
        """Take the disks away, and unload the module.

        What debugfs has of them goes in work that the module's unload does not wait for, and that
        crashes when it comes after it."""
        hosts = self._bus / "add_host"
        write_text(hosts, -int(read_text(hosts)))
        wait_until(lambda: not any(self._debugfs.glob("target*:0:0")), "scsi_debug to clean up")
        unload_module("scsi_debug")


def _opens(disk: Disk) -> bool:
    try:
        os.close(os.open(disk.path, os.O_RDONLY))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def loop(size: int = 16, block: int = 512, folder: str = "/tmp") -> Iterator[Disk]:
    """A loop device on a sparse file in tmpfs: it has discard and write zeroes."""
    backing = Path(folder) / f"loop-{os.getpid()}-{next(_numbers)}"
    with open(backing, "wb") as file:
        file.truncate(size << 20)
    try:
        made = run("losetup", "--show", "--find", "--sector-size", block, backing)
        path = made.stdout.strip()
        try:
            yield Disk(os.path.basename(path))
        finally:
            run("losetup", "--detach", path)
            name = Disk(os.path.basename(path)).sys / "loop/backing_file"
            wait_until(lambda: not name.exists(), f"{path} to be detached")
    finally:
        backing.unlink()


class Brd:
    """The module brd, loaded for two RAM disks: bio-based, with no queue below them."""

    def __init__(self, size: int = 16):
        self.size = size
        self._free = ["ram0", "ram1"]
        load_module("brd", rd_nr=len(self._free), rd_size=size << 10)

    def add(self) -> Disk:
        """The first disk, then the second."""
        disk = Disk(self._free.pop(0))
        wait_until(disk.exists, f"{disk.path}")
        return disk

    def close(self) -> None:
        """Unload the module, and the disks with it."""
        unload_module("brd")


@contextlib.contextmanager
def md_raid1(first: Disk, second: Disk) -> Iterator[Disk]:
    """An md mirror of two disks, without metadata.

    Both disks have to hold the same at the start; new null_blk disks do.
    """
    disk = Disk(f"md{next(_md_numbers)}")
    run(
        *("mdadm", "--build", disk.path, "--run", "--assume-clean", "--level=1"),
        *("--raid-devices=2", first.path, second.path),
    )
    try:
        wait_until(disk.exists, f"{disk.path}")
        yield disk
    finally:
        run("mdadm", "--stop", disk.path)
