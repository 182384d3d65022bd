"""A request's turn: its wait for a replica with room, its place there, and the end of both."""

import time
from collections.abc import Sequence
from typing import Protocol

from gateway import authentication, errors, guard, waiting
from gateway.admission import Ticket
from gateway.client import Client, Request
from gateway.context import Context
from gateway.directory import Endpoint, Key, Replica
from gateway.entry import Entry
from gateway.errors import ApiError
from gateway.request import Call
from gateway.router import Owner
from gateway.sizes import Size
from gateway.spare import LineKey
from gateway.usage import Usage
from gateway.way import Way


class Whose(Owner, Protocol):
    """The exchange. Of the first two, one follows each time it comes."""

    def go(self, replica: Replica) -> None:
        """It has its place there."""

    def turned_away(self, error: ApiError) -> None: ...
    def still_waiting(self) -> None: ...


class Turn:
    __slots__ = (
        "_adapter", "_began", "_call", "_client", "_context", "_engine_model", "_entry", "_need",
        "_request", "_ticket", "_way", "_whose", "key",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        client: Client,
        request: Request,
        key: Key,
        call: Call,
        engine_model: str,
        need: Size,
        entry: Entry,
        way: Way,
    ) -> None:
        self._context = context
        self._client = client
        self._request = request
        self.key = key
        self._call = call
        self._engine_model = engine_model
        self._adapter = engine_model != entry.endpoint.id
        self._need = need
        self._entry = entry
        self._way = way
        self._ticket: Ticket | None = None
        self._whose: Whose | None = None  # while it waits: no cycle may outlive a request
        self._began = 0.0

    def come(self, whose: Whose) -> None:
        """Now, if there is room and nobody waits before it."""
        endpoint, context, way = self._entry.endpoint, self._context, self._way
        if self._call.operation.generates:
            way.place = context.learning.of(endpoint.id).place(self._need)
        roomy = context.admission.open(endpoint, way.place)
        if self._adapter:
            try:
                roomy = self._having(endpoint, roomy)
            except ApiError as error:
                whose.turned_away(error)
                return
        self._go(whose, endpoint, roomy)

    def come_again(self, whose: Whose) -> None:
        """After a replica failed it, to one that it did not try. It has waited already."""
        found = self._way.onward()
        if found is None:
            whose.turned_away(errors.engine_unavailable(self._call.model))
            return
        self._entry.endpoint = found
        roomy = self._context.admission.roomy(found, self._way.place, self._way.tried)
        try:
            self._authenticate(found)
            if self._adapter:
                roomy = self._having(found, roomy)
        except ApiError as error:
            whose.turned_away(error)
            return
        self._context.metrics.retries += 1
        self._go(whose, found, roomy)

    def _go(self, whose: Whose, endpoint: Endpoint, roomy: Sequence[Replica]) -> None:
        replica: Replica | None = None
        if roomy:
            try:
                replica = self._way.to(endpoint, self._engine_model, roomy, whose)
            except ApiError as error:
                whose.turned_away(error)
                return
        if replica is not None:
            whose.go(replica)
        else:
            self._wait(whose)

    def _having(self, endpoint: Endpoint, replicas: Sequence[Replica]) -> Sequence[Replica]:
        """Those of `replicas` that have the adapter loaded. Raises ApiError where none of the
        endpoint's has it; while it has no replica at all, one may come that does."""
        name = self._engine_model
        able = [one for one in endpoint.replicas if name in one.adapters]
        if endpoint.replicas and not able:
            if all(name in one.failed_adapters for one in endpoint.replicas):
                raise errors.adapter_failed(self._call.model)
            raise errors.adapter_loading(self._call.model)
        if able and self._way.barred(endpoint).issuperset(one.id for one in able):
            raise errors.engine_unavailable(self._call.model)
        return [one for one in replicas if name in one.adapters]

    def _wait(self, whose: Whose) -> None:
        if type(self.key) is LineKey:
            whose.turned_away(errors.no_spare_capacity(self._call.model))
            return
        endpoint, limits = self._entry.endpoint, self._context.limits
        self._began = time.monotonic()
        ticket = Ticket(
            self,
            self.key,
            self._way.place,
            self._call.model,
            held_bytes=self._request.size,
            avoid=self._way.tried,
            patience_s=waiting.patience(self._request.headers, endpoint, limits),
            quiet_s=limits.hold_quiet_s if self._call.stream else None,
        )
        try:
            self._context.admission.join(ticket, endpoint)
        except ApiError as error:
            whose.turned_away(error)
            return
        self._ticket, self._whose = ticket, whose

    def _authenticate(self, endpoint: Endpoint) -> None:
        """Time has passed: the key must still be good. Raises ApiError."""
        self.key = authentication.again(
            self._context.keeper.current, self._request, time.time(), self._client,
            endpoint, self._engine_model,
        )  # fmt: skip

    def leave_queue(self) -> None:
        ticket = self._ticket
        if ticket is not None:
            ticket.leave()
            self._over()

    def _over(self) -> Whose:
        """The wait is."""
        whose, self._whose, self._ticket = self._whose, None, None
        assert whose is not None
        self._note_wait()
        return whose

    def _note_wait(self) -> None:
        timing = self._entry.timing
        took = time.monotonic() - self._began
        if timing.asked:
            return  # a retry's wait is the engines' doing
        if self._entry.endpoint.replicas:
            timing.queue += took
        else:
            timing.wake += took

    # --- from the queue -------------------------------------------------------------------
    def take_place(self, endpoint: Endpoint, replicas: Sequence[Replica]) -> bool:
        """Raises ApiError when all that it has are out."""
        assert self._whose is not None
        if self._adapter and not (replicas := self._having(endpoint, replicas)):
            return False
        return self._way.to(endpoint, self._engine_model, replicas, self._whose) is not None

    def admitted(self, endpoint: Endpoint) -> None:
        """It may have waited long: its key must still be good, and its prompt fit in there."""
        whose, entry, lane = self._over(), self._entry, self._way.lane
        assert lane is not None
        entry.endpoint = endpoint
        try:
            self._authenticate(endpoint)
            if not entry.opened_us:
                guard.check(self._call, endpoint.max_model_len, self._need)
        except ApiError as error:
            whose.turned_away(error)
            return
        whose.go(lane.replica)

    def still_waiting(self) -> None:
        if self._whose is not None:
            self._whose.still_waiting()

    def turned_away(self, error: ApiError) -> None:
        self._over().turned_away(error)

    def broken(self) -> None:
        self._client.abort()  # and so it settles

    # --- on a replica ---------------------------------------------------------------------
    def noted(self, used: Usage | None) -> None:
        """So much so far: what was guessed of it is known now."""
        if used is not None and used.input:
            self._context.admission.correct(self._entry.endpoint.id, self._way.place, used)

    def ended(self, used: Usage, *, counted: bool) -> None:
        """`counted`: it is complete, and its engine told what it was."""
        endpoint_id = self._entry.endpoint.id
        if counted and used.input:
            self._context.learning.of(endpoint_id).learn(self._need, used)
        self._context.admission.served(endpoint_id, self.key.project_id, self._way.place, used)
