# SPDX-License-Identifier: GPL-2.0
"""Copying is background work: the user's I/O goes first, and copying goes on all the same.

One job at a time has the priority of a user's I/O, all others are of the idle class, which
mq-deadline serves after ten seconds of other load only.
"""

from harness.bio_trace import bio_trace
from harness.clone_rs import CloneDevice
from harness.disk import Disk
from harness.rig import Rig

SIZE = 8
# One request at a time, each some milliseconds long, and a scheduler that looks at priorities.
SLOW = {"irqmode": 2, "completion_nsec": 2_000_000, "hw_queue_depth": 4, "max_sectors": 128}
FEATURES = ("mode", "track", "depth", 8, "batch", 128)


def scheduled(rig: Rig, **attributes: object) -> Disk:
    """A disk with mq-deadline."""
    disk = rig.null_blk(SIZE, **attributes)
    disk.set_queue("scheduler", "mq-deadline")
    # So many that none has to wait above the scheduler.
    disk.set_queue("nr_requests", 256)
    return disk


def test_most_jobs_are_of_the_idle_class(rig: Rig) -> None:
    """Of the requests that a copy of an unused device sends to either disk both classes are seen,
    and of the jobs of the user's class there is never more than one."""
    disks = [scheduled(rig), scheduled(rig)]
    device: CloneDevice = rig.clone(*disks, features=FEATURES)
    with bio_trace(*disks, event="block_rq_insert") as trace:
        device.start_and_wait()
        for disk in disks:
            classes = [request.priority for request in trace.requests(disk) if request.sectors]
            assert set(classes) == {"be", "idle"}, classes
            assert classes.count("idle") > classes.count("be")


def test_copying_goes_on_beside_a_heavy_load(rig: Rig) -> None:
    """The scheduler has requests of users at every moment, for longer than the copy takes."""
    disks = [scheduled(rig, **SLOW), rig.null_blk(SIZE)]
    device: CloneDevice = rig.clone(*disks, features=FEATURES)
    load = rig.fio(device.disk, rw="randread", bs="4k", iodepth=64, time_based=1, runtime=300)
    load.wait_for_load()
    before = device.clone_status().in_sync
    device.start()
    # Ten jobs one after the other: with the idle class alone it is eight in ten seconds.
    device.wait_for(lambda status: status.in_sync >= before + 10, "copying beside the load", 8)
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
