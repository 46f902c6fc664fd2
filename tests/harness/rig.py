# SPDX-License-Identifier: GPL-2.0
"""The rig: a test asks it for devices, and it takes all of them away at the end."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from harness import disk_factories
from harness.bio_trace import BioTrace, bio_trace
from harness.clone_rs import CloneDevice, clone_table, linear_table
from harness.command import run
from harness.disk import Disk
from harness.dm import Device, SuspendingChild
from harness.dm_ioctl import DmError
from harness.fio import Fio
from harness.kprobes import Probes, kprobes
from harness.shut import Shut
from harness.wait import Background

_numbers = itertools.count()


class Load(Protocol):
    """What uses a mapped device all the time."""

    def kill(self) -> None:
        """End it."""


class Rig:
    """Makes devices. They go in the opposite order, whatever became of the test."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._mapped: list[Device] = []
        self._background: list[Background] = []
        self._running: list[Load] = []
        self._scsi: disk_factories.ScsiDebug | None = None
        self._brd: disk_factories.Brd | None = None

    # What is below.

    def null_blk(self, size: int = 16, **attributes: object) -> Disk:
        """A null_blk disk in memory: see disk_factories.null_blk."""
        return self._stack.enter_context(disk_factories.null_blk(size, **attributes))

    def slow(self, size: int, mbps: int) -> Disk:
        """A null_blk disk that does about so many MiB a second."""
        return self.null_blk(size, mbps=mbps, **disk_factories.SLOW)

    def scsi_debug(self, size: int = 16, **parameters: object) -> Disk:
        """A scsi_debug disk: see disk_factories.ScsiDebug. All of a test have the same
        parameters."""
        if self._scsi is None:
            self._scsi = disk_factories.ScsiDebug(size, **parameters)
            self._stack.callback(self._scsi.close)
        assert parameters.items() <= self._scsi.parameters.items()
        return self._scsi.add()

    def loop(self, size: int = 16, block: int = 512) -> Disk:
        """A loop device: see disk_factories.loop."""
        return self._stack.enter_context(disk_factories.loop(size, block))

    def brd(self, size: int = 16) -> Disk:
        """A RAM disk: see disk_factories.Brd. There are at most two, of the same size."""
        if self._brd is None:
            self._brd = disk_factories.Brd(size)
            self._stack.callback(self._brd.close)
        assert size == self._brd.size
        return self._brd.add()

    def md_raid1(self, first: Disk, second: Disk) -> Disk:
        """An md mirror of two disks."""
        return self._stack.enter_context(disk_factories.md_raid1(first, second))

    # Mapped devices.

    def mapped(self, table: str | None = None, readonly: bool = False) -> Device:
        """A mapped device with any table, or with none yet."""
        return self._keep(Device.create(f"test-{next(_numbers)}", table, readonly))

    def linear(self, backing: Disk, backing_offset: int = 0, **how: int) -> Device:
        """A dm-linear over a disk: see linear_table."""
        return self.mapped(linear_table(backing, backing_offset, **how))

    def clone(self, backing: Disk, clone: Disk, *where: int, **how: object) -> CloneDevice:
        """A clone-rs over a pair of disks: see clone_table."""
        return self.clone_of(clone_table(backing, clone, *where, **how))

    def clone_of(self, table: str | None, readonly: bool = False) -> CloneDevice:
        """A mapped device with a table of clone-rs."""
        return self._keep(CloneDevice.create(f"test-{next(_numbers)}", table, readonly))

    def gate(self, disk: Disk) -> Device:
        """A dm-linear over the whole disk that a test suspends to hold all I/O to it back, and
        resumes to let it through."""
        return self.linear(disk)

    def shut(self, gate: Device) -> Shut:
        """Suspend a gate, and see what comes to it from then on."""
        gate.suspend()
        return Shut(gate, self.bio_trace(gate.disk))

    def _keep[D: Device](self, device: D) -> D:
        self._mapped.append(device)
        return device

    def badblocks(self, disk: Disk, first: int, last: int) -> None:
        """Make a null_blk disk fail what touches the sectors first..last."""
        disk_factories.null_blk_badblocks(disk, first, last)

    def no_badblocks(self, disk: Disk, first: int, last: int) -> None:
        """Take back `badblocks`."""
        disk_factories.null_blk_no_badblocks(disk, first, last)

    def with_errors(self, disk: Disk, first: int, count: int) -> Disk:
        """The disk with a patch that fails every read and write (a mapped device above it)."""
        after = first + count
        parts = [linear_table(disk, 0, first)] if first else []
        parts.append(f"{first} {count} error")
        if after < disk.sectors:
            parts.append(linear_table(disk, after, start=after))
        return self.mapped("\n".join(parts)).disk

    # What goes on meanwhile.

    def background(self, function: Callable, *arguments: object, **named: object) -> Background:
        """Make a call that may block in a thread; the rig waits for its end."""
        started = Background(function, *arguments, **named)
        self._background.append(started)
        return started

    def suspend_in_child(self, device: Device, noflush: bool = False) -> SuspendingChild:
        """Suspend in a process that can be interrupted; the rig ends it."""
        child = device.suspend_in_child(noflush)
        self._stack.callback(child.kill)
        return child

    def kprobes(self, **functions: str) -> Probes:
        """Count calls of kernel functions: see kprobes.kprobes."""
        return self._stack.enter_context(kprobes(**functions))

    def bio_trace(self, *disks: Disk, memory: int = 64) -> BioTrace:
        """Trace the bios that disks get: see bio_trace.bio_trace."""
        return self._stack.enter_context(bio_trace(*disks, memory=memory))

    def fio(self, disk: Disk, **options: object) -> Fio:
        """Start fio on a disk; it is ended with the test."""
        started = Fio(disk, **options)
        self._running.append(started)
        return started

    def until_end(self, load: Load) -> None:
        """Kill a load before the mapped devices go, if it is still there."""
        self._running.append(load)

    @contextlib.contextmanager
    def mounted(self, disk: Disk, folder: Path) -> Iterator[Path]:
        """Mount a disk for the time of a with block; a suspended device can't be unmounted, so all
        are resumed before."""
        folder.mkdir()
        run("mount", disk.path, folder)
        try:
            yield folder
        finally:
            self._resume_all()
            run("umount", folder)

    def at_end(self, function: Callable, *arguments: object) -> None:
        """Call this after the mapped devices have gone and before the disks go."""
        self._stack.callback(function, *arguments)

    def close(self) -> None:
        """Let all I/O end, wait for what runs in the background, remove everything."""
        problems = self._resume_all()
        mapped = [device for device in self._mapped if not device.gone]
        for process in self._running:
            process.kill()
        for call in self._background:
            try:
                call.join()
            except AssertionError as error:
                problems.append(str(error))
        for device in reversed(mapped):
            try:
                device.remove()
            except (DmError, AssertionError) as error:
                problems.append(str(error))
        self._stack.close()
        assert not problems, "\n".join(problems)

    def _resume_all(self) -> list[str]:
        """From the bottom up: what hangs above a suspended device ends once that is resumed."""
        problems = []
        for device in self._mapped:
            try:
                if not device.gone and device.suspended:
                    device.resume()
            except DmError as error:
                problems.append(str(error))
        return problems
