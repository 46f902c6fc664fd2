# SPDX-License-Identifier: GPL-2.0
"""What is particular to clone-rs: its table line, its messages and its status."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.disk import Disk
from harness.dm import Device
from harness.wait import wait_until

# The features of every table here that says nothing else.
TRACK = ("mode", "track")


def clone_table(
    backing: Disk,
    clone: Disk,
    backing_offset: int = 0,
    clone_offset: int = 0,
    length: int | None = None,
    start: int = 0,
    features: tuple | None = TRACK,
) -> str:
    """One line of a table; by default the whole backing device from its offset on."""
    if length is None:
        length = backing.sectors - backing_offset
    line = f"{start} {length} clone-rs {backing.path} {backing_offset} {clone.path} {clone_offset}"
    if features is not None:
        line += f" {len(features)} " + " ".join(str(word) for word in features)
    return line


def linear_table(
    backing: Disk, backing_offset: int = 0, length: int | None = None, start: int = 0
) -> str:
    """The line of dm-linear that maps what clone_table maps."""
    if length is None:
        length = backing.sectors - backing_offset
    return f"{start} {length} linear {backing.path} {backing_offset}"


def whole_regions(
    sector: int, count: int, region_size: int, length: int, lead: int = 0
) -> tuple[int, int]:
    """Sector and count of a range of a target rounded out to regions; the last one may be short."""
    first = max(0, (sector + lead) // region_size * region_size - lead)
    end = min(length, -(-(sector + count + lead) // region_size) * region_size - lead)
    return first, end - first


def pairs(words: list[str]) -> dict[str, str]:
    """name value name value ... as a dictionary."""
    assert len(words) % 2 == 0, f"a name without a value in {words}"
    return dict(zip(words[::2], words[1::2], strict=True))


@dataclass(frozen=True)
class Status:
    """The INFO line. Counters and tunables may become more: they are looked up by name."""

    state: str
    health: str
    mode: str
    region_size: int
    in_sync: int
    total: int
    skipped: int
    copying: int
    counters: dict[str, int] = field(default_factory=dict)
    tunables: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> "Status":
        """Read `<state> <health> <mode> <region size> <in sync>/<total> <skipped> <copying>
        <#counters> [<name> <value>]... <#tunables> [<name> <value>]...` and nothing after it."""
        words = line.split(" ")
        state, health, mode, region_size, progress, skipped, copying, count = words[:8]
        in_sync, total = progress.split("/")
        counters, words = words[8 : 8 + int(count)], words[8 + int(count) :]
        assert len(counters) == int(count), f"fewer counters than announced: {line}"
        count, *tunables = words
        assert len(tunables) == int(count), f"not as many tunables as announced: {line}"
        return cls(
            state=state,
            health=health,
            mode=mode,
            region_size=int(region_size),
            in_sync=int(in_sync),
            total=int(total),
            skipped=int(skipped),
            copying=int(copying),
            counters={name: int(value) for name, value in pairs(counters).items()},
            tunables={name: int(value) for name, value in pairs(tunables).items()},
        )

    @property
    def dirty(self) -> int:
        """Regions that are neither in sync nor skipped; those being copied are dirty, too."""
        return self.total - self.in_sync - self.skipped

    @property
    def at_rest(self) -> bool:
        """Whether nothing is being copied and nothing will be without a message or a write."""
        return (
            self.state not in ("copying", "verifying")
            and not self.copying
            and (self.state == "complete" or self.dirty > 0)
        )


class Failure(NamedTuple):
    """An entry of the error list: `side` is backing or clone, sectors are the target's. A flush
    that failed has no sectors."""

    side: str
    errno: int
    sector: int
    count: int


@dataclass(frozen=True)
class ErrorList:
    """The answer to `errors`."""

    failures: list[Failure]
    left_out: int

    @classmethod
    def parse(cls, answer: str) -> "ErrorList":
        """Read `<shown> <left out> [<side> <errno> <sector> <count>]...` and nothing after it."""
        shown, left_out, *words = answer.split(" ")
        assert len(words) == 4 * int(shown), f"not as many entries as announced: {answer}"
        quadruples = zip(*[iter(words)] * 4, strict=True)
        return cls(
            failures=[
                Failure(side, int(number), int(sector), int(count))
                for side, number, sector, count in quadruples
            ],
            left_out=int(left_out),
        )


class CloneDevice(Device):
    """A mapped device with clone-rs in its table. `at` is a sector of the target that is meant,
    `line` its line of the table."""

    def clone_status(self, line: int = 0) -> Status:
        """The status of the target at a line of the table."""
        target = self.status()[line]
        assert target.type == "clone-rs"
        return Status.parse(target.text)

    # The messages.

    def start(self, at: int = 0) -> None:
        """Begin to copy what is dirty, or go on."""
        self._act("start", at)

    def retry(self, at: int = 0) -> None:
        """Try again what could not be read."""
        self._act("retry", at)

    def pause(self, at: int = 0) -> None:
        """Begin no more jobs."""
        self._act("pause", at)

    def finish(self, at: int = 0) -> None:
        """Have the next suspend that flushes copy the rest."""
        self._act("finish", at)

    def copy(self, sector: int, count: int, at: int = 0) -> None:
        """Have the regions that a range touches copied before all others."""
        self._act(f"copy {sector} {count}", at)

    def skip(self, sector: int, count: int, at: int = 0) -> None:
        """Have the regions that lie whole in a range not copied."""
        self._act(f"skip {sector} {count}", at)

    def tune(self, name: str, value: int, at: int = 0) -> None:
        """Set `depth`, `batch` or `rate`."""
        self._act(f"{name} {value}", at)

    def set_mode(self, mode: str, at: int = 0) -> None:
        """Change what user writes do to the clone."""
        self._act(f"mode {mode}", at)

    def verify(self, at: int = 0) -> None:
        """Compare both devices where they are in sync."""
        self._act("verify", at)

    def errors(self, at: int = 0) -> ErrorList:
        """What has failed since the last `start`."""
        return ErrorList.parse(self.message("errors", sector=at))

    def _act(self, text: str, at: int) -> None:
        answer = self.message(text, sector=at)
        assert answer == "", f"{text!r} was answered with {answer!r}"

    # Waiting, and the steps of an administrator.

    def wait_for(
        self, wanted: Callable[[Status], object], what: str, timeout: float = 30, line: int = 0
    ) -> Status:
        """Wait until the status is as wanted; return it."""
        last: Status | None = None

        def look() -> Status | None:
            nonlocal last
            last = self.clone_status(line)
            return last if wanted(last) else None

        try:
            return wait_until(look, f"{self.name} to be {what}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}, the last status was {last}") from None

    def wait_idle(self, timeout: float = 30, line: int = 0) -> Status:
        """Wait until all that was asked for is done; return the status then."""
        return self.wait_for(lambda status: status.at_rest, "at rest", timeout, line)

    def wait_complete(self, timeout: float = 30, line: int = 0) -> Status:
        """Wait until all regions are in sync or skipped and the clone is flushed."""
        return self.wait_for(lambda status: status.state == "complete", "complete", timeout, line)

    def wait_paused(self, timeout: float = 30, line: int = 0) -> Status:
        """Wait until copying is paused and the last job has ended."""
        return self.wait_for(
            lambda status: status.state == "paused" and not status.copying,
            "paused",
            timeout,
            line,
        )

    def copy_and_wait(self, sector: int, count: int, timeout: float = 30) -> Status:
        """Copy a range and wait for its end."""
        self.copy(sector, count)
        return self.wait_idle(timeout)

    def start_and_wait(self, timeout: float = 30) -> Status:
        """Copy all that is dirty and wait for its end."""
        self.start()
        return self.wait_complete(timeout)

    def verify_and_wait(self, timeout: float = 60) -> Status:
        """Compare both devices, and wait for the end of it."""
        self.verify()
        return self.wait_for(lambda status: status.state != "verifying", "verified", timeout)

    def wait_event(self, number: int) -> None:
        """Wait until that event was raised; none came after it."""
        wait_until(lambda: self.info().event >= number, f"event {number}")
        assert self.info().event == number

    def finish_and_suspend(self) -> Status:
        """Copy the rest inside a suspend; the device is suspended then."""
        self.finish()
        self.suspend()
        return self.clone_status()
