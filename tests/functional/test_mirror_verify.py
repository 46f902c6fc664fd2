# SPDX-License-Identifier: GPL-2.0
"""A device is cloned while it is written to, and the clone becomes equal and stays so: nothing that
fio verifies is lost, copying ends under load, and whenever the device is suspended both ranges are
equal where they count as in sync.
"""

import pytest

from harness.kernel_log import Guard
from harness.mixed_load import MixedLoad
from harness.rig import Rig
from harness.track import PAIRS, Pair

# tmpfs can't zero a range: the first attempt fails, and zeroes are written instead.
LOOP_ZEROES = r"operation not supported error, dev loop"
STRICT = ("strict_discard",)


def check(pair: Pair, what: str) -> None:
    """Suspend, and compare what is in sync; then go on."""
    pair.device.suspend()
    status = pair.device.clone_status()
    assert pair.equal_regions() >= status.in_sync, f"{what}: {status}"
    pair.device.resume()


def live(pair: Pair) -> None:
    """Go through all that can be done to a device."""
    device = pair.device
    device.start()
    device.wait_for(lambda status: status.counters["copied"], "copied in part")
    device.pause()
    check(pair, "paused")
    device.start()
    device.wait_for(lambda status: status.dirty * 4 <= status.total, "copied for the most part")
    check(pair, "under way")
    device.reload(pair.table)
    check(pair, "reloaded")
    device.set_mode("track")
    assert device.clone_status().mode == "track"
    check(pair, "tracking")
    device.set_mode("mirror")
    device.suspend(noflush=True)
    device.resume(noflush=True)
    check(pair, "mirroring again")


@pytest.mark.parametrize("kind", PAIRS)
def test_kinds_of_devices(rig: Rig, kernel_log: Guard, kind: str) -> None:
    """All that can be done, under load; then the load ends, and both are equal."""
    kernel_log.allow(LOOP_ZEROES)
    backing, clone = PAIRS[kind](rig, 8)
    pair = Pair(rig, backing, clone, features=STRICT, mode="mirror")
    load = MixedLoad(rig, pair.device.disk)
    live(pair)
    load.stop()
    pair.device.wait_complete()
    pair.device.suspend()
    pair.check_finished("the load has ended")
    pair.device.resume()


@pytest.mark.parametrize("size", ["64k", "2m"])
@pytest.mark.parametrize("features", [(), ("region_size", 8, "depth", 2, "batch", 64)])
def test_copying_ends_under_load(rig: Rig, features: tuple, size: str) -> None:
    """One region, or the whole device, is written all the time, faster than it is copied: it
    becomes equal nevertheless, and stays so."""
    pair = Pair(rig, rig.null_blk(2), rig.slow(2, mbps=4), features=features, mode="mirror")
    load = rig.fio(
        pair.device.disk,
        rw="randwrite",
        bs="32k",
        size=size,
        iodepth=8,
        time_based=1,
        runtime=300,
    )
    load.wait_for_load()
    disks = pair.device.disk, pair.clone.disk
    before = [disk.counters().sectors_written for disk in disks]
    pair.device.start()
    status = pair.device.wait_complete(timeout=60)
    assert status.in_sync == status.total
    user, clone = (
        disk.counters().sectors_written - was for disk, was in zip(disks, before, strict=True)
    )
    assert user > clone, "what was written meanwhile, to be faster than the clone"
    check(pair, "complete")
    assert pair.device.clone_status().state == "complete"
    load.stop()
    load.wait()
    pair.device.suspend()
    pair.check_finished("the load has ended")
    pair.device.resume()


@pytest.mark.parametrize(
    ("size", "features"), [(4, ("region_size", 8192, "depth", 1, "batch", 64)), (2, ())]
)
def test_slow_copies_under_load(rig: Rig, size: int, features: tuple) -> None:
    """Copies that take several times as long as writes wait for one that does nothing, be it for
    the size of a region or of a job: they wait as long as it goes on, and copying ends."""
    pair = Pair(rig, rig.null_blk(size), rig.slow(size, mbps=1), features=features, mode="mirror")
    load = rig.fio(pair.device.disk, rw="randwrite", bs="4k", iodepth=8, time_based=1, runtime=300)
    load.wait_for_load()
    pair.device.start()
    status = pair.device.wait_complete(timeout=200)
    assert status.counters["recopied"] > 0
    load.stop()
    load.wait()
    pair.device.suspend()
    pair.check_finished("the load has ended")
    pair.device.resume()
