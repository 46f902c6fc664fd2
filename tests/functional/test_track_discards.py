# SPDX-License-Identifier: GPL-2.0
"""What is discarded is not copied, and what is written after that is.

Regions that a discard covers whole are left alone on the clone: its old bytes are there still.
Those that it covers in part are copied. With `strict_discard` all are. Zeroes that are written are
data.
"""

from pathlib import Path

import pytest

from harness import io
from harness.command import run
from harness.data import SECTOR, stamped
from harness.disk import Disk
from harness.file_systems import SIZE, check_file_system, make_file_system
from harness.image import Image
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.track import Pair

REGION = 64
STRICT = "strict_discard"


def provisioned(rig: Rig, *features: object, **how: object) -> Pair:
    """A backing device that can discard, which clears it there."""
    return Pair(
        rig,
        rig.null_blk(2, discard=1),
        rig.null_blk(2),
        features=("region_size", REGION, *features),
        **how,
    )


def discard(pair: Pair, sector: int, count: int) -> None:
    """Discard through the mapped device."""
    with io.direct(pair.device.disk) as fd:
        io.range_ioctl(fd, io.BLKDISCARD, sector, count)
    pair.backing.expect(pair.offsets[0] + sector, bytes(count * SECTOR))


def covered(pair: Pair, sector: int, count: int) -> range:
    """The regions that lie whole in a range; the last one may be short."""
    end = sector + count
    last = -(-end // REGION) if end == pair.length else end // REGION
    return range(-(-sector // REGION), last)


def expect_copy_but(pair: Pair, skipped: set[int]) -> None:
    """The clone has all but these regions."""
    for region in range(-(-pair.length // REGION)):
        if region not in skipped:
            sector = region * REGION
            pair.expect_copy(sector, min(REGION, pair.length - sector))


RANGES = [
    (0, 64),
    (65, 1),
    (100, 20),
    (127, 2),
    (190, 70),
    (300, 500),
    (1023, 129),
    (1280, 640),
    (4000, 87),
]


@pytest.mark.parametrize("offsets", [(0, 0), (9, 3)], ids=str)
@pytest.mark.parametrize("strict", [False, True])
def test_before_start(rig: Rig, offsets: tuple[int, int], strict: bool) -> None:
    """A clone of what is in use only; the last region of the target is a short one."""
    pair = provisioned(rig, *([STRICT] if strict else []), offsets=offsets, length=4087)
    skipped = set()
    for sector, count in RANGES:
        discard(pair, sector, count)
        skipped |= set(covered(pair, sector, count)) if not strict else set()
    assert strict or 63 in skipped
    assert pair.status().skipped == len(skipped)
    status = pair.device.start_and_wait()
    assert (status.skipped, status.in_sync) == (len(skipped), status.total - len(skipped))
    expect_copy_but(pair, skipped)
    pair.check("after discards")


def test_all(rig: Rig) -> None:
    """With all discarded nothing is copied; the copy is complete all the same."""
    pair = provisioned(rig)
    discard(pair, 0, pair.length)
    status = pair.device.start_and_wait()
    assert (status.skipped, status.in_sync) == (status.total, 0)
    assert status.counters["copied"] == 0
    pair.check("all was discarded")


@pytest.mark.parametrize("strict", [False, True])
def test_after_the_copy(rig: Rig, strict: bool) -> None:
    """Regions in sync are skipped from then on; with `strict_discard` they are copied again."""
    pair = provisioned(rig, *([STRICT] if strict else []))
    pair.device.start_and_wait()
    pair.expect_copy()
    discard(pair, 100, 1000)
    whole = set() if strict else set(covered(pair, 100, 1000))
    status = pair.device.wait_complete()
    assert status.skipped == len(whole)
    expect_copy_but(pair, whole)
    pair.check("after a discard")


@pytest.mark.parametrize("noticed", ["reading", "writing"])
def test_while_it_is_copied(rig: Rig, noticed: str) -> None:
    """A discard of regions that jobs are copying: they are skipped when the jobs have ended, and
    what is written after that is copied."""
    pair = provisioned(rig, "depth", 2, "batch", 256, gated=True)
    gate = pair.backing_gate if noticed == "reading" else pair.clone_gate
    shut = rig.shut(gate)
    pair.device.start()
    shut.wait_for(2)
    if noticed == "reading":
        background = rig.background(discard, pair, 0, 1024)
        shut.open()
        background.result()
    else:
        discard(pair, 0, 1024)
        shut.open()
    status = pair.device.wait_complete()
    assert status.skipped == 16
    pair.write_regions("after", 3, 15)
    status = pair.device.wait_complete()
    assert status.skipped == 14
    found = io.read(pair.clone.disk, 0, 1024)
    pair.clone.expect(0, found)
    expect_copy_but(pair, set(range(16)) - {3, 15})
    pair.check("after a discard of what is copied")


def test_write_after_discard(rig: Rig) -> None:
    """A write to a skipped region makes it one to copy, whole, wherever it touches it."""
    pair = provisioned(rig)
    discard(pair, 0, pair.length)
    for number, (sector, count) in enumerate([(0, 1), (191, 2), (700, 130), (4095, 1)]):
        pair.write(sector, stamped(f"w{number}", sector, count))
    written = {0, 2, 3, 10, 11, 12, 63}
    status = pair.device.start_and_wait()
    assert status.skipped == status.total - len(written)
    expect_copy_but(pair, set(range(64)) - written)
    pair.check("writes after a discard")


def test_failed_discard(rig: Rig, kernel_log: Guard) -> None:
    """A discard that fails may have done anything: its regions are copied."""
    kernel_log.expect(r"I/O error, dev nullb\d+, sector 512 op 0x3:\(DISCARD\)")
    pair = provisioned(rig)
    rig.badblocks(pair.backing.disk, 640, 700)
    with pytest.raises(OSError):
        discard(pair, 512, 512)
    assert pair.status().skipped == 0
    rig.no_badblocks(pair.backing.disk, 640, 700)
    pair.device.start_and_wait()
    found = io.read(pair.backing.disk)
    pair.backing.expect(0, found)
    pair.expect_copy()
    pair.check("after a failed discard")


def _loop(rig: Rig) -> tuple[Disk, Disk]:
    return rig.loop(2), rig.loop(2)


def _scsi(rig: Rig) -> tuple[Disk, Disk]:
    how = {"lbpu": 1, "lbpws": 1, "lbprz": 1, "per_host_store": 1}
    return rig.scsi_debug(2, **how), rig.scsi_debug(2, **how)


@pytest.mark.parametrize("disks", [_loop, _scsi])
def test_write_zeroes(rig: Rig, disks) -> None:
    """Zeroes are data, also where the device makes them itself (WRITE ZEROES)."""
    pair = Pair(rig, *disks(rig), features=("region_size", REGION))
    pair.device.start_and_wait()
    pair.expect_copy()
    pair.check("copied")
    trace = rig.bio_trace(pair.backing.disk)
    with io.direct(pair.device.disk) as fd:
        for sector, count in ((0, 8), (120, 16), (256, 512)):
            io.fallocate(fd, io.FALLOC_FL_PUNCH_HOLE | io.FALLOC_FL_KEEP_SIZE, sector, count)
            pair.backing.expect(sector, bytes(count * SECTOR))
    assert [bio.kind[:2] for bio in trace.bios(pair.backing.disk) if bio.kind[0] == "W"] == [
        "WZ"
    ] * 3
    status = pair.device.wait_complete()
    assert status.skipped == 0
    pair.expect_copy()
    pair.check("zeroes")


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_trimmed_file_system(rig: Rig, tmp_path: Path, kind: str) -> None:
    """fstrim before `start` makes a clone of the used blocks only, which holds every file."""
    backing, clone = rig.null_blk(SIZE[kind], discard=1), rig.null_blk(SIZE[kind])
    untouched = Image(clone, "clone")
    device = rig.clone(backing, clone, features=("mode", "track", "region_size", REGION))
    make_file_system(kind, device.disk, discard=False)
    assert device.clone_status().skipped == 0
    with rig.mounted(device.disk, tmp_path / "live") as mount:
        for number in range(20):
            (mount / f"file{number}").write_bytes(stamped(f"f{number}", 0, 1 + 20 * number))
        (mount / "gone").write_bytes(bytes(8 << 20))
        run("sync")
        (mount / "gone").unlink()
        run("fstrim", mount)
        assert device.clone_status().skipped > device.clone_status().total // 3
        device.start_and_wait()
        device.finish()
    device.suspend()
    status = device.clone_status()
    assert status.state == "complete"
    assert status.skipped > status.total // 3
    counters = status.counters
    assert counters["copied"] - counters["recopied"] == status.in_sync * REGION
    held, found = untouched.content(), io.read(clone)
    size = REGION * SECTOR
    kept = sum(held[at : at + size] == found[at : at + size] for at in range(0, len(held), size))
    assert kept == status.skipped
    device.resume()
    device.remove()
    with rig.mounted(clone, tmp_path / "clone") as mount:
        for number in range(20):
            wanted = stamped(f"f{number}", 0, 1 + 20 * number)
            assert (mount / f"file{number}").read_bytes() == wanted
    check_file_system(kind, clone)
