# SPDX-License-Identifier: GPL-2.0
"""A file system that knows blocks of 512 bytes moves to a disk with blocks of 4096: it is cloned as
any other, and goes on above dm-ebs. The README's check says beforehand that dm-linear will not do.
"""

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from harness.clone_rs import clone_table, linear_table
from harness.disk import Disk
from harness.file_systems import SIZE, check_file_system, digest, make_file_system, write_files
from harness.fio import STEADY
from harness.image import assert_same_disks
from harness.kernel_log import Guard
from harness.rig import Rig

LOAD = STEADY | {"size": "4m", "bsrange": "512-64k"}
README = Path(__file__).resolve().parents[2] / "README.md"
# As the README has the old one and the new one.
NAMES = ("dm-0", "vdc")
large = partial(Rig.null_blk, blocksize=4096)


def ebs_table(disk: Disk, length: int, offset: int = 0) -> str:
    """Blocks of 512 bytes on those of a disk."""
    return f"0 {length} ebs {disk.path} {offset} 1"


@pytest.mark.parametrize("mode", ["track", "mirror"])
@pytest.mark.parametrize(("kind", "offset"), [("ext4", 0), ("ext4", 16), ("xfs", 16)])
def test_cut_over(
    rig: Rig, kernel_log: Guard, tmp_path: Path, kind: str, offset: int, mode: str
) -> None:
    """The mount goes on without an error, with all that was written, and so does fio."""
    # The core does not know that dm-ebs will say smaller blocks.
    kernel_log.allow("^device-mapper: table: .* caused an alignment inconsistency")
    old = rig.null_blk(SIZE[kind])
    # Not null_blk: it has zeroes for the later parts of a block that is read to several places.
    new = rig.scsi_debug(SIZE[kind] + 1, sector_size=4096)
    device = rig.clone_of(linear_table(old))
    make_file_system(kind, device.disk)
    with rig.mounted(device.disk, tmp_path / "live") as mount:
        write_files(mount / "before", 20)
        fio = rig.fio(device.disk, filename=mount / "fio", **LOAD)
        fio.wait_for_load()
        features = ("mode", mode, "final", 1 << 20)
        device.reload(clone_table(old, new, clone_offset=offset, features=features))
        device.start()
        write_files(mount / "meanwhile", 20)
        assert device.disk.block == 1
        if mode == "mirror":
            device.wait_complete(60)
            write_files(mount / "mirrored", 20)
        else:
            device.finish()
        device.load(ebs_table(new, old.sectors, offset))
        device.suspend()
        assert device.clone_status().state == "complete"
        assert_same_disks(old, new, "the clone", (0, offset), old.sectors)
        device.resume()
        write_files(mount / "moved", 20)
        fio.finish()
        assert device.disk.block == 1
        files = digest(mount)
    check_file_system(kind, device.disk)
    with rig.mounted(device.disk, tmp_path / "new") as mount:
        assert digest(mount) == files


def check() -> str:
    """The commands of the README that compare the limits of two devices."""
    text = README.read_text()
    lines = text[text.index("**Check the limits") :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    "))
    commands = []
    for line in lines[first:]:
        if not line.startswith("    "):
            break
        commands.append(line.removeprefix("    # "))
    return "\n".join(commands)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (Rig.scsi_debug, Rig.scsi_debug, ""),
        (large, Rig.null_blk, ""),
        (Rig.null_blk, large, "logical_block_size is larger\n"),
        (
            partial(Rig.scsi_debug, atomic_wr=1),
            Rig.null_blk,
            "atomic_write_unit_max_bytes is less\n",
        ),
    ],
    ids=["the same", "smaller blocks", "larger blocks", "no atomic writes"],
)
def test_the_check_of_the_readme(rig: Rig, old: Callable, new: Callable, said: str) -> None:
    """It names what is less on the new device, and refuses to load a table; nothing where all is
    there."""
    disks = rig.linear(old(rig)).disk, new(rig)
    commands, count = re.subn("dmsetup load .*", "echo loads", check())
    assert count == 1
    for name, disk in zip(NAMES, disks, strict=True):
        assert f"/sys/block/{name}/queue" in commands
        commands = commands.replace(f"/sys/block/{name}/", f"/sys/block/{disk.name}/")
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (said or "loads\n", "")
    assert (done.returncode == 0) == (said == "")
