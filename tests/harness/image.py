# SPDX-License-Identifier: GPL-2.0
"""What a disk has to hold, kept beside it and compared as a whole."""

from harness import io
from harness.data import SECTOR, assert_same, stamped
from harness.disk import Disk

# In sectors.
_STEP = 16 << 11


class Image:
    """The expected content of a disk, which is filled with a data set at the start.

    Nothing else is sampled: a check reads the whole disk, so it also sees what was written where
    nobody asked for it.
    """

    def __init__(self, disk: Disk, name: str):
        self.disk = disk
        self._content = bytearray()
        self.fill(name)

    def fill(self, name: str) -> None:
        """Fill the disk with a data set."""
        self._content = bytearray(self.disk.sectors * SECTOR)
        # Not all at once: a large disk's would stay in memory a second time.
        for sector in range(0, self.disk.sectors, _STEP):
            data = stamped(name, sector, min(_STEP, self.disk.sectors - sector))
            io.write(self.disk, sector, data)
            self.expect(sector, data)

    def expect(self, sector: int, data: bytes) -> None:
        """From now on these sectors have to hold this."""
        assert sector >= 0 and sector * SECTOR + len(data) <= len(self._content)
        self._content[sector * SECTOR : sector * SECTOR + len(data)] = data

    def expect_copy(self, sector: int, source: "Image", source_sector: int, count: int) -> None:
        """From now on these sectors have to hold what another disk holds there."""
        self.expect(sector, source.content(source_sector, count))

    def content(self, sector: int = 0, count: int | None = None) -> bytes:
        """What these sectors have to hold; by default all to the end."""
        end = None if count is None else (sector + count) * SECTOR
        return bytes(self._content[sector * SECTOR : end])

    def check(self, what: str) -> None:
        """Compare the whole disk."""
        assert_same(self.content(), io.read(self.disk), f"{what}: {self.disk.name}")


def assert_same_disks(
    wanted: Disk, found: Disk, what: str, offsets: tuple[int, int] = (0, 0), length: int = 0
) -> None:
    """Compare two disks of the same size, or so many sectors at an offset on each, a piece at a
    time."""
    length = length or wanted.sectors
    step = 8 * io.CHUNK // SECTOR
    for sector in range(0, length, step):
        count = min(step, length - sector)
        first, second = (offset + sector for offset in offsets)
        assert_same(io.read(wanted, first, count), io.read(found, second, count), what, second)
