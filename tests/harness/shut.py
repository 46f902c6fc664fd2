# SPDX-License-Identifier: GPL-2.0
"""A gate that is shut, and what waits at it.

That a region is being copied is said from the moment it is claimed: its read may not have been sent
yet. What has reached a device is what a trace of the device shows.
"""

from harness.bio_trace import Bio, BioTrace
from harness.dm import Device
from harness.wait import wait_until


class Shut:
    """A gate that lets nothing through; `rig.shut` makes one."""

    def __init__(self, gate: Device, trace: BioTrace):
        self._gate = gate
        self._trace = trace

    def held(self) -> list[Bio]:
        """The bios that have come since it was shut."""
        return self._trace.bios(self._gate.disk)

    def wait_for(self, bios: int) -> None:
        """Wait until so many have come, and no more."""
        wait_until(lambda: len(self.held()) >= bios, f"{bios} bios at a gate")
        assert len(self.held()) == bios, f"more than {bios} bios at a gate: {self.held()}"

    def wait_for_some(self) -> None:
        """Wait until any have come."""
        wait_until(self.held, "bios at a gate")

    def open(self) -> None:
        """Let them go on, and all that come."""
        self._gate.resume()
