# SPDX-License-Identifier: GPL-2.0
"""The clone of a complete mirror loses power: what a flush has secured before is there, and what
was forced to the medium.

A null_blk disk with a write cache forgets what was not flushed when its power is cut; what it keeps
is what a disk has on its medium. But its cache takes no page that is on the medium already: so both
disks are empty at the start, and `delta` finds them equal.
"""

import os
import random

import pytest

from harness import io
from harness.clone_rs import CloneDevice
from harness.command import write_text
from harness.data import assert_same, stamped
from harness.disk import Disk
from harness.disk_factories import CONFIGFS
from harness.faulty import power_off
from harness.rig import Rig

LENGTH = 4096


def after_power_cut(device: CloneDevice, disk: Disk) -> bytes:
    """What the clone's medium holds. The device goes away before."""
    device.make_errors()
    power_off(disk)
    write_text(CONFIGFS / "nullb" / disk.name / "power", 1)
    return io.read(disk, 0, LENGTH)


@pytest.mark.parametrize("backing_cache", [0, 1])
@pytest.mark.parametrize("number", range(4))
def test_what_was_flushed_is_there(rig: Rig, seed: int, number: int, backing_cache: int) -> None:
    """Writes and flushes at random; the last flush that was acknowledged counts. Without a cache of
    its own the backing device gets no flush, and each write that was acknowledged is there. The
    last write, which nobody has flushed, is lost where it may be: the cut is one."""
    choose = random.Random(f"{seed}-{number}-{backing_cache}")
    backing = rig.null_blk(2, cache_size=backing_cache)
    clone = rig.null_blk(2, cache_size=4)
    device = rig.clone(backing, clone, features=("mode", "mirror", "region_size", 64, "delta"))
    assert device.start_and_wait().counters["copied"] == 0
    # Of zeroes.
    expected = bytearray(LENGTH * 512)
    secured = bytearray(expected)
    # Nothing else is written there.
    last = stamped("last", LENGTH - 8, 8)
    with io.direct(device.disk) as fd:
        for turn in range(choose.randrange(5, 40)):
            count = choose.choice((1, 8, 16, 128))
            sector = choose.randrange(LENGTH - 8 - count)
            data = stamped(f"w{turn}", sector, count)
            place = slice(sector * 512, sector * 512 + len(data))
            forced = choose.random() < 0.2
            io.pwrite(fd, sector, data, os.RWF_DSYNC if forced else 0)
            expected[place] = data
            if forced:
                secured[place] = data
            if choose.random() < 0.4:
                os.fsync(fd)
                secured = bytearray(expected)
        io.pwrite(fd, LENGTH - 8, last)
        expected[-len(last) :] = last
    assert device.clone_status().state == "complete"
    found = after_power_cut(device, clone)
    if not backing_cache:
        secured = expected
    lost = found[-len(last) :] == bytes(len(last))
    assert lost == bool(backing_cache), "whether what was not flushed is lost"
    # What came after the flush may be there or not; what it secured must be.
    for at in range(0, LENGTH * 512, 512):
        part = slice(at, at + 512)
        if secured[part] == expected[part]:
            assert_same(secured[part], found[part], "after the power cut", at // 512)
