# SPDX-License-Identifier: GPL-2.0
"""Fixtures of all tests. They run as root in the guest, with the module loaded."""

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

sys.dont_write_bytecode = True

from harness.dm_ioctl import device_names  # noqa: E402
from harness.kernel_log import Guard, KernelLog  # noqa: E402
from harness.rig import Rig  # noqa: E402
from harness.wait import DEBUG_KERNEL, PATIENCE  # noqa: E402

KMEMLEAK_IS_ON = "kmemleak=on" in Path("/proc/cmdline").read_text().split()
LOCKDEP = Path("/proc/lockdep_stats")
KUNIT_FILTER = Path("/sys/module/kunit/parameters/filter_glob")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --long, --whole, --seed and --share."""
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")
    parser.addoption("--whole", action="store_true", help="leave none out on the debug kernel")
    parser.addoption("--seed", type=int, help="what the random tests decide by")
    parser.addoption("--share", default="1/1", metavar="K/N", help="run every N-th test")


def pytest_sessionstart() -> None:
    """The module's KUnit suites ran when the guest loaded it: not again each time a test does."""
    if KUNIT_FILTER.exists():
        KUNIT_FILTER.write_text("none")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests unless --long was given, those that need kmemleak unless that is on,
    of the rest most on the debug kernel unless --whole or --long was, and what is not in this
    guest's share."""
    wanted = [
        item
        for item in items
        if (config.getoption("--long") or not item.get_closest_marker("long"))
        and (KMEMLEAK_IS_ON or not item.get_closest_marker("kmemleak"))
    ]
    if is_brief(config):
        wanted = one_of_each(wanted)
    for item in wanted:
        marker = item.get_closest_marker("timeout")
        limit = float(marker.args[0] if marker else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(limit * PATIENCE), append=False)
    share, shares = map(int, config.getoption("--share").split("/"))
    wanted = wanted[share - 1 :: shares]
    kept = set(wanted)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = wanted


def is_brief(config: pytest.Config) -> bool:
    """Whether this is the debug kernel, and nobody asked for all."""
    return DEBUG_KERNEL and not (config.getoption("--whole") or config.getoption("--long"))


def one_of_each(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test function one set of parameters, always the same, but not the same in all of
    them: what one function does with False another one does with True. One that was asked for by
    its name is the only one there is."""
    sets: dict[str, list[pytest.Item]] = {}
    for item in items:
        sets.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [same[crc32(name.encode()) % len(same)] for name, same in sets.items()]


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The number of --seed, or one that is never the same."""
    given = request.config.getoption("--seed")
    return random.randrange(1 << 31) if given is None else given


@pytest.fixture(scope="session")
def brief(request: pytest.FixtureRequest) -> bool:
    """Whether fewer rounds will do, of what is the same again and again."""
    return is_brief(request.config)


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
    if DEBUG_KERNEL:
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
