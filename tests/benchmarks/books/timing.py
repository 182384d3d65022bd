"""How long a part took, here and in the database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers.processes import cpu_s


@dataclass
class Timed:
    """Seconds on the clock, and of those on a processor here and in PostgreSQL."""

    wall: float = 0.0
    here: float = 0.0
    there: float = 0.0

    def __add__(self, other: "Timed") -> "Timed":
        return Timed(self.wall + other.wall, self.here + other.here, self.there + other.there)


@contextmanager
def timed() -> Iterator[Timed]:
    """Of this thread's connection of Django, which must be set up."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((pid,),) = cursor.fetchall()

    def there() -> float:
        return cpu_s(Path(f"/proc/{pid}/stat").read_text())

    found = Timed()
    cpu, began, here = there(), time.perf_counter(), time.process_time()
    yield found
    found.wall, found.here = time.perf_counter() - began, time.process_time() - here
    found.there = there() - cpu


def peak_mb() -> float:
    """The most memory that this process has had. (That of `getrusage` begins with its parent's.)"""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) / 1024
