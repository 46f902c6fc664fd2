# SPDX-License-Identifier: GPL-2.0
"""Running commands, and writing to the kernel's files."""

import os
import subprocess
from pathlib import Path

# No udev daemon runs in the guest: nobody would answer who waits for it.
NO_UDEV = {"DM_DISABLE_UDEV": "1", "MDADM_NO_UDEV": "1"}


class CommandFailed(AssertionError):
    """A command that had to succeed did not; the text holds all that it printed."""


def run(*words: object, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess:
    """Run a command to its end and return it, with its output as text."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"LC_ALL": "C"} | NO_UDEV,
    )
    if check and done.returncode:
        raise CommandFailed(
            f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def read_text(path: Path | str) -> str:
    """The content of a sysfs, configfs or procfs file, without the newline at its end."""
    return Path(path).read_text().rstrip("\n")


def write_text(path: Path | str, value: object) -> None:
    """Write to a file of the kernel's with one call; its errno is kept."""
    text = str(int(value)) if isinstance(value, bool) else str(value)
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"writing {text!r}: {error.strerror}", str(path)) from error
    finally:
        os.close(fd)


def load_module(name: str, **parameters: object) -> None:
    """modprobe a module of the kernel's own tree."""
    run("modprobe", name, *(f"{key}={value}" for key, value in parameters.items()))


def unload_module(name: str) -> None:
    """Unload a module that load_module loaded."""
    run("modprobe", "-r", name)
