# SPDX-License-Identifier: GPL-2.0
"""`finish` has the next suspend that flushes copy what is left, and no other suspend copies
anything: after it the ranges are equal, byte by byte, and the state is `complete`.

A bound of 1 KiB/s keeps dirty what a test has written. The suspend that finishes knows no bound.
"""

import errno
import re

import pytest

from harness import io
from harness.clone_rs import linear_table
from harness.dm_ioctl import DmError
from harness.fio import STEADY
from harness.kernel_log import Guard
from harness.rig import Rig
from harness.track import Pair
from harness.wait import wait_until

LENGTH = 8192
REGION = 128
SOME = range(1, 30)


def nearly_copied(rig: Rig, *features: object, regions: range = SOME, **how: object) -> Pair:
    """A pair that is in sync but for some regions, which stay dirty for a minute."""
    pair = Pair(
        rig, rig.null_blk(4), rig.null_blk(4), features=("region_size", REGION, *features), **how
    )
    device = pair.device
    device.start_and_wait()
    pair.expect_copy()
    pair.check("copied")
    device.tune("rate", 1)
    # The first region is copied at once, after that the next one has to wait.
    pair.write_regions("first", 0)
    device.wait_complete()
    pair.expect_copy(0, REGION)
    pair.write_regions("rest", *regions)
    assert device.clone_status().dirty == len(regions)
    return pair


def check_left(pair: Pair, what: str, left: int = len(SOME)) -> None:
    """Nothing was copied."""
    status = pair.status()
    assert (status.dirty, status.copying) == (left, 0), f"{what}: {status}"
    assert status.state == "copying", f"{what}: {status}"
    pair.check(what)


@pytest.mark.parametrize("noflush", [False, True])
def test_only_when_armed(rig: Rig, noflush: bool) -> None:
    """A suspend that nobody has armed copies nothing."""
    pair = nearly_copied(rig)
    pair.device.suspend(noflush)
    check_left(pair, "an ordinary suspend")


@pytest.mark.parametrize("lockfs", [False, True])
def test_copies_the_rest(rig: Rig, lockfs: bool) -> None:
    """An armed suspend copies it, once: the one after it copies nothing."""
    pair = nearly_copied(rig)
    pair.device.finish()
    pair.device.suspend(lockfs=lockfs)
    pair.expect_copy()
    pair.check("an armed suspend")
    status = pair.check_finished("an armed suspend")
    assert status.in_sync == status.total
    pair.device.resume()
    pair.write_regions("later", *SOME)
    pair.device.suspend()
    check_left(pair, "the suspend after that")


def test_remove_copies_the_rest(rig: Rig) -> None:
    """The suspend can be that of a remove."""
    pair = nearly_copied(rig)
    pair.device.finish()
    pair.device.remove()
    pair.expect_copy()
    pair.check("a remove")


def test_remove_without_finish(rig: Rig) -> None:
    """A remove that was not armed copies nothing."""
    pair = nearly_copied(rig)
    pair.device.remove()
    pair.check("a remove")


@pytest.mark.parametrize("reload", [False, True])
def test_noflush_leaves_it_armed(rig: Rig, reload: bool) -> None:
    """A noflush suspend copies nothing, as the user's I/O is not drained; the next suspend does,
    also where the same table was loaded meanwhile."""
    pair = nearly_copied(rig)
    pair.device.finish()
    if reload:
        pair.device.load(pair.line(features=(*pair.features, "rate", 1)))
    pair.device.suspend(noflush=True)
    check_left(pair, "a noflush suspend")
    pair.device.resume()
    # A new bound begins with a region.
    assert pair.status().dirty >= len(SOME) - 1
    pair.device.suspend()
    pair.expect_copy()
    pair.check_finished("a suspend that flushes")
    pair.check("a suspend that flushes")


def test_disarmed(rig: Rig) -> None:
    """`pause` disarms it."""
    pair = nearly_copied(rig)
    pair.device.finish()
    pair.device.pause()
    pair.device.start()
    pair.device.suspend()
    check_left(pair, "a suspend after a pause")


