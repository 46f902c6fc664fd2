# SPDX-License-Identifier: GPL-2.0
"""Copying is background work: the user's I/O goes first, and copying goes on all the same.

One job at a time has the priority of a user's I/O, all others are of the idle class, which
mq-deadline serves after ten seconds of other load only.
"""

from collections import Counter

from harness.bio_trace import bio_trace
from harness.clone_rs import CloneDevice
from harness.disk import Disk
from harness.rig import Rig

SIZE = 8
# One request at a time, each some milliseconds long, and a scheduler that looks at priorities.
SLOW = {"irqmode": 2, "completion_nsec": 2_000_000, "hw_queue_depth": 4, "max_sectors": 128}
DEPTH, BATCH = 8, 128
FEATURES = ("mode", "track", "depth", DEPTH, "batch", BATCH)


def scheduled(rig: Rig, **attributes: object) -> Disk:
    """A disk with mq-deadline."""
    disk = rig.null_blk(SIZE, **attributes)
    disk.set_queue("scheduler", "mq-deadline")
    # So many that none has to wait above the scheduler.
    disk.set_queue("nr_requests", 256)
    # A merged request would be seen as one, of the size that it had at first.
    disk.set_queue("nomerges", 2)
    return disk


def test_most_jobs_are_of_the_idle_class(rig: Rig) -> None:
    """With all jobs in flight at once on an unused device, one of them is of the user's class, when
    they read and when they write; all others are of the idle class."""
    disks = [scheduled(rig), scheduled(rig)]
    backing_gate, clone_gate = (rig.gate(disk) for disk in disks)
    device: CloneDevice = rig.clone(backing_gate.disk, clone_gate.disk, features=FEATURES)
    with bio_trace(*disks, event="block_rq_insert") as trace:

        def sectors(disk: Disk) -> Counter:
            found = Counter()
            for request in trace.requests(disk):
                found[request.priority] += request.sectors
            return found

        # None ends before both gates were open.
        writes = rig.shut(clone_gate)
        device.start()
        writes.wait_for(DEPTH)
        assert sectors(disks[0]) == {"be": BATCH, "idle": (DEPTH - 1) * BATCH}
        reads = rig.shut(backing_gate)
        writes.open()
        reads.wait_for(DEPTH)
        assert sectors(disks[1]) == {"be": BATCH, "idle": (DEPTH - 1) * BATCH}
        reads.open()
        device.wait_complete()


def test_copying_goes_on_beside_a_heavy_load(rig: Rig) -> None:
    """The scheduler has requests of users at every moment, for longer than the copy takes."""
    disks = [scheduled(rig, **SLOW), rig.null_blk(SIZE)]
    # The idle class is served when no other has requests, and never before.
    disks[0].set_queue("iosched/prio_aging_expire", 600_000)
    device: CloneDevice = rig.clone(*disks, features=FEATURES)
    load = rig.fio(device.disk, rw="randread", bs="4k", iodepth=64, time_based=1, runtime=300)
    load.wait_for_load()
    before = device.clone_status().in_sync
    device.start()
    # More jobs than are in flight at once.
    device.wait_for(lambda status: status.in_sync >= before + 10, "copying beside the load")
    assert load.running
    load.stop()
    load.wait()


def test_jobs_give_way_while_users_wait(rig: Rig) -> None:
    """With bios of users in flight a quarter of the jobs are, without them all of `depth`."""
    backing = rig.null_blk(SIZE)
    gate = rig.gate(backing)
    device: CloneDevice = rig.clone(gate.disk, rig.null_blk(SIZE), features=FEATURES)
    gate.suspend()
    device.start()
    device.wait_for(lambda status: status.copying == 8, "copying with all its jobs")
    gate.resume()
    device.wait_complete()

    gate.suspend()
    load = rig.fio(device.disk, rw="randread", bs="4k", iodepth=4, number_ios=64)
    load.wait_for_load()
    device.copy(0, device.disk.sectors)
    device.wait_for(lambda status: status.copying == 2, "copying with a quarter of its jobs")
    for _ in range(20):
        assert device.clone_status().copying == 2
    gate.resume()
    load.wait()
    device.wait_complete()
