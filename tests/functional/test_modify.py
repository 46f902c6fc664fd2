# SPDX-License-Identifier: GPL-2.0
"""What becomes of what was read: with `sparse` zeroes are not written but zeroed, with `delta` what
the clone has already is not written, with both, both. The clone is equal in any case, the counters
say what was done, and the clone has got these bios and no others.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import io
from harness.clone_rs import Status, linear_table
from harness.data import SECTOR, stamped
from harness.disk import Disk
from harness.dm import Device
from harness.faulty import SAID, Dust, FlakeyReads
from harness.kernel_log import Guard
from harness.mixed_load import LEFT_ALONE, MixedLoad
from harness.patchwork import BLOCK, FEATURES, Patchwork
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

SIZE = 1
SHAPE = ("region_size", 64, "batch", 256)
MODES = ("track", "mirror")

SCSI = {"per_host_store": 1}
UNMAPS_4096 = {"sector_size": 4096, "lbpu": 1, "lbpws": 1, "lbprz": 1, **SCSI}
# All clones but null_blk can be told to write zeroes.
CLONES: dict[str, Callable[[Rig, int], tuple[Disk, Disk]]] = {
    "loop": lambda rig, size: (rig.null_blk(size), rig.loop(size)),
    "scsi": lambda rig, size: (rig.null_blk(size), rig.scsi_debug(size, **SCSI)),
    "scsi-4096": lambda rig, size: (
        rig.null_blk(size, blocksize=4096),
        rig.scsi_debug(size, **UNMAPS_4096),
    ),
    "4096-512": lambda rig, size: (rig.null_blk(size, blocksize=4096), rig.loop(size)),
    "512-4096": lambda rig, size: (rig.null_blk(size), rig.loop(size, block=4096)),
    "null_blk": lambda rig, size: (rig.null_blk(size), rig.null_blk(size)),
    "512-null_blk-4096": lambda rig, size: (rig.null_blk(size), rig.null_blk(size, blocksize=4096)),
    "512-scsi-4096": lambda rig, size: (rig.null_blk(size), rig.scsi_debug(size, **UNMAPS_4096)),
    "null_blk-4096": lambda rig, size: (
        rig.null_blk(size, blocksize=4096),
        rig.null_blk(size, blocksize=4096),
    ),
    "scsi-4096-null_blk": lambda rig, size: (
        rig.scsi_debug(size, **UNMAPS_4096),
        rig.null_blk(size),
    ),
}
# One for each pair of block sizes; all of these can write zeroes.
EACH_BLOCK = ("loop", "512-4096", "4096-512", "scsi-4096")
# Those whose backing device has blocks of 4096 bytes.
LARGE_BACKING = ("scsi-4096", "4096-512", "null_blk-4096", "scsi-4096-null_blk")


def patchwork(
    rig: Rig,
    clone: str,
    features: str,
    mode: str = "track",
    offsets: tuple[int, int] = (0, 0),
    shape: tuple = SHAPE,
    size: int = SIZE,
    **how: object,
) -> Patchwork:
    """A pair with known blocks."""
    disks = CLONES[clone](rig, size)
    length = min(disk.sectors for disk in disks) - 64
    made = Pair(
        rig,
        *disks,
        offsets,
        length,
        (*shape, *FEATURES[features]),
        mode=mode,
        device=False,
        **how,
    )
    return Patchwork(made)


def begin(rig: Rig, work: Patchwork) -> Pair:
    """Put the target into a table."""
    pair = work.pair
    pair.become_part_of(rig.clone_of(pair.line()), 0, 0)
    return pair


def dealt_with(status: Status) -> dict[str, int]:
    """What was done, in sectors."""
    return {name: status.counters[name] for name in ("copied", "zeroed", "unchanged")}


ALIGNED = [(0, 0), (24, 16)]
UNALIGNED = [(3, 5), (1, 8), (8, 7), (16, 4)]


def possible(clone: str, where: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The offsets that can be had with these disks: whole blocks of the backing device."""
    return [place for place in where if clone not in LARGE_BACKING or place[0] % BLOCK == 0]


