"""The end of a month by several processes, one of which is killed halfway and begins again."""

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

SAY_EVERY_S = 5.0
FINE = {"final", "done", "nothing"}  # the platform's own account owes nothing
KILL_AT = 0.4  # of its accounts
KILL_WITHIN_S = 0.3  # about an account's time: it falls anywhere in one


@dataclass
class Closed:
    """Seconds on the clock, the kill and the second beginning among them; what each process said
    in the end; how many accounts were done by the one that was killed."""

    seconds: float = 0.0
    killed_after: int = 0
    said: list[dict[str, Any]] = field(default_factory=list)


def close(of: int, accounts: int, vies_url: str) -> Closed:
    """By `of` processes. Raises RuntimeError where one fails or leaves an account."""
    found, began = Closed(), time.monotonic()
    workers = [Worker(index, of, vies_url) for index in range(of)]
    said, share = began, accounts // of
    while any(one.runs() for one in workers):
        time.sleep(0.05)
        first = workers[0]
        if not found.killed_after and first.seen >= KILL_AT * share:
            time.sleep(random.uniform(0, KILL_WITHIN_S))
            first.process.kill()
            first.join()
            found.killed_after = first.seen
            workers[0] = Worker(0, of, vies_url)
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            done = " + ".join(f"{one.seen:,}" for one in workers)
            print(f"  {done} of {accounts:,} accounts, {said - began:.0f} s", flush=True)
    found.seconds = time.monotonic() - began
    found.said = [one.result() for one in workers]
    assert found.killed_after, "it was over before the kill"
    return found


class Worker:
    """A closer in a process of its own, and what it says."""

    def __init__(self, index: int, of: int, vies_url: str) -> None:
        module = [sys.executable, "-P", "-m", "tests.benchmarks.books.closer"]
        self.process = subprocess.Popen(
            [*module, str(index), str(of), vies_url], stdout=subprocess.PIPE, text=True
        )
        self.seen = 0
        self.last: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.last = json.loads(line)
                self.seen = self.last["seen"]

    def runs(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        self.join()
        outcomes = self.last.get("outcomes")
        if self.process.returncode or outcomes is None or set(outcomes) - FINE:
            raise RuntimeError(f"a closer ended with {self.process.returncode}: {self.last}")
        return self.last
