"""Who may go to an engine now, and who waits: for room, or for an endpoint that wakes.

An engine that has more in flight than its KV cache holds throws running requests out and computes
them again. So what would not fit waits here, in one fair queue an endpoint; at zero replicas
nothing fits, and the same queue is what wakes it. A queue moves when a request ends, when the
directory changes, and when its first is out of patience. What another worker of this host ends
makes room too: so while somebody waits for room, it is looked for every few milliseconds.
"""

import asyncio
import logging
import math
from collections.abc import Collection, Sequence
from typing import Protocol

from gateway import errors
from gateway.activity import Activity
from gateway.directory import Endpoint, Key, Replica
from gateway.errors import ApiError
from gateway.fairness import FairQueue
from gateway.hold import Wakes
from gateway.keeper import Keeper
from gateway.limits import Limits
from gateway.loads import Loads, Place
from gateway.order import Order, anybody
from gateway.pools import Pools
from gateway.table import Table
from gateway.usage import Usage

log = logging.getLogger(__name__)

_KEPT = 10_000  # endpoints
_BATCH = 32  # admitted in one turn of the event loop
_OUTPUT_COST = 4.0  # of a generated token, in tokens of prompt
_LOOK_S = 0.003  # between two looks for room, …
_LOOK_MAX_S = 0.02  # … of which many queues have fewer
_LOOKED_AT = 16  # queues


def _cost(prompt: int, output: int) -> float:
    return prompt + _OUTPUT_COST * output


class Waiter(Protocol):
    """A request in the queue. Exactly one of `admitted`, `turned_away` and `broken` ends its
    wait."""

    def take_place(self, endpoint: Endpoint, replicas: Sequence[Replica]) -> bool:
        """Each of these had room a moment ago: take it on one. False if others were faster.

        Raises ApiError: then it is turned away."""

    def admitted(self, endpoint: Endpoint) -> None:
        """It has its place."""

    def still_waiting(self) -> None: ...
    def turned_away(self, error: ApiError) -> None: ...
    def broken(self) -> None: ...


class Ticket:
    """A place in a queue; `leave` gives it up, at any time and as often as one likes."""

    __slots__ = (
        "avoid", "held_bytes", "line", "name", "place", "priority", "project", "quiet_s", "since",
        "timer", "until", "waiter",
    )  # fmt: skip

    def __init__(
        self,
        waiter: Waiter,
        key: Key,
        place: Place,
        name: str,
        *,
        held_bytes: int,
        avoid: Collection[str],
        patience_s: float,
        quiet_s: float | None,
    ) -> None:
        """`avoid` are replicas that will not do; `quiet_s` is how often a stream hears of us."""
        now = asyncio.get_running_loop().time()
        self.waiter = waiter
        self.project = key.project_id
        self.priority = key.priority
        self.place = place
        self.name = name
        self.held_bytes = held_bytes
        self.avoid = avoid
        self.since = now
        self.until = now + patience_s
        self.quiet_s = quiet_s
        self.timer: asyncio.TimerHandle | None = None
        self.line: _Line | None = None

    def leave(self) -> None:
        if self.line is not None:
            self.line.admission.remove(self)


class _Line:
    """The queue of one endpoint."""

    __slots__ = (
        "admission",
        "asleep",
        "endpoint_id",
        "gap_s",
        "handle",
        "last_at",
        "order",
        "queue",
        "told",
    )

    def __init__(
        self, admission: "Admission", endpoint_id: str, aging_s: float, order: Order
    ) -> None:
        self.admission = admission
        self.endpoint_id = endpoint_id
        self.order = order
        self.queue: FairQueue[Ticket] = FairQueue(aging_s, order)
        self.asleep = False
        self.told = 0  # how many the control plane knows to wait for a replica
        self.handle: asyncio.Handle | None = None  # a look at it is due
        self.gap_s = 1.0  # between two that were admitted, of late
        self.last_at = 0.0


