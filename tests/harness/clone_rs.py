# SPDX-License-Identifier: GPL-2.0
"""What is particular to clone-rs: its table line and its status."""

from dataclasses import dataclass, field

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
    tunables: dict[str, str] = field(default_factory=dict)

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
            tunables=pairs(tunables),
        )

    @property
    def idle(self) -> bool:
        """Whether no copying is going on and none is asked for."""
        return self.state == "idle" and not self.copying and not self.counters["queued"]


class CloneDevice(Device):
    """A mapped device with clone-rs in its table."""

    def clone_status(self, line: int = 0) -> Status:
        """The status of the target at a line of the table."""
        target = self.status()[line]
        assert target.type == "clone-rs"
        return Status.parse(target.text)

    def copy(self, sector: int, count: int, at: int = 0) -> None:
        """Ask for a copy of a range of the target at sector `at` of the device."""
        self.message(f"copy {sector} {count}", sector=at)

    def wait_idle(self, timeout: float = 30, line: int = 0) -> Status:
        """Wait until all that was asked for is done; return the status then."""

        def idle() -> Status | None:
            status = self.clone_status(line)
            return status if status.idle else None

        return wait_until(idle, f"{self.name} to finish copying", timeout)

    def copy_and_wait(self, sector: int, count: int, timeout: float = 30) -> Status:
        """Copy a range and wait for its end."""
        self.copy(sector, count)
        return self.wait_idle(timeout)
