# SPDX-License-Identifier: GPL-2.0
"""A mounted file system moves to a mirror and back, without an error and without a gap: the clone
can take over at any moment.
"""

from pathlib import Path

import pytest

from harness.clone_rs import clone_table, linear_table
from harness.file_systems import SIZE, check_file_system, digest, make_file_system, write_files
from harness.fio import STEADY
from harness.image import assert_same_disks
from harness.rig import Rig

FEATURES = ("mode", "mirror")
# btrfs writes past the page cache in blocks of 4 KiB only.
LOAD = STEADY | {"size": "4m", "bsrange": "4k-64k"}


@pytest.mark.parametrize("kind", ["ext4", "btrfs", pytest.param("xfs", marks=pytest.mark.long)])
def test_there_and_back(rig: Rig, tmp_path: Path, kind: str) -> None:
    """The copy is complete while files are written; the table changes to the clone, and the mirror
    goes on the other way round; then the table changes back. Each disk alone is a whole file
    system with all that was written by then."""
    old, new = rig.null_blk(SIZE[kind]), rig.null_blk(SIZE[kind])
    device = rig.clone_of(linear_table(old))
    make_file_system(kind, device.disk)
    with rig.mounted(device.disk, tmp_path / "live") as mount:
        write_files(mount / "before", 20)
        fio = rig.fio(device.disk, filename=mount / "fio", **LOAD)
        fio.wait_for_load()
        device.reload(clone_table(old, new, features=FEATURES))
        device.start()
        write_files(mount / "meanwhile", 20)
        device.wait_complete(60)
        write_files(mount / "mirrored", 20)
        device.suspend()
        assert device.clone_status().state == "complete"
        assert_same_disks(old, new, "the mirror")
        device.resume()
        # Over to the new disk, with the old one as its mirror, which is copied anew.
        device.reload(clone_table(new, old, features=FEATURES))
        before = old.counters().writes
        device.start()
        write_files(mount / "moved", 20)
        device.wait_complete(60)
        assert old.counters().writes > before
        fio.finish()
        device.reload(linear_table(old))
        write_files(mount / "back", 20)
        files = digest(mount)
    device.remove()
    check_file_system(kind, old)
    with rig.mounted(old, tmp_path / "old") as mount:
        assert digest(mount) == files
    # The other one is what the mirror was when it ended; its journal has to be replayed.
    with rig.mounted(new, tmp_path / "new") as mount:
        found = digest(mount)
    check_file_system(kind, new)
    folders = ("before", "meanwhile", "mirrored", "moved")
    wanted = {name: hash_ for name, hash_ in files.items() if name.split("/")[0] in folders}
    assert {name: found.get(name) for name in wanted} == wanted
