"""Minutes of mixed traffic on a whole Stoa: does its memory stay flat, and are its books exact?

Two clients send short requests, streams, streams that they cut off, and requests with keys that
are then revoked; now and then an engine is killed with -9. Then the gateway alone for as long,
at half of the load that it manages (peers/halfload.py). `--minutes 30`, 10 by default;
`--only platform` or `--only gateway` for one of the two.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.peers.arithmetic import slope as line_slope
from tests.figures import figure
from tests.flows.stoa import ROOT, Stoa, installation, until
from tests.flows.traffic import Books, Client, Got
from workers.agent import kin

MODEL = "hello"
CLIENTS = 2
PAUSE_S = 0.2  # between two requests of a client
SAMPLE_EVERY_S = 2.0
KILL_EVERY_S, FIRST_KILL_S = 60.0, 20.0
REVOKED_WITHIN_S = 1.0
PARTS = ("web", "gateway", "worker", "agent")


@dataclass
class Soak:
    stoa: Stoa
    gots: list[Got] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what must not happen, and did
    over: threading.Event = field(default_factory=threading.Event)

    # --- traffic -----------------------------------------------------------------------

    def send(self, seed: int) -> None:
        """One client's requests, one after the other, until it is over."""
        chance = random.Random(seed)
        with Client(self.stoa.run["gateway_url"], self.stoa.run["api_key"]) as client:
            while not self.over.wait(PAUSE_S * chance.uniform(0.5, 1.5)):
                kind = chance.choices(("short", "stream", "cut", "key"), (50, 25, 20, 5))[0]
                try:
                    getattr(self, f"_{kind}")(client, chance)
                except httpx.TransportError as error:
                    self.wrong.append(f"{kind}: {error!r}")

    def _note(self, got: Got) -> None:
        self.gots.append(got)
        if got.end == "refused" and got.status < 500:
            self.wrong.append(f"{got.status} {got.error}")

    def _short(self, client: Client, chance: random.Random) -> None:
        self._note(client.ask(MODEL, chance.randint(1, 32)))

    def _stream(self, client: Client, chance: random.Random) -> None:
        self._note(client.stream(MODEL, chance.randint(20, 200)).read())

    def _cut(self, client: Client, chance: random.Random) -> None:
        stream = client.stream(MODEL, 1500)
        stream.read(chance.randint(1, 60))
        self._note(stream.close())

    def _key(self, client: Client, chance: random.Random) -> None:
        """A key that works, is revoked, and works no longer."""
        api = self.stoa.api
        hello = api.endpoint(MODEL)
        key = api.post("/api-keys", {"project": hello["project"], "name": "soak"})
        with Client(self.stoa.run["gateway_url"], key["secret"]) as mine:
            until(lambda: mine.http.get("/models").status_code == 200, within_s=5, what="it works")
            self._note(mine.ask(MODEL, 3))
            api.delete(f"/api-keys/{key['id']}")
            revoked = time.monotonic()
            while (got := mine.ask(MODEL, 1)).status != 401:
                self._note(got)
                if time.monotonic() - revoked > REVOKED_WITHIN_S:
                    self.wrong.append("a revoked key still works after a second")
                    return

    # --- faults and measurements -------------------------------------------------------

    def kill_engines(self) -> int:
        """Now and then, the engine that serves; how often."""
        kills, pause_s = 0, FIRST_KILL_S
        while not self.over.wait(pause_s):
            ready = [r["id"] for r in self.stoa.api.replicas() if r["state"] == "ready"]
            if ready:
                os.kill(_engine(self.stoa, ready[0]), signal.SIGKILL)
                kills += 1
            pause_s = KILL_EVERY_S
        return kills

    def weigh(self) -> dict[str, list[tuple[float, int, int]]]:
        """Of each part: minute, pid and KiB of memory that is its own and in use."""
        found: dict[str, list[tuple[float, int, int]]] = {part: [] for part in PARTS}
        began = time.monotonic()
        while not self.over.wait(SAMPLE_EVERY_S):
            for part in PARTS:
                try:
                    pid = self.stoa.pid_of(part)
                except LookupError:
                    continue  # it died: its next pid will tell
                pids = {pid} | (_children(pid) if part in ("gateway", "worker") else set())
                minute = (time.monotonic() - began) / 60
                found[part].append((minute, pid, sum(map(_rss_kb, pids))))
        return found


