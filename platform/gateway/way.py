"""The way of one request to a replica, and what a failure there means for it and the next ones."""

import asyncio
from collections.abc import Collection, Sequence

from gateway import arms, errors, guard, pools, prefixes, windows
from gateway.budgets import NO_RUN, Run
from gateway.context import Context
from gateway.directory import Endpoint, Key, Replica, Rollout
from gateway.errors import ApiError
from gateway.loads import Place
from gateway.outliers import LOST, REFUSED
from gateway.pools import Pool
from gateway.request import Call
from gateway.router import Lane, Owner, Ticket
from gateway.sizes import Size
from gateway.spare import LineKey
from gateway.usage import Usage

_BEFORE = ("tools", "system", "instructions")  # what engines read before a prompt, in this order
_BUSY = (429, 503)  # statuses by which an engine says that it has too much to do


class Way:
    """Holds at most one place in a replica's queue, and gives it back exactly once."""

    __slots__ = (
        "_call", "_context", "_endpoint", "_first", "_fresh", "_key", "_keys", "_loop", "_need",
        "_pool", "_run", "_size", "_ticket", "_visible", "lane", "place", "tried",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        key: Key,
        call: Call,
        endpoint: Endpoint,
        size: Size,
        run: Run = NO_RUN,
    ) -> None:
        self._context = context
        self._key = key
        self._call = call
        self._endpoint = endpoint
        self._loop = loop
        self._size = size
        self._run = run
        self._need: windows.Need | None = None  # of a window, where its endpoint has several
        self._pool: Pool | None = None
        self._ticket: Ticket | None = None
        self.lane: Lane | None = None  # where it is, or was last
        self.tried: tuple[str, ...] = ()
        self.place = Place(0, 0)  # what it takes there
        self._keys: list[int] = []
        self._fresh: bool | None = None  # whether it is a canary's; None: nobody asked
        self._first = 0.0  # when a stream's answer began
        # A whole answer comes when its last token does: its first byte tells little.
        self._visible = call.stream or not call.operation.generates

    def cannot_tell(self) -> None:
        """Its first byte comes when it comes: nothing follows from when."""
        self._visible = False

    def to(
        self, endpoint: Endpoint, engine_model: str, roomy: Sequence[Replica], owner: Owner
    ) -> Replica | None:
        """A place on the best of its replicas that have room; None if others took all of it.
        Raises ApiError when all that it has are out.

        `owner` is told when the replica falls silent."""
        self._endpoint = endpoint
        pool = self._pool = self._context.pools.of(endpoint)
        if (
            not self.tried
            and not self._keys
            and len(pool.lanes) > 1
            and self._call.size >= prefixes.BLOCK
        ):
            self._keys = self._prefix(engine_model)
        if endpoint.uneven:
            roomy = self._holding(endpoint, pool, roomy)
            if not roomy:
                return None
        if (rollout := endpoint.rollout) is not None and rollout.share is not None:
            roomy = self._of_version(rollout, pool, roomy)
            if not roomy:
                return None
        full: Collection[str] = ()
        if len(roomy) < len(endpoint.replicas):
            full = {one.id for one in endpoint.replicas}.difference(one.id for one in roomy)
        replica = self._take(pool, full, owner)
        if replica is None and not pool.usable(self._loop.time(), self.tried, full):
            retry_after_s = pool.retry_after_s(self._loop.time())
            raise errors.engine_unavailable(self._call.model, retry_after_s)
        return replica

    def _of_version(
        self, rollout: Rollout, pool: Pool, roomy: Sequence[Replica]
    ) -> Sequence[Replica]:
        """Those of the version that it is meant for."""
        return arms.allowed(rollout, self._is_fresh(rollout), roomy, self._standing(pool))

    def _is_fresh(self, rollout: Rollout) -> bool:
        if self._fresh is None:
            self._fresh = arms.fresh(rollout, self._run, self._call.fields)
        return self._fresh

    def _standing(self, pool: Pool) -> list[str]:
        """Those that are not out and that it did not try."""
        standing = [one.id for one in pool.lanes if not one.standing.out]
        return [id for id in standing if id not in self.tried]

    def _holding(
        self, endpoint: Endpoint, pool: Pool, roomy: Sequence[Replica]
    ) -> Sequence[Replica]:
        """Those whose window it fits into. Raises 400 where it fits into none's that may answer."""
        if self._need is None:
            expected = self._context.learning.of(endpoint.id).expected(self._size)
            self._need = windows.Need(self._call, self._size, expected)
        may: Sequence[Replica] = endpoint.replicas
        rollout = endpoint.rollout
        if rollout is not None and rollout.share is not None and not self._is_fresh(rollout):
            standing = self._standing(pool)
            old = [one for one in may if one.id not in rollout.replica_ids and one.id in standing]
            may = old or may
        held = {one.id for one in self._need.holding(may)}
        if not held:
            window = windows.spread(may)[0] or 0
            guard.check(self._call, window, self._size)
            raise guard.too_long(self._call, window, f"at least {window + 1}", None)
        return [one for one in roomy if one.id in held]

    def _outgrown(self) -> bool:
        """Its engine says that it does not fit in there. Whether another may have the room."""
        if self._need is None or self.lane is None or self._pool is None:
            return False
        window, rollout = self.lane.replica.window, self._endpoint.rollout
        if window is None:
            return False
        self._need.outgrown(window)
        held = {one.id for one in self._need.holding(self._endpoint.replicas)}
        if rollout is not None and rollout.share is not None and not self._is_fresh(rollout):
            held -= rollout.replica_ids  # a canary gets no more than its share
        return any(one.id in held for one in self._pool.usable(self._loop.time(), self.tried))

    def onward(self) -> Endpoint | None:
        """The endpoint, if it has a replica that was not tried and the budget of retries allows
        it; asked once for each try."""
        endpoint_id, directory = self._endpoint.id, self._context.keeper.current
        endpoint = directory.endpoint(self._key.project_id, endpoint_id)
        if endpoint is None:
            return None
        pool = self._pool = self._context.pools.of(endpoint)
        now = self._loop.time()
        if not pool.usable(now, self.tried) or not pool.may_retry(now):
            return None
        self._endpoint = endpoint
        return endpoint

    def barred(self, endpoint: Endpoint) -> set[str]:
        """Its replicas that failed this request, or that are out while others are not."""
        pool = self._context.pools.of(endpoint)
        return {*self.tried, *pool.shut(self._loop.time(), probing=not self.tried)}

    def _prefix(self, engine_model: str) -> list[int]:
        fields, operation = self._call.fields, self._call.operation
        parts = [bytes(fields[name]) for name in _BEFORE if name in fields]
        parts += [
            bytes(fields[name])
            for name in operation.prompts
            if name in fields and name not in _BEFORE
        ]
        text = parts[0] if len(parts) == 1 else b"".join(parts)
        salt = self._context.salts.of(self._key.organization_id)
        return prefixes.keys(text, salt, engine_model)

    def _take(self, pool: Pool, full: Collection[str], owner: Owner) -> Replica | None:
        ticket = self._ticket = pool.dispatch(
            self._call.size,
            self._keys,
            self._loop.time(),
            visible=self._visible,
            tried=self.tried,
            full=full,
            take=self._reserve,
        )
        if ticket is None:
            return None
        ticket.owner = owner
        ticket.spare = type(self._key) is LineKey
        lane = self.lane = ticket.lane
        self.tried += (lane.id,)
        return lane.replica

    def _reserve(self, replica: Replica) -> bool:
        return self._context.admission.loads.take(replica, self.place)

    # --- what came of it ------------------------------------------------------------------
    def heard(self) -> None:
        """Some of the answer came."""
        if self.lane is not None:
            self.lane.heard = True

    def first_byte(self) -> None:
        if self._visible and self._ticket is not None:
            self._first = now = self._loop.time()
            self._ticket.lane.first_byte(self._ticket, now)

    def answered(self) -> None:
        """It does, however long that took: what failed there before is forgiven."""
        if self.lane is not None and self.lane.standing.failures:
            self.lane.standing.succeeded(self._loop.time())

    def leave(self, *, served: bool = False, broke: bool = False) -> None:
        """It ends, or goes elsewhere; `served` with a whole answer, `broke` with one in which
        the engine told of an error."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            if self._endpoint.rollout is not None and (served or broke):
                self._tried(self._endpoint.rollout, ticket, served)
            # What only looks into the tokenizer says nothing about a prefill.
            served = served and self._call.operation.counts
            ticket.owner = None
            ticket.lane.end(ticket, self._loop.time(), served=served)
            self._context.admission.give(self._endpoint.id, self.place)

    def _tried(self, rollout: Rollout, ticket: Ticket, served: bool) -> None:
        """What it says of the version that answered."""
        trials = self._context.trials
        if not served:
            trials.failed(rollout, ticket.lane.id)
        elif self._call.operation.counts:
            now = self._loop.time()
            # A short stream may have come whole: it ends before its first byte has left.
            first_s = (self._first or now) - ticket.at if self._call.stream else None
            trials.served(rollout, ticket.lane.id, first_s, now - ticket.at)

    def failed(self, status: int = 0) -> None:
        """The replica could not be reached, went away, fell silent (0), or answered 5xx."""
        ticket, self._ticket = self._ticket, None
        if ticket is None or self._pool is None:
            return
        ticket.owner = None
        self._context.admission.give(self._endpoint.id, self.place)
        now = self._loop.time()
        if status and (status < 500 or status in _BUSY):
            ticket.lane.end(ticket, now, served=False)
        else:
            if self._endpoint.rollout is not None:
                self._tried(self._endpoint.rollout, ticket, served=False)
            self._pool.failed(ticket, now, REFUSED if status else LOST)

    def refused(self, status: int, error: ApiError) -> bool:
        """It answered with this status. Whether another should be asked instead."""
        onward = error.code == "context_length_exceeded" and self._outgrown()
        self.failed(status)
        return onward

    def fullness(self, used: Usage | None) -> bytes:
        """How full the window is of the replica where it is, as header lines: by what the engine
        reported, or else by what is to be expected."""
        size, endpoint = self._size, self._endpoint
        if used is not None and used.input:
            total = used.input + -(-used.output // size.choices)
        else:
            total = self._context.learning.of(endpoint.id).expected(size)
        window = self.lane.replica.window if self.lane is not None else None
        return guard.lines(endpoint.max_model_len if window is None else window, total)

    def lines(self) -> bytes:
        """Who answers, as header lines."""
        if self.lane is not None:
            return self.lane.named
        return pools.named(self._endpoint)
