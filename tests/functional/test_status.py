# SPDX-License-Identifier: GPL-2.0
"""What the target says of itself: the INFO line, the TABLE line, the IMA record."""

import binascii
import os
import re
from pathlib import Path

import pytest

from harness.clone_rs import TRACK, ErrorList, Status, clone_table
from harness.command import run, write_text
from harness.dm_ioctl import HEADER_SIZE, SPEC_SIZE, Command, Flag, call, unpack_targets
from harness.rig import Rig

SECURITYFS = Path("/sys/kernel/security")
IMA_RULE = "measure func=CRITICAL_DATA label=device-mapper"


def test_info_of_a_new_device(rig: Rig) -> None:
    """The INFO line right after the table was loaded."""
    ours = rig.clone(rig.null_blk(), rig.null_blk())
    status = ours.clone_status()
    regions = ours.disk.sectors // 128
    assert status == Status(
        state="idle",
        health="ok",
        mode="track",
        region_size=128,
        in_sync=0,
        total=regions,
        skipped=0,
        copying=0,
        counters=status.counters,
        tunables=status.tunables,
    )
    assert status.counters == dict.fromkeys(
        (
            "copied",
            "zeroed",
            "unchanged",
            "recopied",
            "held",
            "fallback",
            "read_errors",
            "clone_errors",
            "bad",
            "mismatched",
            "verified",
        ),
        0,
    )
    assert status.tunables == {"depth": 8, "batch": 2048, "rate": 0}
    assert status.dirty == regions
    assert ours.errors() == ErrorList([], 0)


def test_last_region_is_short(rig: Rig) -> None:
    """The number of regions is rounded up."""
    ours = rig.clone(rig.null_blk(), rig.null_blk(), length=1025, features=(*TRACK,))
    assert ours.clone_status().total == 9


def test_info_shows_features(rig: Rig) -> None:
    """What the table sets is what the status says."""
    features = (*TRACK, "region_size", 64, "depth", 3, "batch", 512, "rate", 77)
    status = rig.clone(rig.null_blk(), rig.null_blk(), features=features).clone_status()
    assert status.region_size == 64
    assert status.tunables == {"depth": 3, "batch": 512, "rate": 77}


def test_info_shows_tunables(rig: Rig) -> None:
    """What messages set is what the status says, and what the table says from then on."""
    ours = rig.clone(rig.null_blk(), rig.null_blk())
    for tunables in ({"depth": 3, "batch": 512, "rate": 77}, {"depth": 8, "batch": 8, "rate": 0}):
        for name, value in tunables.items():
            ours.tune(name, value)
        assert ours.clone_status().tunables == tunables
    assert ours.table_text().endswith(" 4 mode track batch 8")


def test_info_after_a_copy(rig: Rig) -> None:
    """`copied` counts the sectors of whole regions, `recopied` those that had been copied before;
    the regions count as in sync."""
    ours = rig.clone(rig.null_blk(), rig.null_blk())
    status = ours.copy_and_wait(100, 3000)
    assert (status.state, status.in_sync) == ("idle", 25)
    assert (status.counters["copied"], status.counters["recopied"]) == (25 * 128, 0)
    status = ours.copy_and_wait(0, 8)
    assert (status.state, status.in_sync) == ("idle", 25)
    assert (status.counters["copied"], status.counters["recopied"]) == (26 * 128, 128)


def test_states(rig: Rig) -> None:
    """Each state by its name: what was never started, what is going on, what was paused, what is
    done; skipped regions are needed for none of it."""
    backing, clone = rig.null_blk(), rig.null_blk()
    gate = rig.gate(clone)
    ours = rig.clone(backing, gate.disk)
    ours.skip(0, 1024)
    status = ours.clone_status()
    assert (status.state, status.skipped, status.dirty) == ("idle", 8, status.total - 8)
    gate.suspend()
    ours.start()
    status = ours.wait_for(lambda seen: seen.copying, "copying")
    assert status.state == "copying"
    ours.pause()
    assert ours.clone_status().state == "paused"
    gate.resume()
    ours.wait_paused()
    status = ours.start_and_wait()
    assert (status.in_sync, status.skipped, status.dirty) == (status.total - 8, 8, 0)
    assert (status.state, status.health, status.copying) == ("complete", "ok", 0)
    assert status.counters["copied"] == ours.disk.sectors - 1024


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (("mode", "track"), "2 mode track"),
        (("region_size", 128, "mode", "track", "batch", 2048, "depth", 8), "2 mode track"),
        (
            ("batch", 512, "mode", "track", "region_size", 64),
            "6 region_size 64 mode track batch 512",
        ),
        (("DEPTH", 2, "Mode", "TRACK"), "4 mode track depth 2"),
        (
            (*TRACK, "rate", 0, "on_read_error", "stop", "on_clone_error", "detach")
            + ("final", 4096),
            "2 mode track",
        ),
        (
            ("final", 0, "ON_CLONE_ERROR", "STOP", "on_read_error", "Skip", "strict_discard")
            + ("rate", 100, "batch", 512, "depth", 2, "AutoStart", *TRACK, "region_size", 64),
            "18 region_size 64 mode track autostart depth 2 batch 512 rate 100 strict_discard "
            "on_read_error skip on_clone_error stop final 0",
        ),
    ],
)
def test_table_line(rig: Rig, given: tuple, printed: str) -> None:
    """TABLE has devices as major:minor, then what is not a default, in the order of the
    documentation; names are read without regard to case."""
    backing, clone = rig.null_blk(), rig.null_blk()
    ours = rig.clone(backing, clone, 16, 8, 4096, features=given)
    line = f"0 4096 clone-rs {backing.number} 16 {clone.number} 8 {printed}"
    assert ours.table_text() == line


