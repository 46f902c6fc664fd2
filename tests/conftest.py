# SPDX-License-Identifier: GPL-2.0
"""Fixtures of all tests. They run as root in the guest, with the module loaded."""

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.dont_write_bytecode = True

from harness.dm_ioctl import device_names  # noqa: E402
from harness.kernel_log import Guard, KernelLog  # noqa: E402
from harness.rig import Rig  # noqa: E402

KMEMLEAK_IS_ON = "kmemleak=on" in Path("/proc/cmdline").read_text().split()
LOCKDEP = Path("/proc/lockdep_stats")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --long, --seed and --share."""
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")
    parser.addoption("--seed", type=int, help="what the random tests decide by")
    parser.addoption("--share", default="1/1", metavar="K/N", help="run every N-th test")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests unless --long was given, those that need kmemleak unless that is on,
    and of the rest what is not in this guest's share."""
    wanted = [
        item
        for item in items
        if (config.getoption("--long") or not item.get_closest_marker("long"))
        and (KMEMLEAK_IS_ON or not item.get_closest_marker("kmemleak"))
    ]
    share, shares = map(int, config.getoption("--share").split("/"))
    wanted = wanted[share - 1 :: shares]
    kept = set(wanted)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = wanted


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The number of --seed, or one that is never the same."""
    given = request.config.getoption("--seed")
    return random.randrange(1 << 31) if given is None else given


@pytest.fixture(scope="session")
def whole_kernel_log() -> Iterator[KernelLog]:
    """The kernel log of the session: what comes between tests and after the last one counts."""
    log = KernelLog()
    yield log
    late = [str(record) for record in log.read() if record.alarming]
    log.close()
    if late:
        text = "in the kernel log after the last test:\n" + "\n".join(late)
        pytest.fail(text, pytrace=False)
    # After its first complaint lockdep is off.
    if LOCKDEP.exists():
        assert re.search(r"debug_locks: +1$", LOCKDEP.read_text(), re.MULTILINE), "lockdep is off"


@pytest.fixture(autouse=True)
def kernel_log(whole_kernel_log: KernelLog) -> Iterator[Guard]:
    """Fails the test if the kernel logged a warning or worse that it did not declare; it is torn
    down last, so that the removal of the devices is watched, too."""
    late = [str(record) for record in whole_kernel_log.read() if record.alarming]
    if late:
        text = "in the kernel log after the previous test:\n" + "\n".join(late)
        pytest.fail(text, pytrace=False)
    guard = Guard(whole_kernel_log)
    yield guard
    problems = guard.problems()
    if problems:
        pytest.fail("kernel log:\n" + "\n".join(problems), pytrace=False)


@pytest.fixture
def rig(kernel_log: Guard) -> Iterator[Rig]:
    """Makes devices and takes them away; nothing may be left."""
    before = device_names()
    rig = Rig()
    yield rig
    rig.close()
    left = sorted(set(device_names()) - set(before))
    assert not left, f"mapped devices left behind: {left}"
