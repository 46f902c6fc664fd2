# SPDX-License-Identifier: GPL-2.0
"""How long users' writes to a mirror wait while it is copied: not at all, but for those few that
are held, which are counted.
"""

import bisect
from collections import defaultdict

from harness.bio_trace import Bio
from harness.data import SECTOR
from harness.rig import Rig
from harness.track import Pair

REGION = 64
LENGTH = 4096
# In sectors.
WRITE = 8
# How long the clone takes for each write, in seconds, and what is nothing beside it.
SLOW = 1.0
AT_ONCE = 0.5

Timed = list[tuple[float, Bio]]


def times_by_sector(bios: Timed) -> dict[int, list[float]]:
    """When users' writes have come to each sector."""
    found = defaultdict(list)
    for time, bio in bios:
        if "W" in bio.kind and bio.count == WRITE:
            found[bio.sector].append(time)
    return found


def waits(arrived: Timed, sent: Timed) -> list[tuple[float, int, float]]:
    """Of each write: when it came, where to, and how long it was kept. No two were in flight to
    the same place, so there the first that was sent is the first that came."""
    came, went = times_by_sector(arrived), times_by_sector(sent)
    return [
        (begin, sector, end - begin)
        for sector, begins in came.items()
        for begin, end in zip(begins, went[sector], strict=True)
    ]


def are_copied(copies: Timed, writes: list[tuple[float, int, float]]) -> list[bool]:
    """Of each write: whether a copy of its region was on its way to the clone when it came."""
    begins = defaultdict(list)
    for time, bio in copies:
        if "W" in bio.kind and bio.count == REGION:
            begins[bio.sector].append(time)
    found = []
    for time, sector, _ in writes:
        before = begins[sector // REGION * REGION]
        place = bisect.bisect(before, time)
        found.append(place > 0 and time - before[place - 1] < SLOW)
    return found


def test_writes_are_sent_at_once(rig: Rig) -> None:
    """Random writes while half of a device is copied to a clone that takes a second for each write:
    no more of them are kept from the backing device for long than are counted as held."""
    backing, clone = rig.null_blk(LENGTH >> 11), rig.null_blk(LENGTH >> 11)
    slow = rig.mapped(f"0 {LENGTH} delay {clone.path} 0 0 {clone.path} 0 {int(SLOW * 1000)}").disk
    features = ("region_size", REGION, "depth", 32, "batch", REGION)
    pair = Pair(rig, backing, slow, features=features, mode="mirror")
    device = pair.device
    before = device.copy_and_wait(0, LENGTH // 2)
    trace = rig.bio_trace(device.disk, backing, slow, memory=4096)
    load = rig.fio(
        device.disk,
        rw="randwrite",
        bs=WRITE * SECTOR,
        iodepth=64,
        serialize_overlap=1,
        time_based=1,
        runtime=300,
    )
    load.wait_for_load()
    device.start()
    # Most are copied again and again.
    copied = before.counters["copied"] + LENGTH // 2
    device.wait_for(
        lambda status: status.counters["copied"] >= copied or not status.dirty, "copied", 60
    )
    load.stop()
    load.wait()
    writes = waits(trace.timed(device.disk), trace.timed(backing))
    kept = [wait for _, _, wait in writes if wait > AT_ONCE]
    held = device.clone_status().counters["held"] - before.counters["held"]
    # The trace shows what it is about.
    meanwhile = sum(are_copied(trace.timed(slow), writes))
    assert meanwhile, f"none of {len(writes)} writes met a copy"
    # The machine itself may keep one, or one on each processor, but not most of these.
    assert len(kept) <= held + max(2, meanwhile // 4), (
        f"{len(kept)} of {len(writes)} were kept for long, {held} held, {meanwhile} met a copy"
    )
    assert all(wait >= 0 for _, _, wait in writes)
    device.start_and_wait()
    device.suspend()
    pair.check_finished("the load has ended")
    device.resume()