class Admission:
    """One worker's. `table` is what the workers of this host share."""

    def __init__(
        self, keeper: Keeper, activity: Activity, pools: Pools, limits: Limits, table: Table
    ) -> None:
        self._time = asyncio.get_running_loop().time
        self.loads = Loads(table, self._time)
        self.wakes = Wakes(activity)
        self._keeper = keeper
        self._pools = pools
        self._table = table
        self._words, self._anybody = table.words, anybody(table)
        self._activity = activity
        self._limits = limits
        self._lines: dict[str, _Line] = {}  # those with somebody in them
        self._held_bytes = 0
        self._orders: dict[str, Order] = {}  # by endpoint
        self._watch: asyncio.Task[None] | None = None
        self._round: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return sum(len(line.queue) for line in self._lines.values())

    def places(self, endpoint_id: str) -> list[Place]:
        """What those ask for who wait for the endpoint here."""
        line = self._lines.get(endpoint_id)
        return [ticket.place for ticket in line.queue] if line is not None else []

    def crowded(self, endpoint: Endpoint) -> bool:
        """Whether somebody waits for it, so that one who comes now would wait as well."""
        return self._order(endpoint.id).length > 0

    def waiting_for(self, endpoint_id: str) -> int:
        """How many wait for it, at all workers of this host."""
        return self._order(endpoint_id).length if self._words[self._anybody] else 0

    def _order(self, endpoint_id: str) -> Order:
        order = self._orders.get(endpoint_id)
        if order is None:
            if len(self._orders) >= _KEPT:
                self._orders = {line.endpoint_id: line.order for line in self._lines.values()}
            order = Order(self._table, endpoint_id, self._limits.aging_s, self._time)
            self._orders[endpoint_id] = order
        return order

    # --- in and out -----------------------------------------------------------------------
    def open(self, endpoint: Endpoint, place: Place) -> Sequence[Replica]:
        """The replicas that may be taken at once: none while others wait for the endpoint, at
        whatever worker."""
        if self._words[self._anybody] and self._order(endpoint.id).length:
            return ()
        return self.roomy(endpoint, place, ())

    def give(self, endpoint_id: str, place: Place) -> None:
        """The request has ended there; whoever waits may move up."""
        self.loads.give(place)
        if self._lines:
            self._kick(endpoint_id)

    def served(self, endpoint_id: str, project: str, place: Place, used: Usage) -> None:
        """What it was in the end is what its project was served."""
        if self._words[self._anybody] and (order := self._order(endpoint_id)).length:
            cost = _cost(used.input - used.cached, used.output)
            order.charge(project, cost - place.charged)

    def correct(self, endpoint_id: str, place: Place, used: Usage) -> None:
        """What the engine has reported so far of a request that runs."""
        if self.loads.correct(place, used.input, used.output) and self._lines:
            self._kick(endpoint_id)

    def join(self, ticket: Ticket, endpoint: Endpoint) -> None:
        """Wait for room. Raises 503 where nobody may, or the client will not."""
        replicas = [one for one in endpoint.replicas if one.id not in ticket.avoid]
        if ticket.avoid and endpoint.replicas and not replicas:
            raise errors.engine_unavailable(ticket.name)
        if not endpoint.replicas:
            self.wakes.begun(endpoint)
        if ticket.until <= ticket.since:
            if not endpoint.replicas:
                self.wakes.knock(endpoint)
            raise self._full(endpoint, ticket)
        line, order = self._lines.get(endpoint.id), self._order(endpoint.id)
        if self._held_bytes + ticket.held_bytes > self._limits.held_bytes:
            raise self._full(endpoint, ticket)
        limit = endpoint.queue_limit
        if order.length >= (self._limits.held_per_endpoint if limit is None else limit):
            self._make_way(line, endpoint, ticket)
            line = self._lines.get(endpoint.id)  # it may have been the only one here
        if line is None:
            line = _Line(self, endpoint.id, self._limits.aging_s, order)
            line.last_at = ticket.since
        line.queue.push(ticket)
        self._lines[endpoint.id] = line
        ticket.line = line
        line.asleep = not endpoint.replicas
        self._held_bytes += ticket.held_bytes
        self._arm(ticket)
        self._tell(line)
        if order.length > 1 and line.queue.first(ticket.since) is ticket:
            self._kick(endpoint.id)  # whom it overtakes may be larger
        self._look_soon()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._follow())

    def remove(self, ticket: Ticket) -> None:
        line, ticket.line = ticket.line, None
        if line is None:
            return
        if ticket.timer is not None:
            ticket.timer.cancel()
        self._held_bytes -= ticket.held_bytes
        line.queue.remove(ticket)
        self._tell(line)
        if line.queue:
            self._kick(line.endpoint_id)  # it may have been the one that did not fit
        else:
            self._close(line)

    def _close(self, line: _Line) -> None:
        if line.handle is not None:
            line.handle.cancel()
        self._lines.pop(line.endpoint_id, None)
        if not self._lines and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _make_way(self, line: _Line | None, endpoint: Endpoint, ticket: Ticket) -> None:
        """A full queue is shared: who has fewest in it takes the place of who has most."""
        if line is None:
            raise self._full(endpoint, ticket)
        last = line.queue.newest_of_longest()
        if line.order.waiting(last.project) <= line.order.waiting(ticket.project) + 1:
            raise self._full(endpoint, ticket)
        self._turn_away(last, self._full(endpoint, last))

    # --- whose turn it is -------------------------------------------------------------------
    def _kick(self, endpoint_id: str) -> None:
        line = self._lines.get(endpoint_id)
        if line is not None and line.handle is None:
            line.handle = asyncio.get_running_loop().call_soon(self._move, line)

    def _move(self, line: _Line) -> None:
        """Admit whose turn it is, as many as fit; whoever is first and does not fit holds up
        the others, or it would wait for ever."""
        line.handle = None
        now = self._time()
        for _ in range(_BATCH):
            head = line.queue.head(now)
            if head is None:
                return
            ticket = head.item
            endpoint = self._standing(line, ticket)
            if endpoint is None:
                continue
            roomy = self.loads.roomy(endpoint.replicas, ticket.place, ticket.avoid)
            replicas = self._admitting(endpoint, roomy, ticket.avoid)
            if not replicas:
                if ticket.avoid and not self._pools.of(endpoint).usable(now, ticket.avoid):
                    self._turn_away(ticket, errors.engine_unavailable(ticket.name))
                    continue
                if roomy or not endpoint.replicas:
                    line.order.step_aside()
                    return
            if not line.order.ours(head, now) or not replicas:
                return
            if not self._admit(line, ticket, endpoint, replicas, now):
                return
        if line.queue:
            self._kick(line.endpoint_id)

    def _admit(
        self, line: _Line, ticket: Ticket, endpoint: Endpoint, replicas: Sequence[Replica],
        now: float,
    ) -> bool:  # fmt: skip
        """False when it lost the room to another worker's request: it waits on."""
        place, waiter = ticket.place, ticket.waiter
        try:
            if not waiter.take_place(endpoint, replicas):
                return False
            place.charged = _cost(place.prompt, place.output * place.sequences)
            line.queue.charge(ticket.project, place.charged)
            line.gap_s += (min(60.0, max(0.0, now - line.last_at)) - line.gap_s) / 8
            line.last_at = now
            self.remove(ticket)
            waiter.admitted(endpoint)
        except ApiError as error:
            self._turn_away(ticket, error)
        except Exception:
            log.exception("a request that had waited failed")
            self.remove(ticket)
            waiter.broken()
        return True

    def roomy(self, endpoint: Endpoint, place: Place, avoid: Collection[str]) -> Sequence[Replica]:
        """Its replicas that have room, but for some; whoever waits notwithstanding."""
        roomy = self.loads.roomy(endpoint.replicas, place, avoid)
        return self._admitting(endpoint, roomy, avoid)

    def _admitting(
        self, endpoint: Endpoint, roomy: Sequence[Replica], avoid: Collection[str]
    ) -> Sequence[Replica]:
        if roomy and (shut := self._pools.of(endpoint).shut(self._time(), probing=not avoid)):
            return [one for one in roomy if one.id not in shut]
        return roomy

    def _standing(self, line: _Line, ticket: Ticket) -> Endpoint | None:
        """The endpoint as it is now; None, and the ticket turned away, when it is gone."""
        endpoint = self._keeper.current.endpoint(ticket.project, line.endpoint_id)
        if endpoint is None:
            self._turn_away(ticket, errors.model_not_found(ticket.name))
        elif endpoint.stopped:
            self._turn_away(ticket, errors.endpoint_stopped(ticket.name))
        else:
            return endpoint
        return None

    def _turn_away(self, ticket: Ticket, error: ApiError) -> None:
        self.remove(ticket)
        ticket.waiter.turned_away(error)

    # --- what happens meanwhile ---------------------------------------------------------------
    async def _follow(self) -> None:
        """Nothing is awaited between a look at the directory and the wait for the next one, so
        no change can slip through."""
        while True:
            for line in list(self._lines.values()):
                self._look(line)
            await self._keeper.changed()

    def _look(self, line: _Line) -> None:
        for ticket in line.queue:
            if ticket.line is not None and (endpoint := self._standing(line, ticket)) is not None:
                line.asleep = not endpoint.replicas
        if not line.asleep:
            self.wakes.awake(line.endpoint_id)
            self._look_soon()
        self._tell(line)
        self._kick(line.endpoint_id)

    def _look_soon(self) -> None:
        """Other workers end requests too, and do not tell."""
        if self._round is None:
            awake = sum(not line.asleep for line in self._lines.values())
            if awake:
                pause_s = min(_LOOK_MAX_S, _LOOK_S * (1 + awake / _LOOKED_AT))
                self._round = asyncio.get_running_loop().call_later(pause_s, self._look_round)

    def _look_round(self) -> None:
        self._round = None
        for line in self._lines.values():
            if not line.asleep:
                self._kick(line.endpoint_id)
        self._look_soon()

    def _tell(self, line: _Line) -> None:
        """What the control plane should know: somebody waits for the endpoint to have a replica."""
        waiting = len(line.queue) if line.asleep else 0
        change, line.told = waiting - line.told, waiting
        if change:
            self._activity.waiting(line.endpoint_id, change)
        elif not line.asleep and line.queue:
            self._activity.pressed(line.endpoint_id)

    def _arm(self, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        left = ticket.until - loop.time()
        wait_s = left if ticket.quiet_s is None else min(left, ticket.quiet_s)
        ticket.timer = loop.call_later(max(0.0, wait_s), self._rung, ticket)

    def _rung(self, ticket: Ticket) -> None:
        line = ticket.line
        if line is None:
            return
        if asyncio.get_running_loop().time() < ticket.until - 0.001:
            ticket.waiter.still_waiting()
            self._arm(ticket)
        elif (endpoint := self._standing(line, ticket)) is not None:
            self._turn_away(ticket, self._full(endpoint, ticket))

    def _full(self, endpoint: Endpoint, ticket: Ticket) -> ApiError:
        """503: when to come back is known from the endpoint's starts, or from its queue's pace."""
        if not endpoint.replicas:
            return errors.endpoint_starting(ticket.name, self.wakes.retry_after(endpoint))
        line = self._lines.get(endpoint.id)
        ahead = line.gap_s * len(line.queue) if line is not None else 0.0  # the paces add up
        return errors.engine_overloaded(ticket.name, min(600, max(1, math.ceil(ahead))))
