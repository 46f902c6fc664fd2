# SPDX-License-Identifier: GPL-2.0
"""The module under test: unloading and loading it again."""

from pathlib import Path

from harness.command import run

NAME = "dm_clone_rs"
# Where vm/run puts the module that it loads; elsewhere it is an installed one.
GUEST_FILE = Path("/job/dm-clone-rs.ko")


def unload() -> str:
    """Try to unload the module; what rmmod said against it, empty if it is gone."""
    return run("rmmod", NAME, check=False).stderr


def load() -> None:
    """Load the module."""
    if GUEST_FILE.exists():
        run("insmod", GUEST_FILE)
    else:
        run("modprobe", "dm-clone-rs")
