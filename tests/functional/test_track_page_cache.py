# SPDX-License-Identifier: GPL-2.0
"""The clone has a page cache of its own, which the copying goes past: what is in there is written
when the table is loaded, and dropped then and when the table goes."""

import os

from harness import io
from harness.data import assert_same, stamped
from harness.rig import Rig
from harness.track import Pair, segments


def test_buffered_reads_of_the_clone(rig: Rig) -> None:
    """Who has the clone open all the while reads what is there before the table and after it, and
    what he has written before does not come after the copy."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), device=False)
    clone = pair.clone
    fd = os.open(clone.disk.path, os.O_RDWR)
    rig.at_end(os.close, fd)

    def check(what: str) -> None:
        found = os.pread(fd, len(clone.content()), 0)
        assert_same(clone.content(), found, f"{what}, through the page cache")

    check("before the table")
    data = stamped("late", 100, 50)
    os.pwrite(fd, data, 100 * 512)
    clone.expect(100, data)
    device = segments(rig, [pair])
    # Past that page cache, also where it still has to be written.
    found = io.read(rig.linear(clone.disk).disk)
    assert_same(clone.content(), found, "after the table was loaded")
    device.start_and_wait()
    pair.expect_copy()
    check("nobody had read since the table was loaded")
    os.fsync(fd)
    pair.check("nothing was left to be written")
    pair.write_regions("after", 0, 7)
    device.wait_complete()
    pair.expect_copy()
    device.remove()
    check("after the table")
    pair.check("after the table")