def tried(clone: str) -> list[tuple[int, int]]:
    """The offsets that are tried with these disks: all, or one that is aligned and one that is
    not."""
    aligned, unaligned = possible(clone, ALIGNED), possible(clone, UNALIGNED)
    return aligned + unaligned if clone in EACH_BLOCK else [aligned[0], unaligned[0]]


def can_zero(pair: Pair) -> bool:
    """Whether the clone can be told to write zeroes."""
    return not pair.clone.disk.name.startswith("nullb")


CASES = [
    pytest.param(*case, id="-".join(str(part) for part in case))
    for clone in CLONES
    for case in itertools.product([clone], FEATURES, MODES, tried(clone))
]


@pytest.mark.parametrize(("clone", "features", "mode", "offsets"), CASES)
def test_all_is_equal(
    rig: Rig, clone: str, features: str, mode: str, offsets: tuple[int, int]
) -> None:
    """Every pair of block sizes, offset, feature and mode: the clone is equal and all around it as
    it was; each sector was dealt with in one way, in the expected one where blocks are whole."""
    work = patchwork(rig, clone, features, mode, offsets)
    pair = begin(rig, work)
    status = pair.device.start_and_wait()
    assert (status.state, status.health) == ("complete", "ok")
    done = dealt_with(status)
    assert sum(done.values()) == pair.length
    wanted = work.expected(features)
    if not can_zero(pair):
        # Zeroes are written, as data.
        wanted |= {"zeroed": 0, "copied": wanted["copied"] + wanted["zeroed"]}
    if offsets[1] % BLOCK == 0:
        assert done == wanted
    pair.expect_copy()
    pair.check("copied")


@pytest.mark.parametrize("features", FEATURES)
def test_only_that_is_sent(rig: Rig, features: str) -> None:
    """The clone gets a bio for each run of blocks that the same becomes of, within a batch, and is
    read only to compare. What it has already is neither written nor zeroed."""
    work = patchwork(rig, "loop", features, shape=("region_size", 64, "batch", 64, "depth", 3))
    pair = begin(rig, work)
    trace = rig.bio_trace(pair.below[1])
    pair.device.start_and_wait()
    bios = trace.bios(pair.below[1])
    # A job with `delta` has half of its memory for what the clone has.
    size = 32 if "delta" in FEATURES[features] else 64
    for kind, becomes in (("W", "copied"), ("WZ", "zeroed")):
        sent = sorted((bio.sector, bio.count) for bio in bios if bio.kind == kind)
        assert sent == cut(work.runs(features, becomes), size), becomes
    read = sorted((bio.sector, bio.count) for bio in bios if bio.kind.startswith("R"))
    everything = cut([(0, pair.length)], size)
    assert read == (everything if "delta" in FEATURES[features] else [])
    pair.expect_copy()
    pair.check("copied")


