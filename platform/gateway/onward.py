"""A request on its way along an alias: its endpoints in order, each with an exchange of its own.

An attempt that ended before anything of it left for the client is over in the books like any
other that was refused; the next one reserves and is booked for itself, under an id of its own
where the one before is on record. What the gateway has once sent to a client is never replaced.
"""

from collections.abc import Callable, Iterator

from gateway import authentication, errors, request
from gateway.client import Client, Request
from gateway.context import Context
from gateway.directory import Alias, Endpoint
from gateway.errors import ApiError
from gateway.request import Call

NO_CAPACITY = "no_capacity"
CONTEXT_OVERFLOW = "context_overflow"

_EVENTS = {
    "adapter_loading": NO_CAPACITY,
    "adapter_not_loaded": NO_CAPACITY,
    "endpoint_starting": NO_CAPACITY,
    "endpoint_stopped": NO_CAPACITY,
    "engine_overloaded": NO_CAPACITY,
    "engine_unavailable": NO_CAPACITY,
    "context_length_exceeded": CONTEXT_OVERFLOW,
}

Begin = Callable[[Client, Request, Call, Endpoint, str], None]  # raises ApiError


class Onward:
    """`start` once; `next` after an attempt has failed."""

    __slots__ = ("_alias", "_at", "_begin", "_booked", "_client", "_context", "_request")

    def __init__(
        self, context: Context, client: Client, asked: Request, alias: Alias, begin: Begin
    ) -> None:
        self._context = context
        self._client = client
        self._request = asked
        self._alias = alias
        self._begin = begin
        self._at = 0  # the target that has it
        self._booked = 0  # attempts that are on record
        asked.onward = self

    def start(self, call: Call) -> None:
        """Raises ApiError when nobody takes the request."""
        self._request.alias = call.model
        targets = list(self._targets(0))
        if not targets:
            raise errors.model_not_found(call.model)
        first = targets[0]
        if NO_CAPACITY in self._alias.fallback_on and not self._waits():
            admission = self._context.admission
            open_ones = (one for one in targets if _ready(one[1]) and not admission.crowded(one[1]))
            ready = next(open_ones, first)
            if ready is not first and not (first[1].stopped or first[1].replicas):
                admission.wakes.knock(first[1])  # the next ones shall find it
            first = ready
        try:
            self._attempt(first, call)
        except ApiError as error:
            if not self.next(error, booked=False):
                raise

    def next(self, error: ApiError, *, booked: bool) -> bool:
        """Whether another has taken the request over, or told the client why not.

        `booked`: the attempt that failed is on record.
        """
        asked = self._request
        if booked:
            self._booked += 1
            asked.entry_id = f"{asked.id}.{self._booked}"
        event = _EVENTS.get(error.code or "")
        if event not in self._alias.fallback_on or asked.upload is not None:
            return False  # a body that is on its way cannot be sent elsewhere
        for target in self._targets(self._at + 1):
            if event == NO_CAPACITY and not _ready(target[1]):
                continue
            try:
                assert asked.operation is not None
                self._attempt(target, request.read(asked.body(), asked.operation, asked.base))
            except ApiError as other:
                event = _EVENTS.get(other.code or "")
                if event in self._alias.fallback_on:
                    continue
                self._context.metrics.refusal(other.code)
                self._client.refuse(asked, other)
            return True
        return False

    def _targets(self, start: int) -> Iterator[tuple[int, Endpoint, str]]:
        """From `start` on those that are there now and open to the key."""
        asked, directory = self._request, self._context.keeper.current
        assert asked.key is not None
        for at, target in enumerate(self._alias.targets[start:], start):
            found = authentication.behind(directory, asked.key, asked.alias, target)
            if found is not None:
                yield at, *found

    def _attempt(self, target: tuple[int, Endpoint, str], call: Call) -> None:
        self._at, endpoint, engine_model = target
        self._begin(self._client, self._request, call, endpoint, engine_model)

    def _waits(self) -> bool:
        """Whether the client said that it would rather wait for the first."""
        asked = self._request.headers.get(b"x-stoa-wait", b"")
        return asked.isdigit() and asked.strip(b"0") != b""


def _ready(endpoint: Endpoint) -> bool:
    return bool(endpoint.replicas) and not endpoint.stopped
