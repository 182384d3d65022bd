"""Hosts that are cut off, die, or lose sight of each other, under traffic; and the books of it.

An endpoint of two replicas on three nodes, and a client that tries again as OpenAI's SDK does.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import openai

from tests.flows.api import moment
from tests.flows.stoa import until
from tests.flows.traffic import Books
from tests.lab.site import Node, Site

LEASE_S, LOST_AFTER_S = 20.0, 300.0  # as documented; STOA_TIME_SCALE scales them
SHORT_CUT_S, LONG_CUT_S, APART_S = 30.0, 600.0, 60.0
PATIENCE_S = 120.0  # for whatever a busy machine delays
CLIENTS = 3
TOKENS = 4
MINUTE_S = 60.0  # a node's journal is cut and sent at least so often
METERED_S = 3.0  # a meter's round or two: what is billed too much would show by then
OVER = ("stopped", "failed")

Row = dict[str, Any]
Span = tuple[datetime, datetime]
FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass
class Answer:
    request_id: str
    replica: str
    input_tokens: int
    output_tokens: int
    seconds: float


class Traffic:
    """Clients that ask without a pause, from `with` to its end."""

    def __init__(self, sdk: openai.OpenAI, model: str, prompt: str) -> None:
        self._sdk, self._model, self._prompt = sdk, model, prompt
        self.answers: list[Answer] = []
        self.failures: list[Exception] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            try:
                self.answers.append(self._ask())
            except openai.OpenAIError as error:  # after it has tried again
                self.failures.append(error)

    def _ask(self) -> Answer:
        began = time.monotonic()
        raw = self._sdk.completions.with_raw_response.create(
            model=self._model,
            prompt=self._prompt,
            max_tokens=TOKENS,
            extra_body={"ignore_eos": True},
        )
        usage = raw.parse().usage
        assert usage is not None
        return Answer(
            raw.headers["x-request-id"],
            raw.headers["x-stoa-replica"],
            usage.prompt_tokens,
            usage.completion_tokens,
            time.monotonic() - began,
        )

    def served_by(self, since: int) -> set[str]:
        """Who has answered, of the answers from that number on."""
        return {answer.replica for answer in self.answers[since:]}


@dataclass
class Play:
    """What happens to an endpoint of a site that runs at `scale`."""

    site: Site
    endpoint_id: str
    scale: float
    say: Callable[[str], None]
    traffic: Traffic
    silences: dict[str, list[Span]] = field(default_factory=dict)  # by node id
    twins: Counter[str] = field(default_factory=Counter)  # replicas seen with two engines

    # --- what is there -----------------------------------------------------------------

    def live(self) -> list[Row]:
        rows = self.site.api.replicas(self.endpoint_id)
        return [row for row in rows if row["state"] not in OVER]

    def transitions(self) -> list[Row]:
        """Of the endpoint, oldest first."""
        path = f"/endpoints/{self.endpoint_id}/transitions"
        return list(self.site.api.pages(path, limit="100"))[::-1]

    def node(self, replica: Row) -> Node:
        return next(node for node in self.site.nodes.values() if node.id == replica["node"])

    def await_two(self) -> list[Row]:
        """The two replicas, once both are ready and no other engine is left where we can see."""

        def look() -> list[Row] | None:
            live = self.live()
            ready = [row["state"] for row in live] == ["ready", "ready"]
            return live if ready and self.orphans() == [] else None

        found = until(look, within_s=300, every_s=0.2, what="two replicas serve, and none besides")
        assert found is not None
        return found

    def await_state(self, replica_id: str, state: str, since: datetime, within_s: float) -> Row:
        def look() -> Row | None:
            for row in self.transitions():
                if (row["replica"], row["to_state"]) == (replica_id, state) and (
                    moment(row["at"]) >= since
                ):
                    return row
            return None

        limit_s = within_s + PATIENCE_S
        found = until(look, within_s=limit_s, every_s=0.2, what=f"{replica_id} is {state}")
        assert found is not None
        self.say(
            f"{replica_id} is {state} after {(moment(found['at']) - since).total_seconds():.1f} s"
        )
        return found

    def orphans(self) -> list[str]:
        """Engines of hosts that are up and of no live replica."""
        return sorted(set(self.site.engines()) - {row["id"] for row in self.live()})

    def await_traffic(self, what: str, *, without: str = "", count: int = 3 * CLIENTS) -> None:
        """So many more requests are answered, none of them by `without`."""
        since = len(self.traffic.answers)
        until(lambda: len(self.traffic.answers) >= since + count, within_s=PATIENCE_S, what=what)
        # Who asked before may still have been answered by it.
        assert without not in self.traffic.served_by(since + CLIENTS)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the engines of each replica all the while."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.3):
                found = Counter(self.site.engines())
                self.twins.update(id for id, count in found.items() if count > 1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    # --- what happens ------------------------------------------------------------------

    @contextmanager
    def silence(self, node: Node) -> Iterator[datetime]:
        """Nothing gets to the host or from it; what runs there runs on."""
        since = datetime.now(UTC)
        spans = self.silences.setdefault(node.id, [])
        spans.append((since, FOR_EVER))
        self.site.net.cut(node.host)
        try:
            yield since
        finally:
            self.site.net.heal(node.host)
            spans[-1] = (since, datetime.now(UTC))

    def linger(self, since: datetime, seconds: float) -> None:
        """Let it last so long in all."""
        rest = since + timedelta(seconds=seconds) - datetime.now(UTC)
        threading.Event().wait(max(0.0, rest.total_seconds()))

    def short_cut(self) -> None:
        """Half a minute: the replica is out of sight, and then the same one again."""
        replica = self.await_two()[0]
        with self.silence(self.node(replica)) as since:
            self.await_state(replica["id"], "unreachable", since, LEASE_S * self.scale)
            self.await_traffic("the other serves", without=replica["id"])
            self.linger(since, SHORT_CUT_S * self.scale)
        adopted = self.await_state(replica["id"], "ready", since, 30)
        assert adopted["reason"] == "adopted"

    def long_cut_and_a_death(self) -> None:
        """Ten minutes: another takes its place; meanwhile a third host dies, which the first
        replaces when it is back."""
        first, second = self.await_two()
        with self.silence(self.node(first)) as since:
            grace_s = (LEASE_S + LOST_AFTER_S) * self.scale
            lost = self.await_state(first["id"], "failed", since, grace_s)
            assert lost["reason"] == "node_lost"
            until(lambda: self._third(first, second), within_s=300, what="a third one serves")
            self.await_traffic("it and the second serve", without=first["id"])
            assert first["id"] in self.node(first).engines()  # it does not know yet
            victim = self.node(second)
            self.silences.setdefault(victim.id, []).append((datetime.now(UTC), FOR_EVER))
            victim.host.kill()
            died = datetime.now(UTC)
            self.say(f"{victim.host.name} is dead")
            self.await_state(second["id"], "unreachable", died, LEASE_S * self.scale)
            self.await_traffic("the third serves alone", without=second["id"])
            self.linger(since, LONG_CUT_S * self.scale)
        self.await_state(second["id"], "failed", died, grace_s)
        self.await_two()
        self.await_traffic("two serve again")

    def _third(self, *others: Row) -> bool:
        known = {row["id"] for row in others}
        return any(row["state"] == "ready" and row["id"] not in known for row in self.live())

    def gateway_apart(self) -> None:
        """The gateway serves on from what it knows, and its books arrive afterwards."""
        net, here, there = self.site.net, self.site.gateway, self.site.controlplane
        ready = {row["id"] for row in self.await_two()}
        since, before = datetime.now(UTC), len(self.traffic.answers)
        net.cut(here, there)
        try:
            self.linger(since, APART_S * self.scale)
            self.await_traffic("the gateway serves on")
        finally:
            net.heal(here, there)
        self.say(f"{len(self.traffic.answers) - before} answers while it was apart")
        assert {row["id"] for row in self.await_two()} == ready

    # --- the books ---------------------------------------------------------------------

    def close(self) -> Books:
        """No more traffic, no more endpoint; then each answer is booked with what its client got,
        no less, no more, and so are the seconds of every replica."""
        self.traffic.end()
        self.site.api.post(f"/endpoints/{self.endpoint_id}/stop")
        until(lambda: self.live() == [], within_s=PATIENCE_S, what="no replica is left")
        answers = self.traffic.answers
        # What lay between a host's last report and its silence is not billed, nor a begun second;
        # of a dead one nor the minute that its journal could not prove any more.
        dead = self.on_the_dead()
        least = {
            id: s / 2 - 2 * LEASE_S * self.scale - 2 - (MINUTE_S if id in dead else 0)
            for id, s in self.ready_s().items()
        }

        def booked() -> Books | None:
            books = Books.of(self.site.api, self.endpoint_id)
            whole = all(one.request_id in books.tokens for one in answers)
            return (
                books if whole and all(books.seconds[id] >= s for id, s in least.items()) else None
            )

        until(booked, within_s=PATIENCE_S, every_s=1.0, what=f"booked: {least}")
        threading.Event().wait(METERED_S)
        books = Books.of(self.site.api, self.endpoint_id)
        for one in answers:
            found = books.tokens[one.request_id]
            paid_in = found["input_tokens"] + found["cached_tokens"]
            assert (paid_in, found["output_tokens"]) == (one.input_tokens, one.output_tokens), one
        return books

    def on_the_dead(self) -> set[str]:
        """Replicas of hosts that will not be heard again."""
        gone = {node for node, some in self.silences.items() if FOR_EVER in (s[1] for s in some)}
        return {r["id"] for r in self.site.api.replicas(self.endpoint_id) if r["node"] in gone}

    def ready_s(self) -> dict[str, float]:
        """By replica that was ever ready: for how long, while its host could be heard."""
        ready = {row["replica"] for row in self.transitions() if row["to_state"] == "ready"}
        return {id: self.reachable_s(id) for id in ready}

    def double_billed_s(self, books: Books) -> float:
        """Seconds billed beyond those in which a replica was ready and its host could be heard."""
        return sum(max(0.0, s - self.reachable_s(id)) for id, s in books.seconds.items())

    def reachable_s(self, replica_id: str) -> float:
        nodes = {r["id"]: r["node"] for r in self.site.api.replicas(self.endpoint_id)}
        quiet = self.silences.get(nodes[replica_id], [])
        total, since = 0.0, None
        for row in self.transitions():
            if row["replica"] != replica_id:
                continue
            at = moment(row["at"])
            if row["to_state"] == "ready":
                since = at
            elif since is not None:
                total, since = total + _heard_s((since, at), quiet), None
        if since is not None:
            total += _heard_s((since, datetime.now(UTC)), quiet)
        return total


def _heard_s(span: Span, silences: list[Span]) -> float:
    quiet = timedelta()
    for since, to in silences:
        quiet += max(timedelta(), min(span[1], to) - max(span[0], since))
    return (span[1] - span[0] - quiet).total_seconds()


@contextmanager
def play(
    site: Site, scale: float, say: Callable[[str], None], model: str = "", prompt: str = "one two"
) -> Iterator[Play]:
    """Three nodes, an endpoint `books` of two replicas, and traffic. `model`: a real one for
    vLLM; empty: engines that count words."""
    for number in range(3):
        site.node(f"node{number}", fake=not model)
    site.await_nodes()
    wish = {
        "project": site.run["project"],
        "name": "books",
        "model": model or "org/words",
        "device_kind": "cpu",
        "engine_args": {"max_model_len": 2048},
        "min_replicas": 2,
        "max_replicas": 2,
    }
    endpoint = site.api.post("/endpoints", wish)
    with site.client(timeout=120) as sdk:
        made = Play(site, endpoint["id"], scale, say, Traffic(sdk, "books", prompt))
        made.await_two()
        routed = lambda: "books" in {one.id for one in sdk.models.list()}  # noqa: E731
        until(routed, within_s=PATIENCE_S, what="it is routed")
        say("two replicas serve")
        with made.traffic, made.watched():
            yield made
