"""Keeps as many lines under way as go through, and gives up nothing when it is killed.

Three things go on beside each other: lines are claimed and sent by threads; batches as a whole are
tended (validated, ended, their files written, each a short way at a time); and a beat renews the
leases of what is under way.
A runner that cannot renew them ends itself before they are over, so that a line never runs twice
at the same time.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import httpx
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from controlplane.batches import finishing, forecasting, lines
from controlplane.batches.catalog import Catalog
from controlplane.batches.lines import Stream
from controlplane.batches.models import Batch, Line
from controlplane.endpoints import services as endpoints
from workers.batching import sending, verdicts
from workers.batching.pace import Pace
from workers.batching.sending import Letter, Lost, NotSent, Reply
from workers.batching.verdicts import Fate

log = logging.getLogger(__name__)

_LOOK_S = 0.5  # for lines that wait
_TEND_S = 0.5
_IDLE_S = 1.0  # the same where no batch is under way
_AT_ONCE = 4  # lines of a stream, before it is another's turn
_UNKNOWN_S = 5.0  # until then the books have what became of a line
_WAKE_EVERY_S = 5.0
_END_S = 10.0  # for what is under way to be answered, when the runner is told to stop
_FENCE = 0.7  # of a lease


class Runner:
    """`owner` is unique among all runners that ever were; `region` is the gateway's."""

    def __init__(
        self,
        owner: str,
        *,
        gateway_url: str,
        concurrency: int,
        lease_s: float,
        region: str = "",
        clock: Callable[[], datetime] = timezone.now,
    ) -> None:
        self.owner = owner
        self._lease_s = lease_s
        self._clock = clock
        self._most = concurrency
        self._region = region
        self._client = httpx.Client(
            base_url=gateway_url,
            timeout=httpx.Timeout(sending.ANSWER_S, connect=sending.CONNECT_S),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=False,
        )
        self._threads = ThreadPoolExecutor(concurrency, "line")
        self._lock = threading.Lock()
        self._running: dict[str, Stream] = {}  # by line
        self._paces: dict[tuple[str, str], Pace] = {}
        self._woken: dict[tuple[str, str], float] = {}
        self._busy = True  # a batch is under way
        self._sources = sending.Sources()
        self._turn = ""  # the project that a step was taken for last
        self._news = threading.Event()
        self._stop = threading.Event()

    # --- its life -------------------------------------------------------------------------
    def run(self) -> None:
        """Until `stop`."""
        others = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("beat", self._beat), ("tend", self._tend))
        ]
        for thread in others:
            thread.start()
        while not self._stop.is_set():
            try:
                if self._busy:
                    self._dispatch()
                else:
                    self._sources.keep(())
            except DatabaseError as error:
                log.warning("no lines are claimed: %s", type(error).__name__)
                self._stop.wait(_LOOK_S)
            finally:
                connection.close()
            self._news.wait(self._next_look_s())
            self._news.clear()
        self._finish()

    def stop(self) -> None:
        self._stop.set()
        self._news.set()

    def _finish(self) -> None:
        until = time.monotonic() + _END_S
        while self._running and time.monotonic() < until:
            self._news.wait(0.1)
            self._news.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _next_look_s(self) -> float:
        """Sooner where a stream's pause is over sooner."""
        now = time.monotonic()
        with self._lock:
            waits = [pace.wait_s(now) for pace in self._paces.values()]
        return min([_LOOK_S, *(wait for wait in waits if wait > 0)])

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self._lease_s / 5):
            try:
                with self._lock:
                    ids = list(self._running)
                lines.renew(self.owner, ids, now=self._clock(), lease_s=self._lease_s)
                renewed = time.monotonic()
            except DatabaseError as error:
                log.warning("leases are not renewed: %s", type(error).__name__)
            finally:
                connection.close()
            if time.monotonic() - renewed > self._lease_s * _FENCE:
                log.error("the leases are nearly over: what is under way is left to others")
                os._exit(70)

    def _tend(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            lost = steps = 0
            try:
                self._busy = finishing.under_way()
                if self._busy:
                    lost, steps = self._tend_once()
            except DatabaseError as error:
                log.warning("batches are not tended: %s", type(error).__name__)
            finally:
                connection.close()
            if lost or steps:
                self._news.set()
            wait_s = 0.0 if steps else _TEND_S if self._busy else _IDLE_S

    def _tend_once(self) -> tuple[int, int]:
        """Lines that were taken over, and steps of batches: of each project one in turn, while
        there is time. What is large comes again soon, and what else is to be tended waits for one
        step at most."""
        now, until = self._clock(), time.monotonic() + _TEND_S
        lost = lines.take_over(now)
        finishing.end_what_is_over(now)
        due, steps = finishing.due(), 0
        for project_id in sorted(due, key=lambda id: (id <= self._turn, id)):
            self._turn = project_id
            steps += any(finishing.attempt(id, self._clock()) for id in due[project_id])
            if time.monotonic() > until or self._stop.is_set():
                break
        forecasting.tend(self._clock())
        return lost, steps

    # --- claiming -------------------------------------------------------------------------
    def _dispatch(self) -> None:
        """Until all threads are busy, or no stream takes more."""
        found = lines.streams(self._clock(), self._region)
        self._forget(found)
        while found and self._free():
            busy = self._by_project()
            found.sort(key=lambda one: (busy[one.project_id], one.batch_id))
            found = [stream for stream in found if self._claim(stream)]

    def _free(self) -> int:
        return 0 if self._stop.is_set() else self._most - len(self._running)

    def _by_project(self) -> Counter[str]:
        with self._lock:
            return Counter(stream.project_id for stream in self._running.values())

    def _forget(self, found: list[Stream]) -> None:
        names = {(one.batch_id, one.model) for one in found}
        with self._lock:
            running = {one.batch_id for one in self._running.values()}
        self._sources.keep(running | {one.batch_id for one in found})
        with self._lock:
            for name, pace in list(self._paces.items()):
                if name not in names and not pace.in_flight:
                    del self._paces[name]
                    self._woken.pop(name, None)

    def _claim(self, stream: Stream) -> bool:
        """Some of its lines; False where there is nothing more to be had of it now."""
        name = stream.batch_id, stream.model
        with self._lock:
            pace = self._paces.setdefault(name, Pace(self._most))
            most = min(self._free(), pace.room(time.monotonic()), _AT_ONCE)
        if most < 1:
            return False
        claimed = lines.claim(
            stream, self.owner, now=self._clock(), lease_s=self._lease_s, most=most
        )
        with self._lock:
            for line in claimed:
                self._running[line.id] = stream
                pace.began()
        for line in claimed:
            self._threads.submit(self._serve, line, stream, pace)
        return len(claimed) == most

    # --- one line, on a thread -------------------------------------------------------------
    def _serve(self, line: Line, stream: Stream, pace: Pace) -> None:
        began_at = time.monotonic()
        wait_s: float | None = None
        refused = True
        try:
            refused, wait_s = self._run_line(line, stream)
        except Exception:  # its lease is over soon, and somebody takes it over
            log.exception("line %s was left", line.id)
        finally:
            connection.close()
            with self._lock:
                del self._running[line.id]
                if refused:
                    pace.refused(time.monotonic(), began_at, wait_s)
                else:
                    pace.answered()
            self._news.set()

    def _run_line(self, line: Line, stream: Stream) -> tuple[bool, float | None]:
        """Whether it was refused, and how long nothing more is to be sent."""
        try:
            letter = sending.prepare(line, self._sources)
            connection.close()  # an answer may take minutes
            reply = sending.send(letter, self._client)
        except NotSent as error:
            self._put_back(line, stream, error.code, known=True)
            return True, None
        except Lost:
            self._put_back(line, stream, "gateway_lost", known=False)
            return True, None
        return self._settle(letter, reply, stream)

    def _settle(self, letter: Letter, reply: Reply, stream: Stream) -> tuple[bool, float | None]:
        line = letter.line
        verdict = verdicts.judge(reply.status, reply.body, reply.retry_after)
        fate = verdict.fate
        if fate is Fate.FAULT and line.failures + 1 >= verdicts.FAULTS_MAX:
            fate = Fate.FAILED
        if fate in (Fate.DONE, Fate.FAILED):
            sealed = sending.result(letter, reply)
            lines.settle(
                line,
                self.owner,
                result=sealed,
                failed=fate is Fate.FAILED,
                now=self._clock(),
                tokens=sending.tokens(reply),
            )
            lines.waits(line.batch_id, "")
            return False, None
        if verdict.code == "endpoint_starting":
            self._wake(letter.batch, stream)
        fault = fate is Fate.FAULT
        self._put_back(line, stream, verdict.code, known=True, fault=fault)
        return True, verdict.wait_s

    def _put_back(
        self, line: Line, stream: Stream, code: str, *, known: bool, fault: bool = False
    ) -> None:
        wait_s = (2.0**line.failures if fault else 0.0) if known else _UNKNOWN_S
        not_before = self._clock() + timedelta(seconds=wait_s)
        lines.put_back(line, self.owner, not_before=not_before, fault=fault, known=known)
        lines.waits(stream.batch_id, code)

    def _wake(self, batch: Batch, stream: Stream) -> None:
        """A batch is to be done in its time, so it wakes what sleeps; it never asks for more."""
        name, now = (stream.batch_id, stream.model), time.monotonic()
        with self._lock:
            if now - self._woken.get(name, float("-inf")) < _WAKE_EVERY_S:
                return
            self._woken[name] = now
        endpoint_id = Catalog(batch.key).endpoint(stream.model)
        if endpoint_id is not None:
            endpoints.request_wake(endpoint_id, now=self._clock())