def _engine(stoa: Stoa, replica_id: str) -> int:
    """The pid of its engine, as the agent wrote it down."""
    record = json.loads((stoa.var / "agent" / "replicas" / f"{replica_id}.json").read_text())
    pid: int = record["running"]["pid"]
    return pid


def _children(pid: int) -> set[int]:
    return {each.pid for each in kin.everybody() if each.parent == pid}


def _rss_kb(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def slope(samples: list[tuple[float, int, int]]) -> float:
    """KiB a minute, by least squares over the last two thirds: the first is warming up."""
    return line_slope([(minute, kb) for minute, _, kb in samples[len(samples) // 3 :]])


def settled(soak: Soak) -> Books:
    """The books, once everything is booked; or as they are when that does not come to pass."""
    api = soak.stoa.api
    endpoint_id = api.endpoint(MODEL)["id"]
    deadline = time.monotonic() + 30
    while True:
        books = Books.of(api, endpoint_id)
        waiting = any(books.lacks(got) for got in soak.gots)
        if not waiting or time.monotonic() > deadline:
            return books
        threading.Event().wait(1)


def run(stoa: Stoa, minutes: float) -> None:
    soak = Soak(stoa)
    before = set(Books.of(stoa.api, stoa.api.endpoint(MODEL)["id"]).tokens)
    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        clients = [pool.submit(soak.send, seed) for seed in range(CLIENTS)]
        weights, kills = pool.submit(soak.weigh), pool.submit(soak.kill_engines)
        end = time.monotonic() + minutes * 60
        try:
            while (left_s := end - time.monotonic()) > 0 and not any(c.done() for c in clients):
                soak.over.wait(min(30.0, left_s))
                left_min = (end - time.monotonic()) / 60
                print(f"{minutes - left_min:6.1f} min  {_ends(soak)}", flush=True)
        finally:
            soak.over.set()
        for client in clients:
            client.result()
    books = settled(soak)
    if strange := books.tokens.keys() - before - {got.request_id for got in soak.gots}:
        soak.wrong.append(f"booked, and nobody asked: {sorted(strange)[:5]}")
    report(soak, books, weights.result(), kills.result())


def _ends(soak: Soak) -> str:
    counts = Counter(got.end for got in list(soak.gots))
    return ", ".join(f"{count} {end}" for end, count in sorted(counts.items()))


def report(soak: Soak, books: Books, weights: dict[str, Any], kills: int) -> None:
    lost = [got for got in soak.gots if books.lacks(got)]
    double = [got for got in soak.gots if books.exceeds(got)]
    restarts = sum(len({pid for _, pid, _ in samples}) - 1 for samples in weights.values())
    for got in (lost + double)[:10]:
        print(f"books: {got} against {dict(books.tokens.get(got.request_id, {}))}")
    for text in soak.wrong[:10]:
        print(f"wrong: {text}")
    print(f"{_ends(soak)}; {kills} engines killed; {restarts} parts restarted")
    figure("soak.requests", len(soak.gots), "requests")
    for part in PARTS:
        first_kb = weights[part][len(weights[part]) // 3][2]
        kb = slope(weights[part])
        figure(f"soak.{part}_rss_slope_kb_per_min", kb, "KiB/min", vs="rss_kb", than=first_kb)
    figure("soak.lost_usage", len(lost), "requests")
    figure("soak.double_usage", len(double), "requests")
    figure("soak.wrong_answers", len(soak.wrong), "requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", choices=("platform", "gateway"))
    asked = parser.parse_args()
    if asked.only != "gateway":
        with (
            tempfile.TemporaryDirectory(prefix="stoa-soak-", dir="/tmp") as folder,
            installation(Path(folder) / "var", STOA_AGENT_DEVICES="cpu:2") as stoa,
        ):
            print(f"stoa is up at {datetime.now(UTC):%H:%M:%S} UTC", flush=True)
            run(stoa, asked.minutes)
    if asked.only != "platform":
        half_load = ["-m", "tests.benchmarks.peers.halfload", f"--minutes={asked.minutes}"]
        # A process of its own: it needs a database before Django has settings.
        done = subprocess.run([sys.executable, "-P", *half_load], cwd=ROOT)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
