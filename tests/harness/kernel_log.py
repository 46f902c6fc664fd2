# SPDX-License-Identifier: GPL-2.0
"""The kernel log, and the guard that fails a test when its log has anything unexpected."""

import os
import re
from dataclasses import dataclass

WARNING = 4

# Whatever its level, a record with one of these words is bad news.
ALARMS = re.compile(
    r"BUG|WARNING|Oops|possible recursive|hung task|blocked for more than|KASAN|KCSAN|UBSAN"
    r"|INFO: |lockdep|stall|refcount_t|panic"
)

# What test devices say in their normal life, and an emulated machine whose host is busy; nothing of
# device-mapper's or of ours is here. How many lines of a kind were held back is told with the next
# one of that kind, maybe a test later; that one counts, this does not.
NOISE = re.compile(
    r"^scsi_debug:sdebug_driver_probe: scsi_debug: trim poll_queues to 0"
    r"|^scsi \d+:0:0:0: Power-on or device reset occurred"
    r"|^clocksource: |^TSC found unstable|^sched: DL replenish lagged too much"
    # Who opens a node just before its disk is there.
    r"|^block device autoloading is deprecated"
    r"|^md: async del_gendisk mode will be removed in future"
    r"|: \d+ callbacks suppressed$"
)


@dataclass(frozen=True)
class Record:
    """One record of /dev/kmsg."""

    level: int
    text: str

    @property
    def alarming(self) -> bool:
        """Whether nobody wants to see this."""
        if NOISE.search(self.text):
            return False
        return self.level <= WARNING or ALARMS.search(self.text) is not None

    def __str__(self) -> str:
        return f"<{self.level}> {self.text}"


class KernelLog:
    """Reads what the kernel logs after this object was made."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def close(self) -> None:
        """Stop reading."""
        os.close(self._fd)

    def read(self) -> list[Record]:
        """The records that have come since the last call."""
        records = []
        while True:
            try:
                raw = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return records
            except BrokenPipeError:
                records.append(Record(WARNING, "(records were overwritten before they were read)"))
                continue
            # "priority,sequence,time,flags;text", then lines with properties after a space.
            head, _, text = raw.partition(";")
            priority = int(head.split(",")[0])
            records.append(Record(priority & 7, text.split("\n", 1)[0]))


class Guard:
    """The log of one test. What the test provokes on purpose it declares here."""

    def __init__(self, log: KernelLog):
        self._log = log
        self._records: list[Record] = []
        self._expected: list[str] = []
        self._allowed: list[str] = []

    def expect(self, pattern: str) -> None:
        """This must be logged during the test (a regular expression), and is no failure."""
        self._expected.append(pattern)

    def allow(self, pattern: str) -> None:
        """This may be logged during the test, and is no failure."""
        self._allowed.append(pattern)

    def records(self) -> list[Record]:
        """All that was logged since the test began."""
        self._records += self._log.read()
        return self._records

    def text(self) -> str:
        """All that was logged since the test began, as one string."""
        return "\n".join(record.text for record in self.records())

    def problems(self) -> list[str]:
        """What is wrong with the log: what is there unexpected, and what is missing."""
        declared = self._expected + self._allowed
        found = [
            f"unexpected: {record}"
            for record in self.records()
            if record.alarming and not any(re.search(p, record.text) for p in declared)
        ]
        found += [
            f"missing: {pattern}"
            for pattern in self._expected
            if not any(re.search(pattern, record.text) for record in self._records)
        ]
        return found
