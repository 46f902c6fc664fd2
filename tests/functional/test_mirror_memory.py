# SPDX-License-Identifier: GPL-2.0
"""Where in memory the data of a write to both devices lies: with `stable` both get what it was when
it was sent, whatever its owner does meanwhile, and a clone that wants memory to be aligned better
than the backing device gets the write all the same.
"""

import itertools
import mmap
import os
import threading

import pytest

from harness import io
from harness.clone_rs import CloneDevice
from harness.data import SECTOR, assert_same, stamped
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

REGION = 64
EXACT = ("region_size", REGION)
# The most that goes through the target's memory in one piece.
PIECE = 256
# How many writes there is memory for.
COPIES = 64


def gated_pair(rig: Rig, size: int, features: tuple = (*EXACT, "stable")) -> Pair:
    """Two disks of so many MiB, both behind gates."""
    disks = rig.null_blk(size), rig.null_blk(size)
    return Pair(rig, *disks, features=features, gated=True, mode="mirror")


def complete(pair: Pair) -> CloneDevice:
    """The pair's device, once both are the same."""
    pair.device.start_and_wait()
    return pair.device


def write_from(pair: Pair, sector: int, *memory: memoryview, flags: int = 0) -> int:
    """One direct write of what lies there."""
    with io.direct(pair.device.disk) as fd:
        return os.pwritev(fd, memory, sector * SECTOR, flags)


def test_both_get_what_was_sent(rig: Rig) -> None:
    """Memory that changes while both legs wait: both devices have what it was before."""
    pair = gated_pair(rig, 2)
    complete(pair)
    sent = stamped("sent", 100, 300)
    buffer = io.aligned(sent)
    gates = pair.backing_gate, pair.clone_gate
    shut = [rig.shut(gate) for gate in gates]
    write = rig.background(write_from, pair, 100, memoryview(buffer))
    for gate in shut:
        # It was cut, and the second part may come when the first one has ended.
        gate.wait_for_some()
    buffer[:] = stamped("changed", 100, 300)
    for gate in shut:
        gate.open()
    assert write.result() == len(sent)
    pair.device.wait_idle()
    for disk in pair.backing.disk, pair.clone.disk:
        assert_same(sent[: PIECE * SECTOR], io.read(disk, 100, PIECE), str(disk), 100)
    assert pair.device.clone_status().dirty == 0
    pair.check_equal("after the write")


@pytest.mark.parametrize("stable", [True, False])
def test_memory_that_changes_all_the_time(rig: Rig, stable: bool, brief: bool) -> None:
    """Overlapping writes from memory that is scribbled on leave both devices the same; without
    `stable` they don't, so that the test could tell."""
    pair = gated_pair(rig, 2, (*EXACT, "stable") if stable else EXACT)
    complete(pair)
    buffer = io.aligned(64 * SECTOR)
    over = threading.Event()

    def scribble() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            buffer[:] = bytes([number % 256]) * len(buffer)

    def differs() -> bool:
        return io.read(pair.backing.disk) != io.read(pair.clone.disk)

    scribbler = rig.background(scribble)
    try:
        for turn in range(30 if brief and stable else 200):
            writes = [
                rig.background(write_from, pair, sector, memoryview(buffer))
                for sector in (turn, turn + 32)
            ]
            for write in writes:
                write.result()
            if not stable and differs():
                break
    finally:
        over.set()
        scribbler.result()
    pair.device.wait_idle()
    assert differs() != stable
    # What is known of the writes is only that they are the same on both.
    status = pair.device.clone_status()
    assert (status.state, status.dirty) == ("complete", 0)


def test_long_ones_are_cut(rig: Rig) -> None:
    """A write that is larger than the target's memory reaches both devices in pieces."""
    pair = gated_pair(rig, 4)
    complete(pair)
    trace = rig.bio_trace(*pair.below)
    pair.write(10, stamped("long", 10, 2 * PIECE + 30))
    pieces = [(10, PIECE), (10 + PIECE, PIECE), (10 + 2 * PIECE, 30)]
    for disk in pair.below:
        bios = [(bio.sector, bio.count) for bio in trace.bios(disk) if "W" in bio.kind]
        assert sorted(bios) == pieces
    pair.expect_copy()
    pair.check("after the write")


