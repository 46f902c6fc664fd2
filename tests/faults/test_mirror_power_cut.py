# SPDX-License-Identifier: GPL-2.0
"""The clone of a complete mirror loses power: what a flush has secured before is there.

A null_blk disk with a write cache forgets what was not flushed when its power is cut; what it keeps
is what a disk has on its medium.
"""

import os
import random

import pytest

from harness import io
from harness.command import write_text
from harness.data import assert_same, stamped
from harness.disk_factories import CONFIGFS
from harness.rig import Rig
from harness.track import Pair

LENGTH = 4096


def after_power_cut(pair: Pair) -> bytes:
    """What the clone's medium holds. The device goes away before."""
    disk = pair.clone.disk
    pair.device.make_errors()
    power = CONFIGFS / "nullb" / disk.name / "power"
    write_text(power, 0)
    write_text(power, 1)
    return io.read(disk, 0, LENGTH)


@pytest.mark.parametrize("backing_cache", [0, 1])
@pytest.mark.parametrize("number", range(4))
def test_what_was_flushed_is_there(rig: Rig, seed: int, number: int, backing_cache: int) -> None:
    """Writes and flushes at random; the last flush that was acknowledged counts. Without a cache of
    its own the backing device gets no flush, and each write that was acknowledged is there."""
    choose = random.Random(f"{seed}-{number}-{backing_cache}")
    backing = rig.null_blk(2, cache_size=backing_cache)
    clone = rig.null_blk(2, cache_size=4)
    pair = Pair(rig, backing, clone, features=("region_size", 64), mode="mirror")
    pair.device.start_and_wait()
    expected = bytearray(pair.backing.content())
    secured = bytes(expected)
    with io.direct(pair.device.disk) as fd:
        for turn in range(choose.randrange(5, 40)):
            count = choose.choice((1, 8, 16, 128))
            sector = choose.randrange(LENGTH - count)
            data = stamped(f"w{turn}", sector, count)
            io.pwrite(fd, sector, data)
            expected[sector * 512 : sector * 512 + len(data)] = data
            if choose.random() < 0.4:
                os.fsync(fd)
                secured = bytes(expected)
    assert pair.device.clone_status().state == "complete"
    found = after_power_cut(pair)
    if not backing_cache:
        secured = bytes(expected)
    # What came after the flush may be there or not; what it secured must be.
    for at in range(0, LENGTH * 512, 512):
        part = slice(at, at + 512)
        if secured[part] == expected[part]:
            assert_same(secured[part], found[part], "after the power cut", at // 512)