@pytest.mark.parametrize(("final", "copied"), [(28, False), (29, True), (0, False)])
def test_final(rig: Rig, kernel_log: Guard, final: int, copied: bool) -> None:
    """With more regions left than `final` nothing is copied: that is logged, and disarms it."""
    pair = nearly_copied(rig, "final", final)
    pair.device.finish()
    if copied:
        pair.device.suspend()
        pair.expect_copy()
        pair.check_finished("as many as final")
        pair.check("as many as final")
        return
    kernel_log.expect(
        rf"finish: 29 regions are left, which is more than {final}: nothing is copied"
    )
    pair.device.suspend()
    check_left(pair, "more than final")
    pair.device.resume()
    pair.device.skip(0, LENGTH)
    pair.write_regions("few", *SOME)
    pair.device.suspend()
    assert not re.search(r"(?s)nothing is copied.*nothing is copied", kernel_log.text())
    assert pair.status().dirty == 29


def test_nothing_left(rig: Rig) -> None:
    """A copy that is complete stays so."""
    pair = nearly_copied(rig, "final", 0, regions=range(0))
    copied = pair.status().counters["copied"]
    pair.finish("nothing was left")
    assert pair.status().counters["copied"] == copied


def test_of_a_whole_device(rig: Rig) -> None:
    """All is left: a copy that was started while suspended is finished by the next suspend."""
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), (5, 3), features=("rate", 1))
    pair.device.suspend()
    pair.device.start()
    pair.device.resume()
    status = pair.finish("a whole device")
    assert status.counters["copied"] >= pair.length


def test_refused(rig: Rig, kernel_log: Guard) -> None:
    """Where no copy was started, or it is paused: EINVAL. While the device is suspended: EBUSY.
    Neither arms anything."""
    kernel_log.expect(r"message refused: nothing was started")
    kernel_log.expect(r"message refused: copying is paused")
    kernel_log.expect(r"message refused: the device is suspended")
    pair = Pair(rig, rig.null_blk(2), rig.null_blk(2), features=("rate", 1))

    def refused(number: int) -> None:
        with pytest.raises(DmError) as caught:
            pair.device.finish()
        assert caught.value.errno == number

    refused(errno.EINVAL)
    pair.device.start()
    pair.device.pause()
    refused(errno.EINVAL)
    pair.device.start()
    pair.device.suspend()
    refused(errno.EBUSY)
    pair.device.resume()
    pair.device.suspend()
    assert pair.status().dirty > 10


@pytest.mark.parametrize("kind", ["null_blk", "loop"])
def test_cutover_under_load(rig: Rig, kind: str) -> None:
    """The device in use moves to its clone: the suspend of a reload finishes the copy, and the new
    table is a dm-linear on the clone. fio finds there what it wrote before."""
    make = rig.loop if kind == "loop" else rig.null_blk
    pair = Pair(rig, make(4), make(4), (8, 16))
    load = rig.fio(pair.device.disk, **STEADY)
    load.wait_for_load()
    pair.device.start()
    pair.device.wait_for(lambda status: status.in_sync > status.total // 2, "half in sync")
    pair.device.finish()
    pair.device.load(linear_table(pair.clone.disk, 16, pair.length))
    pair.device.suspend()
    pair.check_finished("the suspend of the cutover")
    before = pair.backing.disk.counters()
    pair.device.resume()
    at_cutover = pair.device.disk.counters().reads

    wait_until(
        lambda: pair.device.disk.counters().reads > at_cutover + 100, "fio to verify on the clone"
    )
    load.finish()
    assert pair.backing.disk.counters() == before, "the old device still gets I/O"


def test_unfinished_is_seen(rig: Rig) -> None:
    """The comparison can fail: one sector that differs on the clone is reported."""
    pair = nearly_copied(rig)
    pair.device.finish()
    pair.device.suspend()
    sector = bytearray(pair.clone.content(77, 1))

    io.write(pair.clone.disk, 77, bytes(sector[::-1]))
    with pytest.raises(AssertionError, match="sector 77: "):
        pair.check_finished("a changed sector")