def test_table_loads_again(rig: Rig) -> None:
    """What `dmsetup table` prints can be given to `dmsetup reload`, and prints the same."""
    backing, clone = rig.null_blk(), rig.null_blk()
    features = (*TRACK, "region_size", 32, "depth", 4, "batch", 1024)
    lines = [
        clone_table(backing, clone, 8, 16, 1000, 0, features),
        clone_table(backing, clone, 2000, 2000, 1000, 1000),
    ]
    ours = rig.clone_of("\n".join(lines))
    printed = run("dmsetup", "table", ours.name).stdout
    saved = Path(f"/tmp/{ours.name}.table")
    saved.write_text(printed)
    try:
        run("dmsetup", "reload", ours.name, saved)
        run("dmsetup", "resume", ours.name)
    finally:
        saved.unlink()
    assert run("dmsetup", "table", ours.name).stdout == printed
    assert "region_size 32" in printed


def test_inactive_table(rig: Rig) -> None:
    """The table in the inactive slot is printed before it is live."""
    backing, clone = rig.null_blk(), rig.null_blk()
    ours = rig.clone(backing, clone)
    ours.load(clone_table(backing, clone, 8, 8, 800))
    inactive = ours.table_text(inactive=True)
    assert inactive.startswith(f"0 800 clone-rs {backing.number} 8 ")
    ours.resume()
    assert ours.table_text() == inactive


@pytest.mark.parametrize("flag", [Flag(0), Flag.STATUS_TABLE, Flag.IMA_MEASUREMENT])
def test_small_buffer(rig: Rig, flag: Flag) -> None:
    """For each buffer size: either the whole text, or a flag that says that it did not fit;
    nothing is written behind the buffer."""
    ours = rig.clone(rig.null_blk(), rig.null_blk())
    whole = unpack_targets(call(Command.TABLE_STATUS, ours.name, flag))[0].text
    needed = HEADER_SIZE + SPEC_SIZE + len(whole) + 1
    sizes_that_fit = []
    for size in range(HEADER_SIZE, needed + 24):
        reply = call(Command.TABLE_STATUS, ours.name, flag, size=size, canary=64)
        assert reply.buffer[size:] == b"\xa5" * 64, f"size {size}: written behind the buffer"
        if Flag.BUFFER_FULL not in reply.flags:
            sizes_that_fit.append(size)
            assert unpack_targets(reply)[0].text == whole
    assert sizes_that_fit, "it never fits"
    assert min(sizes_that_fit) > needed, "dm wants a byte to spare"
    assert sizes_that_fit == list(range(min(sizes_that_fit), needed + 24))


def _ima_records() -> str:
    """The device-mapper records of the measurement list, decoded."""
    if not os.path.ismount(SECURITYFS):
        run("mount", "-t", "securityfs", "securityfs", SECURITYFS)
    folder = SECURITYFS / "ima"
    text = []
    for line in (folder / "ascii_runtime_measurements").read_text().splitlines():
        words = line.split()
        if words[4].startswith("dm_") or words[4].startswith("dm-"):
            text.append(f"{words[4]} {binascii.unhexlify(words[5]).decode(errors='replace')}")
    return "\n".join(text)


def test_ima_record(rig: Rig) -> None:
    """IMA measures the table with the target's usual attributes."""
    records = _ima_records()
    policy = SECURITYFS / "ima/policy"
    if not records and policy.exists():
        # Without a policy from the command line one can be loaded, once.
        write_text(policy, IMA_RULE + "\n")
    backing, clone = rig.null_blk(), rig.null_blk()
    ours = rig.clone(backing, clone, 16, 8, 4096, features=(*TRACK, "region_size", 64))
    # What is measured again with the same content is not listed again: it need not be the last.
    loads = [
        line
        for line in _ima_records().splitlines()
        if f"name={ours.name}," in line and "target_len=4096,target_name=clone-rs," in line
    ]
    assert loads, "no record of the table"
    record = loads[-1]
    assert re.search(r"target_version=\d+\.\d+\.\d+", record)
    for wanted in (backing.number, clone.number, "16", "8", "64", "track"):
        assert re.search(rf"={re.escape(wanted)}[,;]", record), f"{wanted} in {record}"


def test_status_words_are_single_spaced(rig: Rig) -> None:
    """Scripts split the line at single spaces: no double ones, none at the ends."""
    ours = rig.clone(rig.null_blk(), rig.null_blk())
    for target in ours.status() + ours.table():
        assert target.text == " ".join(target.text.split())
