# SPDX-License-Identifier: GPL-2.0
"""A device is cloned while it is written to: nothing that fio verifies is lost or reordered, and
after each suspend that finishes the copy both ranges are equal, byte by byte.

The load has requests of 512 B to 1 MiB at a queue depth of 64, flushes, FUA, discards and zeroes,
and goes on through start, pause, suspends of every kind and reloads. Outside of the ranges both
disks are as they were.
"""

import pytest

from harness.fio import STEADY
from harness.kernel_log import Guard
from harness.mixed_load import MixedLoad
from harness.rig import Rig
from harness.track import PAIRS, Pair, segments, segments_table
from harness.wait import wait_until

STRICT = ("strict_discard",)
# tmpfs can't zero a range: the first attempt fails, and zeroes are written instead.
LOOP_ZEROES = r"operation not supported error, dev loop"


def live(pair: Pair, number: int = 0) -> None:
    """Go through all that can be done to a device, which ends with a finished copy twice."""
    device = pair.device
    device.start()
    device.wait_for(lambda status: status.counters["copied"], "copied in part")
    device.pause()
    device.suspend(lockfs=False)
    device.resume()
    device.suspend(noflush=True)
    device.resume(noflush=True)
    device.start()
    device.suspend()
    device.resume()
    device.reload(pair.table, noflush=bool(number % 2))
    pair.finish(f"round {number}, a suspend")
    device.resume()
    device.load(pair.table)
    pair.finish(f"round {number}, a reload")
    device.resume()
    device.reload(pair.table, noflush=not number % 2)


def under_load(rig: Rig, *pairs: Pair, rounds: int = 1) -> None:
    """Rounds with load on all devices, then the end of the load and of the devices."""
    loads = [MixedLoad(rig, pair.device.disk) for pair in pairs]
    for number in range(rounds):
        # All at once.
        lives = [rig.background(live, pair, number) for pair in pairs]
        for one in lives:
            one.result(120)
    for load in loads:
        load.stop()
    for pair in pairs:
        pair.device.finish()
        skipped = pair.device.clone_status().skipped
        pair.device.remove()
        pair.check_equal("after the end", skipped)


@pytest.mark.parametrize("features", [STRICT, ()], ids=["strict", "skipping"])
@pytest.mark.parametrize("kind", PAIRS)
def test_kinds_of_devices(rig: Rig, kernel_log: Guard, kind: str, features: tuple) -> None:
    """All sorts of devices on both sides, where discarded regions are copied, and where not."""
    kernel_log.allow(LOOP_ZEROES)
    under_load(rig, Pair(rig, *PAIRS[kind](rig, 4), features=features))


def test_write_cache(rig: Rig) -> None:
    """Flushes and writes with FUA reach a backing device that has both, while it is copied."""
    pair = Pair(rig, *PAIRS["null_blk-write-cache"](rig, 4), features=("region_size", 8))
    load = MixedLoad(rig, pair.device.disk)
    pair.device.start()
    trace = rig.bio_trace(pair.backing.disk)

    def seen() -> bool:
        kinds = [bio.kind for bio in trace.bios(pair.backing.disk)]
        return any(kind[0] == "F" for kind in kinds) and any("F" in kind[1:] for kind in kinds)

    wait_until(seen, "a flush and a write with FUA")
    pair.finish("under load")
    pair.device.resume()
    load.stop()


SMALL = ("region_size", 64, "batch", 8, *STRICT)


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("pages", [1, 8, 16])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_sizes(rig: Rig, block: int, pages: int, more: int) -> None:
    """Targets of about a page, a region and two, in blocks of 512 and of 4096 bytes at odd offsets,
    down to one block: all of it written to, and verified."""
    length = max(8 * pages + more * block, block)
    disks = [rig.null_blk(1, blocksize=512 * block) for _ in range(2)]
    pair = Pair(rig, *disks, (3 * block, 65 * block), length, SMALL)
    load = rig.fio(
        pair.device.disk,
        **STEADY | {"size": length * 512, "bsrange": f"{block * 512}-64k", "fdatasync": 8},
    )
    load.wait_for_load()
    live(pair)
    load.finish()
    pair.device.finish()
    pair.device.remove()
    pair.check_equal("after the end")


def test_deep_queue(rig: Rig) -> None:
    """Small requests, of which 64 are in flight at once."""
    disks = rig.slow(4, mbps=4), rig.null_blk(4)
    pair = Pair(rig, *disks, features=("region_size", 8, *STRICT))
    disk = pair.device.disk
    load = rig.fio(disk, **STEADY | {"size": "2m", "bsrange": "512-4k", "iodepth": 64})
    wait_until(lambda: disk.counters().in_flight >= 64, "64 requests in flight")
    live(pair)
    wait_until(lambda: disk.counters().in_flight >= 64, "64 requests in flight again")
    report = load.finish()
    assert float(report["iodepth_level"][">=64"]) > 10, report["iodepth_level"]
    pair.device.finish()
    pair.device.remove()
    pair.check_equal("after the end")


@pytest.mark.parametrize(
    ("offsets", "length", "features"),
    [
        ((0, 0), 8191, ("region_size", 8, *STRICT)),
        ((1, 0), 5 * 128 + 24, ("depth", 1)),
        ((7, 100), 6000, ("region_size", 16, "batch", 8, "depth", 1)),
        ((8, 1), 8177, ("region_size", 4096, "batch", 64)),
        pytest.param(
            *((100, 8), 7001, ("region_size", 2048, "depth", 256, "batch", 512)),
            marks=pytest.mark.long,
        ),
        pytest.param(*((1000, 7), 7192, ("region_size", 32768, *STRICT)), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_layouts(rig: Rig, offsets: tuple[int, int], length: int, features: tuple) -> None:
    """Offsets and lengths that are whole pages, blocks and regions of neither, regions that are
    smaller and larger than a job, one job at a time and many."""
    pair = Pair(rig, *PAIRS["null_blk-512"](rig, 4), offsets, length, features)
    under_load(rig, pair)


def test_two_devices(rig: Rig) -> None:
    """Two devices that are cloned at once."""
    under_load(rig, *(Pair(rig, rig.null_blk(2), rig.null_blk(2)) for _ in range(2)))


def test_segments(rig: Rig) -> None:
    """A table of several segments, each with its own devices, offsets and region size: requests
    cross from one to the next, and each is finished on its own."""
    pairs = [
        Pair(rig, rig.null_blk(2), rig.null_blk(2), *how, device=False)
        for how in (
            ((0, 8), 3001, ("region_size", 8, *STRICT)),
            ((5, 0), 2047, ("depth", 1, *STRICT)),
            ((16, 333), 3100, ("region_size", 1024, *STRICT)),
        )
    ]
    device = segments(rig, pairs)
    load = MixedLoad(rig, device.disk)
    for number in range(2):
        for pair in pairs:
            device.start(at=pair.start)
        device.reload(segments_table(pairs), noflush=bool(number % 2))
        for pair in pairs:
            device.finish(at=pair.start)
        device.suspend()
        for pair in pairs:
            pair.check_finished(f"round {number}, the segment at {pair.start}")
        device.resume()
        device.suspend(noflush=True)
        device.resume()
    load.stop()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("region_size", [8, 64, 128, 1024, 8192])
def test_long_rounds(rig: Rig, kernel_log: Guard, kind: str, region_size: int) -> None:
    """Many rounds on each kind of device with regions of each size."""
    kernel_log.allow(LOOP_ZEROES)
    features = ("region_size", region_size)
    pair = Pair(rig, *PAIRS[kind](rig, 16), (8, 64), features=features)
    under_load(rig, pair, rounds=10)
