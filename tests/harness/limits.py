# SPDX-License-Identifier: GPL-2.0
"""What the layers above see of a device: its queue limits and everything like them in sysfs."""

from pathlib import Path

from harness.command import read_text
from harness.disk import Disk

# Beside queue/: what a file system or a tool asks about the device.
FOLDERS = ("queue", "integrity")
FILES = ("ro", "removable", "size", "alignment_offset", "discard_alignment")


def limits(disk: Disk) -> dict[str, str]:
    """Every property by the name of its file; one that can't be read has its error as value."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((disk.sys / folder).rglob("*")):
            if file.is_file():
                found[str(file.relative_to(disk.sys))] = _value(file)
    for name in FILES:
        if (disk.sys / name).exists():
            found[name] = _value(disk.sys / name)
    return found


def _value(file: Path) -> str:
    try:
        return read_text(file)
    except OSError as error:
        return f"({error.strerror})"


def unlike(wanted: dict[str, str], found: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The properties that differ: name -> (wanted, found)."""
    missing = "(no such file)"
    return {
        name: (wanted.get(name, missing), found.get(name, missing))
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    }
