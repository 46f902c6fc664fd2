# SPDX-License-Identifier: GPL-2.0
"""Loading the module while memory is short: each allocation on the way fails once.

They are the kernel's, which has to find nothing registered when it takes the module away again; of
our own there are none, so that there is nothing to be taken back. Then the module loads, and works.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import module
from harness.command import run
from harness.fault_injection import Code, allocations_below, count_allocations, fail_nth
from harness.kernel_log import Guard
from harness.refusals import OURS
from harness.rig import Rig

SYS_FINIT_MODULE = 313
FOLDER = Path("/sys/module") / module.NAME
_libc = ctypes.CDLL(None, use_errno=True)


def load() -> None:
    """What insmod does, in this thread: only its allocations are counted."""
    fd = os.open(module.GUEST_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(SYS_FINIT_MODULE, fd, b"", 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def registered() -> bool:
    """Whether device-mapper knows the target."""
    lines = run("dmsetup", "targets").stdout.splitlines()
    return any(line.split()[0] == "clone-rs" for line in lines)


@pytest.fixture
def unloaded() -> Iterator[None]:
    """The module is not there; afterwards it is again."""
    assert module.unload() == ""
    assert not registered()
    yield
    if not FOLDER.exists():
        module.load()


@pytest.mark.usefixtures("unloaded")
def test_each_allocation_of_a_module(rig: Rig, kernel_log: Guard) -> None:
    """Those that come before our code runs: the module is there with all that it is, or not."""
    kernel_log.allow(OURS)
    # KUnit needs some for its list of what is to run, which is nothing.
    kernel_log.allow("^kunit module: error filtering suites: -12")
    # The kernel's own words about memory for code, and a folder in sysfs, that it can't have.
    kernel_log.allow("^execmem: unable to allocate memory")
    kernel_log.allow("^kobject: .*(name properly|failed for|error: -12)")
    refusals = 0
    with allocations_below(Code.of_function("load_module")):
        for number in range(1, 10000):
            outcome = fail_nth(number, load)
            assert FOLDER.exists() == (outcome.error is None)
            if outcome.error is None:
                if not outcome.injected:
                    break
                assert module.unload() == ""
            else:
                assert outcome.error.errno == errno.ENOMEM
                refusals += 1
    assert refusals >= 20
    assert registered()
    ours = rig.clone(rig.null_blk(size=2), rig.null_blk(size=2))
    assert ours.copy_and_wait(0, 512).counters["copied"] == 512


@pytest.mark.usefixtures("unloaded")
def test_our_initialisation_allocates_nothing() -> None:
    """The function that registers the target can't fail for want of memory."""
    with allocations_below(Code.of_function("do_one_initcall")):
        assert count_allocations(load) == 0
    assert registered()
    with allocations_below(Code.of_function("do_init_module")):
        assert module.unload() == ""
        assert count_allocations(load) > 0, "nothing is counted at all"
