# SPDX-License-Identifier: GPL-2.0
"""`retry` while a failure is dealt with comes before or after that, never in its midst. The map of
the regions is so large here that a look at all of it takes a while.
"""

import time

import pytest

from harness.clone_rs import TRACK, linear_table
from harness.dm_ioctl import DmError, is_busy
from harness.faulty import allow_errors
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig
from harness.wait import PATIENCE

REGION = 8
# In sectors: 64 GiB, of which nothing is kept.
LARGE = 1 << 27
FEATURES = (*TRACK, "region_size", REGION, "depth", 1, "batch", REGION, "on_read_error", "skip")


def test_as_the_clone_is_detached(rig: Rig, kernel_log: Guard) -> None:
    """It is refused once the clone has failed, and what was accepted before does not go on: a
    suspend that was to copy the rest would wait for it."""
    allow_errors(kernel_log)
    kernel_log.allow(OURS + "message refused: ")
    disks = [rig.null_blk(LARGE >> 11, memory_backed=0) for _ in range(2)]
    error = rig.mapped(f"0 {REGION} error").disk
    # Something has to be put aside, or there is nothing to look for.
    backing = rig.with_errors(disks[0], 0, REGION)
    after = 2 * REGION
    clone = rig.mapped(
        f"{linear_table(disks[1], 0, REGION)}\n{REGION} {REGION} delay {error.path} 0 200\n"
        + linear_table(disks[1], after, LARGE - after, start=after)
    ).disk
    device = rig.clone(backing, clone, features=FEATURES)
    device.skip(after, LARGE - after)

    for _ in range(5):
        device.start()
        # Without a pause: it is to fail while one of them is under way.
        deadline = time.monotonic() + 30 * PATIENCE
        while not is_busy(device.retry):
            assert time.monotonic() < deadline, "the clone did not fail"
        status = device.wait_for(lambda status: not status.copying, "at rest")
        assert (status.state, status.health) == ("paused", "detached")
        with pytest.raises(DmError):
            device.finish()
