"""A node that falls silent, and a database that does: what the house makes of it, and when.

A test plays this with leases 20 times shorter, a benchmark at full length. Times are taken from
outside, on the one clock that all parts share here.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from tests.flows.api import moment
from tests.flows.stoa import Stoa, until
from tests.flows.traffic import Books, Client, Got
from workers.agent import kin

LEASE_S, LOST_AFTER_S = 20.0, 300.0  # as documented; STOA_TIME_SCALE scales them
PATIENCE_S = 60.0  # for whatever a busy machine delays
OVER = ("stopped", "failed")

Row = dict[str, Any]
Span = tuple[datetime, datetime]


class Partition:
    """Plays with the endpoint `hello` of an installation that runs at `scale`."""

    def __init__(self, stoa: Stoa, scale: float, say: Callable[[str], None]) -> None:
        self.stoa, self.say = stoa, say
        self.lease_s, self.lost_after_s = LEASE_S * scale, LOST_AFTER_S * scale
        self.endpoint_id: str = stoa.api.endpoint("hello")["id"]
        self.client = Client(stoa.run["gateway_url"], stoa.run["api_key"])
        self.silences: list[Span] = []
        self.twins: Counter[str] = Counter()  # replicas that were seen with two engines

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.http.close()

    # --- what is there -----------------------------------------------------------------

    def transitions(self) -> list[Row]:
        """Of the endpoint, oldest first."""
        path = f"/endpoints/{self.endpoint_id}/transitions"
        return list(self.stoa.api.pages(path, limit="100"))[::-1]

    def live(self) -> list[Row]:
        rows = self.stoa.api.replicas(self.endpoint_id)
        return [row for row in rows if row["state"] not in OVER]

    def await_ready(self) -> str:
        """The replica that serves; it is the only one, and its engine the only one."""

        def look() -> str:
            live = self.live()
            settled = [row["state"] for row in live] == ["ready"]
            return live[0]["id"] if settled and self.engines() == [live[0]["id"]] else ""

        return until(look, within_s=2 * PATIENCE_S, what="one replica serves, on one engine")

    def await_arrival(self, replica_id: str, state: str, since: datetime, within_s: float) -> Row:
        """The transition with which the replica got there, no earlier than `since`."""

        def look() -> Row | None:
            for row in self.transitions():
                if (row["replica"], row["to_state"]) == (replica_id, state) and (
                    moment(row["at"]) >= since
                ):
                    return row
            return None

        found = until(look, within_s=within_s, every_s=0.2, what=f"{replica_id} is {state}")
        assert found is not None
        return found

    def engines(self) -> list[str]:
        found = self.stoa.engines()
        self.twins.update(id for id, count in Counter(found).items() if count > 1)
        return found

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Count the engines of each replica all the while."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.3):
                self.engines()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    # --- silences ----------------------------------------------------------------------

    @contextmanager
    def silence(self) -> Iterator[datetime]:
        """The agent is stopped, as if its network were gone; its engines run on."""
        pid = self.stoa.pid_of("agent")
        since = datetime.now(UTC)
        os.kill(pid, signal.SIGSTOP)
        self.silences.append((since, datetime.max.replace(tzinfo=UTC)))
        try:
            with self._watched():
                yield since
        finally:
            self.silences[-1] = (since, datetime.now(UTC))
            os.kill(pid, signal.SIGCONT)

    def linger(self, seconds: float) -> None:
        """Let so much time pass."""
        threading.Event().wait(seconds)

    def await_unreachable(self, replica_id: str, since: datetime) -> tuple[datetime, float]:
        """Within a silence: since when the replica is unreachable, and how long it took."""
        row = self.await_arrival(
            replica_id, "unreachable", since, self.lease_s + 0.2 * self.lost_after_s + PATIENCE_S
        )
        assert row["reason"] == "node_unreachable"
        at = moment(row["at"])
        took_s = (at - since).total_seconds()
        self.say(f"unreachable after {took_s:.1f} s; the lease is {self.lease_s:g} s")
        return at, took_s

    def refused(self) -> Got:
        """What a client gets that does not want to wait, once the gateway has heard of it."""

        def look() -> Got | None:
            got = self.client.ask("hello", wait_s=0)
            return got if got.status >= 400 else None

        found = until(look, within_s=10, what="the gateway routes there no more")
        assert found is not None
        return found

    def held(self) -> "Held":
        """A client that waits; its answer comes when somebody serves again."""
        return Held(lambda: self.client.ask("hello"))

    def await_lost(self, replica_id: str, since: datetime) -> float:
        """Within a silence: how long after its lease the replica was given up."""
        within_s = self.lease_s + self.lost_after_s + PATIENCE_S
        row = self.await_arrival(replica_id, "failed", since, within_s)
        assert row["reason"] == "node_lost"
        lost_s = (moment(row["at"]) - since).total_seconds() - self.lease_s
        self.say(f"given up {lost_s:.1f} s after its lease; the grace is {self.lost_after_s:g} s")
        return lost_s

    @contextmanager
    def stopped_database(self) -> Iterator[None]:
        """Every process of PostgreSQL is stopped: connections stay open, nothing answers."""
        postmaster = self.stoa.pid_of("postgres")
        os.kill(postmaster, signal.SIGSTOP)
        pids = [each.pid for each in kin.everybody() if each.parent == postmaster]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in [*pids, postmaster]:
                os.kill(pid, signal.SIGCONT)

    def serve_without_database(self, pause_s: float) -> list[Got]:
        """A stream over the pause, and requests that begin in it: all that clients got."""
        stream = self.client.stream("hello", tokens=1900)
        stream.read(20)
        gots = [stream.got]
        with self.stopped_database():
            until_s = time.monotonic() + pause_s
            while time.monotonic() < until_s:
                if stream.over:
                    stream = self.client.stream("hello", tokens=1900)
                    gots.append(stream.got)
                stream.read(50)
                gots.append(self.client.ask("hello"))
        stream.read()
        self.say(f"{len(gots)} requests were served while the database did not answer")
        return gots

    # --- the books ---------------------------------------------------------------------

    def await_booked(self, gots: list[Got]) -> None:
        """Each of these is booked, with what its client got: no less, no more."""

        def booked() -> bool:
            books = Books.of(self.stoa.api, self.endpoint_id)
            return all(got.request_id in books.tokens for got in gots)

        until(booked, every_s=0.5, what="all that was served is booked")
        books = Books.of(self.stoa.api, self.endpoint_id)
        wrong = [got for got in gots if books.lacks(got) or books.exceeds(got)]
        assert not wrong, wrong

    def books(self) -> Books:
        return Books.of(self.stoa.api, self.endpoint_id)

    def reachable_s(self) -> dict[str, float]:
        """By replica: how long it was ready while its node could be heard."""
        now, spans = datetime.now(UTC), dict[str, list[Span]]()
        since: dict[str, datetime] = {}
        for row in self.transitions():
            id, at = row["replica"], moment(row["at"])
            if row["to_state"] == "ready":
                since[id] = at
            elif id in since:
                spans.setdefault(id, []).append((since.pop(id), at))
        for id, at in since.items():
            spans.setdefault(id, []).append((at, now))
        return {id: sum(map(self._heard_s, mine)) for id, mine in spans.items()}

    def _heard_s(self, span: Span) -> float:
        quiet = timedelta()
        for since, to in self.silences:
            quiet += max(timedelta(), min(span[1], to) - max(span[0], since))
        return (span[1] - span[0] - quiet).total_seconds()

    def overbilled_s(self) -> float:
        """Seconds that were billed beyond what was reachable; of all replicas together."""
        billed, reachable = self.books().seconds, self.reachable_s()
        return sum(max(0.0, count - reachable.get(id, 0.0)) for id, count in billed.items())

    def await_billed(self, replica_id: str) -> int:
        """Its seconds once they are all booked: its interval is closed, so none is missing.

        Once its node was heard again: before, nobody could prove its last minute.
        """
        reachable_s = self.reachable_s()[replica_id]
        stretches = sum(
            (row["replica"], row["to_state"]) == (replica_id, "ready") for row in self.transitions()
        )
        # Of each stretch: what lay between the last report and the silence, and a begun second.
        least = reachable_s - stretches * (self.lease_s + 1)
        return until(
            lambda: count if (count := self.books().charged[replica_id]) >= max(1, least) else 0,
            every_s=0.5,
            what=f"{reachable_s:.1f} s of {replica_id} are billed",
        )


class Held:
    """A request on a thread."""

    def __init__(self, ask: Callable[[], Got]) -> None:
        self._got: list[Got] = []
        self._thread = threading.Thread(target=lambda: self._got.append(ask()))
        self._thread.start()

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def got(self) -> Got:
        self._thread.join(PATIENCE_S)
        assert self._got, "it got no answer"
        return self._got[0]
