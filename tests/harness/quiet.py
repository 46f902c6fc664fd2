# SPDX-License-Identifier: GPL-2.0
"""Seeing that a device gets no I/O."""

import time

from harness.disk import Disk


def assert_quiet(*disks: Disk, seconds: float = 0.3) -> None:
    """Watch devices for a while: nothing may be in flight, begin or end on them."""
    before = [disk.counters() for disk in disks]
    for disk, counters in zip(disks, before, strict=True):
        assert counters.in_flight == 0, f"{disk.name} has I/O in flight"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for disk, counters in zip(disks, before, strict=True):
            assert disk.counters() == counters, f"{disk.name} gets I/O"
        time.sleep(0.01)
