# SPDX-License-Identifier: GPL-2.0
"""What a mirror needs is allocated with the table, or by `mode mirror`: where that fails it is
ENOMEM, nothing is left behind, and what was there goes on.
"""

import errno
from collections.abc import Iterator

import pytest

from harness.allocations import Allocations
from harness.clone_rs import clone_table
from harness.dm_ioctl import DmError
from harness.fault_injection import Code, allocations_below, fail_nth
from harness.kernel_log import Guard
from harness.refusals import OURS, allow_refusals
from harness.rig import Rig
from harness.track import Pair

# With both kinds of memory, and merges.
FEATURES = ("depth", 1, "batch", 8, "stable")
OFFSETS = (0, 5)


def some_numbers() -> Iterator[int]:
    """Of thousands of allocations: the first ones, and ever fewer."""
    number = 1
    while True:
        yield number
        number += 1 + number // 8


def test_for_a_table(rig: Rig, kernel_log: Guard) -> None:
    """The table is refused, or accepted because there was another way."""
    allow_refusals(kernel_log)
    kernel_log.allow(r"^workqueue: Failed to (allocate a rescuer|create a rescuer kthread) for wq")
    device = rig.clone_of(None)
    disks = rig.null_blk(2), rig.null_blk(2, blocksize=4096)
    table = clone_table(*disks, 0, OFFSETS[1], 4000, features=("mode", "mirror", *FEATURES))
    # The module's list of targets gets room for two, as there are at a reload.
    device.load(table)
    device.load(table)
    device.clear()
    refused = 0
    with allocations_below(Code.of_module()), Allocations() as allocations:
        for number in some_numbers():
            outcome = fail_nth(number, lambda: device.load(table))
            if isinstance(outcome.error, DmError):
                assert outcome.injected
                assert outcome.error.errno == errno.ENOMEM
                refused += 1
            else:
                assert outcome.error is None
                device.clear()
            if not outcome.injected:
                break
    assert not allocations.ours, "lost memory, by who allocated it"
    assert number > 2048, "the stock was expected to take more"
    assert refused >= 30


@pytest.mark.parametrize("number", [2, 300, 1000, 2000])
def test_for_the_mode(rig: Rig, kernel_log: Guard, number: int) -> None:
    """The message fails and changes nothing; copying goes on, and the next one may succeed."""
    kernel_log.allow(OURS + "message refused")
    disks = rig.null_blk(2), rig.null_blk(2, blocksize=4096)
    pair = Pair(rig, *disks, OFFSETS, 4000, FEATURES)
    pair.device.copy_and_wait(0, 8)

    def fails(number: int) -> bool:
        with allocations_below(Code.of_module()), Allocations() as allocations:
            outcome = fail_nth(number, lambda: pair.device.set_mode("mirror"))
        assert outcome.injected
        if outcome.error is None:
            # A slab that could not grow by several pages grew by one, or memory came in smaller
            # pieces. The next table has nothing yet.
            pair.device.reload(pair.line())
            return False
        assert isinstance(outcome.error, DmError)
        assert outcome.error.errno == errno.ENOMEM
        assert not allocations.ours, "lost memory, by who allocated it"
        return True

    assert any(fails(tried) for tried in range(number, number + 10)), "there is another way always"
    assert pair.device.clone_status().mode == "track"
    pair.device.set_mode("mirror")
    pair.device.start_and_wait()
    pair.write(9, bytes(512))
    assert pair.device.clone_status().state == "complete"
    pair.expect_copy()
    pair.check("after the second try")