def test_an_atomic_one_that_is_too_long_is_copied(rig: Rig) -> None:
    """What may not be cut goes to the backing device as it is, and is copied later."""
    pair = Pair(
        rig,
        rig.scsi_debug(8, atomic_wr=1, atomic_wr_max_length=8192),
        rig.null_blk(8),
        features=(*EXACT, "stable"),
        mode="mirror",
    )
    device = complete(pair)
    copied = device.clone_status().counters["copied"]
    for sector, count, again in ((512, 256, 0), (1024, 512, 512)):
        data = stamped("atomic", sector, count)
        with io.aligned(data) as memory:
            assert write_from(pair, sector, memory, flags=io.RWF_ATOMIC) == len(data)
        pair.backing.expect(sector, data)
        device.wait_complete()
        assert device.clone_status().counters["copied"] - copied == again
    pair.expect_copy()
    pair.check("after the writes")


@pytest.mark.parametrize("how", ["the gate is opened", "mode track"])
def test_more_writes_than_there_is_memory_for(rig: Rig, how: str) -> None:
    """As many as there is memory for are on their way; others wait for them, NOWAIT does not. In
    mode track none needs memory any more."""
    pair = gated_pair(rig, 16)
    device = complete(pair)
    shut = rig.shut(pair.clone_gate)
    # Each is cut: what comes second begins in the middle of its owner's memory.
    count, number = 300, COPIES + 20
    writes = [
        rig.background(pair.write, count * turn, stamped(f"w{turn}", count * turn, count))
        for turn in range(number)
    ]
    wait_until(lambda: len(shut.held()) >= COPIES, "as many writes as there is memory for")

    def impatient() -> None:
        with io.direct(device.disk) as fd:
            io.pwrite(fd, 30000, stamped("nowait", 30000, 8), os.RWF_NOWAIT)

    with pytest.raises(BlockingIOError):
        rig.background(impatient).result()
    assert len(shut.held()) == COPIES
    assert device.clone_status().state == "complete"
    if how == "mode track":
        device.set_mode("track")
        wait_until(
            lambda: sum(write.running for write in writes) <= COPIES, "what waited for memory"
        )
    shut.open()
    for write in writes:
        write.result()
    device.set_mode("mirror")
    device.start_and_wait()
    pair.expect_copy()
    pair.check("after the writes")
    # All of the memory is there again.
    shut = rig.shut(pair.clone_gate)
    writes = [
        rig.background(pair.write, 8 * turn, stamped(f"x{turn}", 8 * turn, 8))
        for turn in range(COPIES)
    ]
    wait_until(lambda: len(shut.held()) == COPIES, "as many writes as there is memory for")
    shut.open()
    for write in writes:
        write.result()
    assert device.clone_status().dirty == 0
    pair.check_equal("after more writes")


def test_a_clone_that_wants_no_gaps(rig: Rig) -> None:
    """Data in pieces that a clone can't have in one request reaches it as one all the same (larger
    alignment than 512 bytes, which no device here wants, is for KUnit)."""
    backing, clone = rig.null_blk(8), rig.null_blk(8, virt_boundary=1)
    assert [int(disk.queue("virt_boundary_mask")) for disk in (backing, clone)] == [0, 4095]
    pair = Pair(rig, backing, clone, features=EXACT, mode="mirror")
    device = complete(pair)
    before = device.clone_status().counters
    memory = memoryview(mmap.mmap(-1, 600 * SECTOR))
    for turn, (sector, count) in enumerate(((0, 8), (100, 1), (640, 120), (2000, 250))):
        data = stamped(f"w{turn}", sector, count)
        half = (count + 1) // 2 * SECTOR
        parts = [memory[512 : 512 + half], memory[half + 1024 : 1024 + len(data)]]
        parts[0][:] = data[:half]
        parts[1][:] = data[half:]
        written = clone.counters().writes
        assert write_from(pair, sector, *[part for part in parts if part]) == len(data)
        assert clone.counters().writes - written == 1
        pair.backing.expect(sector, data)
    status = device.clone_status()
    assert (status.state, status.health, status.dirty) == ("complete", "ok", 0)
    assert status.counters == before
    pair.expect_copy()
    pair.check("after the writes")
