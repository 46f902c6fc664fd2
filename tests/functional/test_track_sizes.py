# SPDX-License-Identifier: GPL-2.0
"""Targets and writes of one sector, and of one less, as many and one more than a page and a region
have, at offsets around them: exactly the regions that a write touches are dirty, and both ranges
are equal at the end, with all around them as it was."""

import itertools

import pytest

from harness.clone_rs import CloneDevice
from harness.data import stamped
from harness.rig import Rig
from harness.track import Pair

PAGE = 8
REGION = 64


def around(*sizes: int, unit: int = 1) -> list[int]:
    """One less, as many and one more."""
    return sorted({size + more for size in sizes for more in (-unit, 0, unit)} - {0})


@pytest.mark.parametrize("offsets", [(0, 0), (1, 0), (0, 1), (7, 9), (65, 63), (64, 8)], ids=str)
@pytest.mark.parametrize("region_size", [PAGE, REGION])
@pytest.mark.parametrize("block", [1, 8])
def test_targets(rig: Rig, offsets: tuple[int, int], region_size: int, block: int) -> None:
    """Targets of all lengths on the same disks: copied, written to at both ends, and finished. Both
    lengths and offsets are in blocks."""
    pair = Pair(
        rig,
        rig.null_blk(1, blocksize=512 * block),
        rig.null_blk(1, blocksize=512 * block),
        (offsets[0] * block, offsets[1] * block),
        features=("region_size", region_size, "batch", PAGE),
        device=False,
    )
    for length in [block, *around(PAGE, region_size, 2 * region_size, unit=block)]:
        pair.length = length
        device: CloneDevice = rig.clone_of(pair.line())
        pair.become_part_of(device, 0, 0)
        total = -(-length // region_size)
        assert pair.status().total == total
        status = device.start_and_wait()
        assert (status.in_sync, status.counters["copied"]) == (total, length)
        for number, sector in enumerate({0, length - block}):
            pair.write(sector, stamped(f"l{length}n{number}", sector, block))
        status = pair.finish(f"{length} sectors")
        assert (status.in_sync, status.skipped) == (total, 0)
        device.remove()


@pytest.mark.parametrize("offsets", [(0, 0), (3, 7)], ids=str)
def test_writes(rig: Rig, offsets: tuple[int, int]) -> None:
    """Writes of all sizes at all borders of pages and regions, each in a part of its own."""
    length = 15500
    pair = Pair(rig, rig.null_blk(8), rig.null_blk(8), offsets, length, ("region_size", REGION))
    device = pair.device
    device.start_and_wait()
    device.pause()
    starts = [0, 1, *around(PAGE), REGION - 1]
    sizes = [1, *around(PAGE, REGION, 2 * REGION)]
    for number, (start, size) in enumerate(itertools.product(starts, sizes)):
        sector = number * 4 * REGION + start
        before = pair.status()
        pair.write(sector, stamped(f"w{number}", sector, size))
        touched = (start + size - 1) // REGION + 1 - start // REGION
        assert pair.status().dirty - before.dirty == touched, f"{size} sectors at {sector}"
    before = pair.status()
    status = device.start_and_wait()
    assert status.counters["copied"] - before.counters["copied"] == before.dirty * REGION
    pair.expect_copy()
    pair.check("after writes of all sizes")