def cut(runs: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The same sectors, cut where multiples of a size are."""
    found = []
    for first, count in runs:
        at = first
        while at < first + count:
            end = min(first + count, at // size * size + size)
            found.append((at, end - at))
            at = end
    return found


@pytest.mark.parametrize("batch", [8, 16, 24, 2048])
@pytest.mark.parametrize("clone", ["loop", "scsi-4096"])
def test_batches(rig: Rig, clone: str, batch: int) -> None:
    """Where half of a batch is less than a block, and where it is no whole number of them."""
    work = patchwork(rig, clone, "both", shape=("region_size", 16, "batch", batch))
    pair = begin(rig, work)
    status = pair.device.start_and_wait()
    assert sum(dealt_with(status).values()) == pair.length
    pair.expect_copy()
    pair.check("copied")


def load_cases() -> Iterator:
    """Each pair of block sizes with all features, modes and kinds of offsets; other disks of these
    sizes with one of each, and with all of them in the long tier."""
    for clone in CLONES:
        where = [possible(clone, ALIGNED)[-1], possible(clone, UNALIGNED)[0]]
        for features, mode, offsets in itertools.product(FEATURES, MODES, where):
            case = (clone, features, mode, offsets)
            short = clone in EACH_BLOCK or case[1:] == ("both", "mirror", where[1])
            marks = () if short else pytest.mark.long
            yield pytest.param(*case, id="-".join(str(part) for part in case), marks=marks)


@pytest.mark.parametrize(("clone", "features", "mode", "offsets"), load_cases())
def test_under_load(
    rig: Rig,
    kernel_log: Guard,
    clone: str,
    features: str,
    mode: str,
    offsets: tuple[int, int],
) -> None:
    """With writes, zeroes and discards all the while: what fio verifies is right, and in the end
    both are equal, also after a second pass over what the clone has already. What was to be zeroed
    or left alone was."""
    # tmpfs can't zero a range and keep it.
    kernel_log.allow(r"operation not supported error, dev loop")
    work = patchwork(rig, clone, features, mode, offsets, (*SHAPE, "strict_discard"), size=2)
    pair = begin(rig, work)
    disk = pair.device.disk
    load = MixedLoad(rig, disk, bsrange=f"{disk.block * SECTOR}-256k", iodepth=16)
    pair.device.start()
    pair.device.wait_for(lambda status: status.dirty * 4 < status.total, "most of it copied")
    before = sum(dealt_with(pair.status()).values())
    pair.device.copy(0, pair.length)
    pair.device.wait_for(
        lambda status: sum(dealt_with(status).values()) >= before + pair.length, "copied again"
    )
    load.stop()
    done = dealt_with(pair.finish(f"after the load, with {features}"))
    pair.device.resume()
    # At the least once, where the load has left it as it was.
    least = work.expected(features, load.free, LEFT_ALONE)
    wanted = {"zeroed": "sparse" in FEATURES[features], "unchanged": "delta" in FEATURES[features]}
    assert {name: least[name] > 0 for name in wanted} == wanted
    if not can_zero(pair):
        least["zeroed"] = 0
    for name in wanted:
        assert done[name] >= least[name]
        assert bool(done[name]) == bool(least[name]), f"{done[name]} {name}"


def test_what_differs_is_written(rig: Rig) -> None:
    """A second copy onto an old one writes what differs, and nothing else, however much that is."""
    pair = Pair(rig, rig.null_blk(SIZE), rig.null_blk(SIZE), features=(*SHAPE, "delta"))
    pair.device.start_and_wait()
    copied = pair.device.clone_status().counters["copied"]
    pair.device.pause()
    pair.expect_copy()
    pair.check("the first copy")
    for number, blocks in enumerate((1, 5, 25)):
        for block in range(blocks):
            sector = block * 72
            pair.write(sector, stamped(f"turn{number}", sector, 1))
        before = pair.below[1].counters().sectors_written
        pair.device.copy(0, pair.length)
        status = pair.device.wait_for(lambda status: status.in_sync == status.total, "copied again")
        copied += blocks * 8
        assert status.counters["copied"] == copied
        assert pair.below[1].counters().sectors_written - before == blocks * 8
        pair.expect_copy()
        pair.check(f"{blocks} blocks differed")


def allocated(disk: Disk) -> int:
    """How many sectors the file of a loop device takes."""
    path = Path((disk.sys / "loop/backing_file").read_text().strip())
    return os.stat(path).st_blocks


@pytest.mark.parametrize("features", ["sparse", "both"])
def test_thin_file(rig: Rig, features: str) -> None:
    """A loop device on a file that was full of data takes what the backing device has, no more."""
    work = patchwork(rig, "loop", features)
    pair = begin(rig, work)
    data = sum(count for _, count, kind in work.blocks if kind not in ("zero", "same zeroes"))
    if features == "both":
        # What is equal is not touched, also where it takes room.
        data += sum(count for _, count, kind in work.blocks if kind == "same zeroes")
    io.write(pair.below[1], pair.length, bytes(64 * SECTOR))
    pair.clone.expect(pair.length, bytes(64 * SECTOR))
    pair.device.start_and_wait()
    assert allocated(pair.below[1]) <= data + 64
    pair.expect_copy()
    pair.check("copied")


@pytest.mark.parametrize("features", ["delta", "both"])
def test_thin_volume(rig: Rig, features: str) -> None:
    """dm-thin can't be told to write zeroes, but what it has not given away reads as such: with
    `delta` a new volume takes no more blocks, here of 64 KiB, than have data."""
    chunk = 128
    data, metadata = rig.null_blk(32, discard=1), rig.null_blk(4)
    io.write(metadata, 0, bytes(8 * SECTOR))
    pool = rig.mapped(f"0 {data.sectors} thin-pool {metadata.path} {data.path} {chunk} 0")
    pool.message("create_thin 0")
    source = rig.null_blk(16)
    thin = rig.mapped(f"0 {source.sectors} thin {pool.path} 0")
    pair = Pair(rig, source, thin.disk, features=FEATURES[features], device=False)
    assert taken(pool) == source.sectors // chunk, "the pair has filled it"
    with io.direct(thin.disk) as fd:
        io.range_ioctl(fd, io.BLKDISCARD, 0, source.sectors)
    used = [3, 4, 9, 100, 255]
    content = bytearray(source.sectors * SECTOR)
    for number in used:
        at = number * chunk + 40
        content[at * SECTOR : (at + 8) * SECTOR] = stamped("used", at, 8)
    io.write(source, 0, bytes(content))
    pair.backing.expect(0, bytes(content))
    pair.become_part_of(rig.clone_of(pair.line()), 0, 0)
    status = pair.device.start_and_wait()
    data = 8 * len(used)
    wanted = {"copied": data, "zeroed": 0, "unchanged": source.sectors - data}
    assert dealt_with(status) == wanted
    assert taken(pool) == len(used)
    pair.expect_copy()
    pair.check("copied")


def taken(pool: Device) -> int:
    """How many blocks of its data device a thin pool has given away."""
    pool.message("reserve_metadata_snap")
    pool.message("release_metadata_snap")
    words = pool.status()[0].text.split()
    return int(words[2].split("/")[0])


def test_a_clone_that_refuses(rig: Rig, kernel_log: Guard) -> None:
    """A clone that says that it can be told to write zeroes, but then can't: they are written as
    data."""
    work = patchwork(rig, "loop", "sparse", gated=True)
    pair = begin(rig, work)
    gate, below = pair.clone_gate, pair.clone.disk
    shut = rig.shut(gate)
    pair.device.start()
    shut.wait_for_some()
    # What waits at the gate goes to a disk of another kind, with the same content.
    other = rig.null_blk(SIZE)
    io.write(other, 0, io.read(below))
    gate.load(linear_table(other))
    shut.open()
    status = pair.device.wait_complete()
    assert dealt_with(status) == {"copied": pair.length, "zeroed": 0, "unchanged": 0}
    assert status.health == "ok"
    pair.clone.disk = other
    pair.expect_copy()
    pair.check("copied")


def test_a_clone_that_cannot_be_read(rig: Rig, kernel_log: Guard) -> None:
    """What can't be compared is written, which heals it."""
    kernel_log.allow(SAID)
    disks = rig.null_blk(SIZE), Dust(rig, rig.null_blk(SIZE))
    pair = Pair(rig, disks[0], disks[1].disk, features=(*SHAPE, "delta"))
    disks[1].fail((100, 1), (1500, 3))
    status = pair.device.start_and_wait()
    assert (status.health, status.counters["clone_errors"]) == ("ok", 0)
    pair.expect_copy()
    pair.check("copied")
    pair.device.copy(0, pair.length)
    status = pair.device.wait_for(lambda status: status.counters["unchanged"], "compared")
    wait_until(lambda: pair.device.clone_status().state == "complete", "the second copy")
    assert pair.device.clone_status().counters["unchanged"] == pair.length


def test_what_was_read_before_is_not_compared(rig: Rig, kernel_log: Guard) -> None:
    """A job whose read of the clone fails has in its memory what the one before it has read, which
    is what this one's sectors shall be."""
    kernel_log.allow(SAID)
    clone = FlakeyReads(rig, rig.null_blk(SIZE))
    features = ("region_size", 64, "batch", 128, "depth", 1, "delta")
    pair = Pair(rig, rig.null_blk(SIZE), clone.disk, features=features)
    zeroes = bytes(64 * SECTOR)
    for image, sector in ((pair.backing, 0), (pair.backing, 64), (pair.clone, 0)):
        io.write(image.disk, sector, zeroes)
        image.expect(sector, zeroes)
    clone.fail((64, 64))
    status = pair.device.start_and_wait()
    clone.heal()
    assert status.counters["unchanged"] == 64
    pair.expect_copy()
    pair.check("copied")
