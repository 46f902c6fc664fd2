# SPDX-License-Identifier: GPL-2.0
"""fio: load, and load that verifies what it reads back."""

import json
import signal
import subprocess
import tempfile
from pathlib import Path

from harness.disk import Disk
from harness.wait import PATIENCE, wait_until

# Load that goes on until it is stopped, and reads back and verifies what it has just written.
STEADY = {
    "rw": "randwrite",
    "bsrange": "512-64k",
    "verify": "crc32c",
    "verify_fatal": 1,
    "verify_backlog": 64,
    # Of two writes in flight to one place nobody knows which will be the last.
    "serialize_overlap": 1,
    "time_based": 1,
    "runtime": 300,
}
# fio's exit status after SIGINT.
STOPPED = 128


class FioFailed(AssertionError):
    """fio ended with an error: a failed I/O, or data that is not what was written."""


class Fio:
    """One running fio process with one job; `wait` returns the job's part of its report."""

    def __init__(self, disk: Disk, **options: object):
        settings = {
            "name": "job",
            "filename": disk.path,
            "direct": 1,
            "ioengine": "libaio",
            "iodepth": 16,
            "thread": 1,
            "group_reporting": 1,
            "randseed": 7,
        } | options
        words = [f"--{key}={value}" for key, value in settings.items()]
        self.command = ["fio", "--output-format=json", *words]
        self._disk = disk
        self._before = disk.counters()
        self._stopped = False
        # In a file of its own: a full pipe would stop fio.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=tempfile.gettempdir(),
        )

    @property
    def running(self) -> bool:
        """Whether fio has not ended yet."""
        return self._process.poll() is None

    def wait_for_load(self) -> None:
        """Wait until its I/O has begun to reach the device."""
        wait_until(
            lambda: self._disk.counters() != self._before or not self.running,
            "fio to do its first I/O",
        )
        assert self.running, f"fio ended at once:\n{self._read()}"

    def stop(self) -> None:
        """Let it end early; `wait` then returns what it has done."""
        # It dies of a SIGINT that comes before it has its handler.
        wait_until(lambda: not self.running or self._handles_sigint(), "fio to begin")
        if self.running:
            self._stopped = True
            self._process.send_signal(signal.SIGINT)

    def _handles_sigint(self) -> bool:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1)

    def finish(self) -> dict:
        """Stop STEADY load; fail unless it was still there, has read something back and found
        nothing wrong."""
        wait_until(
            lambda: self._disk.counters().reads > self._before.reads or not self.running,
            "fio to verify something",
        )
        assert self.running, f"fio ended by itself:\n{self._read()}"
        self.stop()
        return self.wait()

    def kill(self) -> None:
        """End it if it is still there."""
        if self.running:
            self._process.kill()
        self._process.wait(30)

    def _read(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def wait(self, timeout: float = 60) -> dict:
        """Wait for its end; fail unless all I/O was right."""
        status = self._process.wait(timeout * PATIENCE)
        text = self._read()
        # Notes may stand before the report.
        report = json.loads(text[text.index("{") :]) if "{" in text else {}
        job = report["jobs"][0] if report.get("jobs") else {"error": "no report"}
        if (status and not (self._stopped and status == STOPPED)) or job["error"]:
            raise FioFailed(f"{' '.join(self.command)}: exit status {status}\n{text[:4000]}")
        return job


def fio(disk: Disk, timeout: float = 60, **options: object) -> dict:
    """Run fio to its end; return its job's report."""
    running = Fio(disk, **options)
    try:
        return running.wait(timeout)
    finally:
        running.kill()
