# SPDX-License-Identifier: GPL-2.0
"""The mapped device looks to the layers above exactly as dm-linear's would.

A file system takes its geometry from these limits when it is made, and some of them are read only
once, at mount. A limit that changes when a clone is attached to a device in use breaks what runs
above it, so every file is compared, without exceptions.
"""

import pytest

from harness.backings import BACKINGS
from harness.clone_rs import clone_table, linear_table
from harness.disk import Disk
from harness.kernel_log import Guard
from harness.limits import limits, unlike
from harness.rig import Rig

# dm says so for linear as for us where a range begins inside a physical block.
MISALIGNED = r"caused an alignment inconsistency"


def compare(rig: Rig, backing: Disk, clone: Disk, **where: int) -> None:
    """Fail if a clone-rs over a range differs from a dm-linear over the same one."""
    linear = rig.linear(backing, **where)
    mapped = rig.clone(backing, clone, **where)
    different = unlike(limits(linear.disk), limits(mapped.disk))
    mapped.remove()
    linear.remove()
    assert not different, f"{where}: property: (dm-linear's, ours): {different}"


@pytest.mark.parametrize("kind", BACKINGS)
def test_equal_to_linear(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """Whole device, a range inside it, and one that begins at the smallest offset possible."""
    kernel_log.allow(MISALIGNED)
    backing = BACKINGS[kind](rig)
    clone = rig.null_blk()
    compare(rig, backing, clone)
    compare(rig, backing, clone, backing_offset=1024, length=4096)
    compare(rig, backing, clone, backing_offset=backing.block, length=1024)


@pytest.mark.parametrize("kind", ["null_blk-4096", "null_blk-write-cache-fua", "loop", "brd"])
def test_the_clone_has_no_say(rig: Rig, kind: str) -> None:
    """What the clone can do, or can't, changes nothing: only the backing device counts."""
    compare(rig, rig.null_blk(discard=1), BACKINGS[kind](rig))


def test_several_segments(rig: Rig) -> None:
    """Limits of unlike segments are stacked as those of dm-linear are."""
    disks = [
        rig.null_blk(cache_size=1, discard=1),
        rig.null_blk(blocksize=4096, max_sectors=128),
        rig.loop(),
    ]
    clone = rig.null_blk(size=64)
    linear, ours = [], []
    for number, disk in enumerate(disks):
        start = 8192 * number
        linear.append(linear_table(disk, 8 * number, length=8192, start=start))
        ours.append(
            clone_table(disk, clone, 8 * number, clone_offset=start, length=8192, start=start)
        )
    wanted = limits(rig.mapped("\n".join(linear)).disk)
    found = limits(rig.clone_of("\n".join(ours)).disk)
    assert not unlike(wanted, found)


@pytest.mark.parametrize("kind", ["null_blk-write-cache-fua", "loop", "scsi-dif-dix"])
def test_attaching_changes_nothing(rig: Rig, kind: str) -> None:
    """The device in use is reloaded from dm-linear to clone-rs and back: the same limits all the
    way."""
    backing = BACKINGS[kind](rig)
    clone = rig.null_blk()
    device = rig.linear(backing)
    before = limits(device.disk)
    device.reload(clone_table(backing, clone))
    assert not unlike(before, limits(device.disk)), "after attaching"
    device.reload(linear_table(backing))
    assert not unlike(before, limits(device.disk)), "after detaching"


def test_a_mirror_has_stable_pages(rig: Rig) -> None:
    """The one difference, of tables that say mirror: pages that are written back do not change."""
    backing = rig.null_blk(cache_size=1)
    linear = rig.linear(backing)
    mapped = rig.clone(backing, rig.null_blk(), features=("mode", "mirror"))
    assert unlike(limits(linear.disk), limits(mapped.disk)) == {"queue/stable_writes": ("0", "1")}


def test_not_dax(rig: Rig) -> None:
    """DAX is not offered: stores of the processor could not be copied."""
    device = rig.clone(rig.brd(), rig.null_blk())
    assert device.disk.queue("dax") == "0"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("null_blk-4096", "queue/logical_block_size"),
        ("null_blk-write-cache", "queue/write_cache"),
        ("null_blk-discard", "queue/discard_max_bytes"),
        ("null_blk-virt-boundary", "queue/virt_boundary_mask"),
        ("null_blk-small-slow", "queue/rotational"),
        ("null_blk-poll", "queue/io_poll"),
        ("loop", "queue/write_zeroes_max_bytes"),
        ("scsi-dif-dix", "integrity/format"),
        ("scsi-atomic", "queue/atomic_write_unit_max_bytes"),
        ("scsi-optimal-io", "queue/optimal_io_size"),
    ],
)
def test_planted_wrong_limit_is_seen(rig: Rig, kind: str, wrong: str) -> None:
    """The comparison itself can fail: a dm-linear over a backing device with one other property
    is told from a clone-rs over a plain one, by that property."""
    plain = rig.null_blk()
    mapped = rig.clone(plain, rig.null_blk())
    odd = rig.linear(BACKINGS[kind](rig), length=8192)
    assert wrong in unlike(limits(odd.disk), limits(mapped.disk))


def test_one_planted_wrong_limit_is_seen(rig: Rig) -> None:
    """As above with a single wrong value, and nothing else is reported."""
    backing = rig.null_blk()
    linear = rig.linear(backing)
    mapped = rig.clone(backing, rig.null_blk())
    linear.disk.set_queue("max_sectors_kb", 64)
    assert set(unlike(limits(linear.disk), limits(mapped.disk))) == {"queue/max_sectors_kb"}
