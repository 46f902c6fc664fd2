# SPDX-License-Identifier: GPL-2.0
"""fio writes through the mapped device, with many requests in flight, and reads back what it
wrote: data and its order survive the way down and up."""

import pytest

from harness import io
from harness.backings import BACKINGS
from harness.clone_rs import clone_table
from harness.fio import FioFailed, fio
from harness.kernel_log import Guard
from harness.rig import Rig

VERIFY = {"verify": "crc32c", "verify_fatal": 1, "do_verify": 1}
KINDS = [
    "null_blk-512",
    "null_blk-4096",
    "null_blk-write-cache-fua",
    "null_blk-small-slow",
    "null_blk-virt-boundary",
    "brd",
    "loop",
    "scsi-dif-dix",
    "md-raid1",
]


@pytest.mark.parametrize("kind", KINDS)
def test_random_writes(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """Random writes of mixed sizes, with flushes between them, then all is read back."""
    backing = BACKINGS[kind](rig)
    ours = rig.clone(backing, rig.null_blk(), backing_offset=64, length=backing.sectors - 64)
    smallest = backing.block * 512
    job = fio(
        ours.disk,
        rw="randwrite",
        bsrange=f"{smallest}-256k",
        size="8m",
        fsync=32,
        **VERIFY,
    )
    assert job["write"]["io_bytes"] >= 8 << 20
    assert job["read"]["io_bytes"] >= 8 << 20


def test_mixed_reads_and_writes(rig: Rig) -> None:
    """Reads between the writes are verified, too."""
    ours = rig.clone(rig.null_blk(), rig.null_blk())
    job = fio(ours.disk, rw="randrw", bs="4k", size="4m", iodepth=32, **VERIFY)
    assert job["read"]["io_bytes"] and job["write"]["io_bytes"]


def test_large_requests(rig: Rig) -> None:
    """Sequential requests of 1 MiB and more, which are split on their way."""
    ours = rig.clone(rig.null_blk(max_sectors=256), rig.null_blk())
    fio(ours.disk, rw="write", bs="1m", size="16m", iodepth=4, **VERIFY)
    fio(ours.disk, rw="write", bs="4m", size="16m", iodepth=2, **VERIFY)


def test_discards_between_writes(rig: Rig) -> None:
    """Random writes among random discards: both arrive, in what order they were acknowledged."""
    ours = rig.clone(rig.null_blk(discard=1), rig.null_blk())
    job = fio(ours.disk, rw="randtrimwrite", bs="16k", size="8m", iodepth=8)
    assert job["trim"]["io_bytes"] and job["write"]["io_bytes"]


def test_across_segments(rig: Rig) -> None:
    """Requests that cross from one backing device to another."""
    clone = rig.null_blk(size=32)
    lines = [
        clone_table(rig.null_blk(size=4), clone, 1, 8192 * number, 5001, 5001 * number)
        for number in range(4)
    ]
    ours = rig.clone_of("\n".join(lines))
    fio(ours.disk, rw="randwrite", bsrange="512-128k", size="8m", **VERIFY)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", BACKINGS)
def test_long_mix(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """Longer, several jobs' worth of depth, mixed sizes up to 1 MiB, on every kind of device."""
    backing = BACKINGS[kind](rig)
    ours = rig.clone(backing, rig.null_blk(), backing_offset=64, length=backing.sectors - 64)
    smallest = backing.block * 512
    for rw in ("randwrite", "randrw", "write"):
        fio(
            ours.disk,
            timeout=300,
            rw=rw,
            bsrange=f"{smallest}-1m",
            size="14m",
            loops=3,
            iodepth=32,
            fdatasync=16,
            **VERIFY,
        )


def test_wrong_data_is_seen(rig: Rig) -> None:
    """fio's verification can fail: data is changed below the node between its two passes."""
    backing = rig.null_blk()
    ours = rig.clone(backing, rig.null_blk())
    fio(ours.disk, rw="write", bs="64k", size="1m", **VERIFY | {"do_verify": 0})
    io.write(backing, 600, b"\xee" * 512)
    with pytest.raises(FioFailed):
        fio(ours.disk, rw="read", bs="64k", size="1m", **VERIFY)
