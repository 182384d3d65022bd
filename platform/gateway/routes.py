"""What is behind each path."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from gateway import (
    authentication,
    braking,
    errors,
    forms,
    guard,
    models_api,
    operations,
    passage,
    raw,
    reply,
    request,
    runs_api,
    sizes,
    timing,
)
from gateway.client import PROBE, Client, Request
from gateway.context import Context
from gateway.directory import Endpoint, Key
from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.gate import Ask
from gateway.intake import Intake
from gateway.onward import Onward
from gateway.operations import Operation
from gateway.passage import House
from gateway.prices import TokenPrices
from gateway.request import Call
from gateway.spare import LineKey
from gateway.upload_exchange import UploadExchange

_MODELS = "/v1/models"
_OPEN = ("/healthz", "/readyz")
_RESPONSES = f"{operations.RESPONSES.path}/"
_BASE = "/e/"  # /e/{endpoint}/v1/…: an endpoint's own base URL
_OK = b'{"status":"ok"}'


@dataclass(slots=True)
class Routes:
    context: Context
    clock: Callable[[], float] = time.time  # Unix seconds
    house: House | None = None

    def __post_init__(self) -> None:
        url = self.context.config.house_url
        self.house = House(url, self.context.limits.connect_s) if url else None

    def screen(self, client: Client, asked: Request) -> None:
        """Look at the head alone, so that a body is only kept for who may send one."""
        try:
            if asked.path in _OPEN:
                return
            if asked.path.startswith(_BASE) and self._own(client, asked):
                return
            self._known(asked)
            now = self.clock()
            if self.context.keeper.stale(now):
                raise errors.directory_stale()
            self._authenticate(client, asked, now)
            if asked.operation is not None and asked.operation.form:
                asked.upload = self._upload(client, asked)
            elif asked.operation is None and passage.named(asked.path):
                asked.upload = passage.Cargo(client, asked, self.context)
        except ApiError as error:
            asked.refusal = error

    def _own(self, client: Client, asked: Request) -> bool:
        """Below an endpoint's own base URL: whether it is an image with an API of its own, for
        this caller. Raises ApiError; nobody without a key learns which endpoints there are."""
        base, slash, path = asked.path[len(_BASE) :].partition("/")
        asked.base, asked.path = unquote(base), slash + path
        asked.operation = operations.BY_PATH.get(asked.path)  # it says where a key may stand
        now = self.clock()
        if self.context.keeper.stale(now):
            raise errors.directory_stale()
        self._authenticate(client, asked, now)
        key, directory = asked.key, asked.directory
        assert key is not None
        assert directory is not None
        found = directory.endpoint(key.project_id, asked.base)
        if found is None or found.openai or not authentication.allowed(key, found):
            return False
        asked.path = asked.path or "/"
        asked.operation = operations.RAW
        asked.upload = raw.RawBody(client, asked, self.context)
        return True

    def _authenticate(self, client: Client, asked: Request, now: float) -> None:
        asked.directory = directory = self.context.keeper.current
        given, seen = asked.headers.get(b"authorization", b""), client.seen
        if seen is not None and seen[1] is directory and hmac.compare_digest(seen[0], given):
            asked.key = key = seen[2]
        else:
            asked.key = key = authentication.authenticate(
                directory, asked.headers, now, client, anthropic=asked.anthropic
            )
            # The next request of the connection says the same, as a rule: hashing it again would
            # be a tenth of what a short request costs. What depends on more is looked at again.
            if given and key.expires_at is None and not key.networks:
                client.seen = given, directory, key
        self.context.uses.noted[key.secret_id] = now

    def _upload(self, client: Client, asked: Request) -> Intake:
        """Raises ApiError for a body that is no form."""
        mark = forms.boundary(asked.headers.get(b"content-type", b""))
        upload = Intake(mark, client, asked, self.context.limits)
        if asked.base:
            upload.admit = lambda model: self._same(asked, model)
        return upload

    def _same(self, asked: Request, model: str) -> None:
        """Raises ApiError for a model that is named too late to change anything."""
        key, directory = asked.key, asked.directory
        assert key is not None
        assert directory is not None
        meant = authentication.resolve_at(directory, key, asked.base, asked.base)
        if authentication.resolve_at(directory, key, asked.base, model) != meant:
            message = "`model` must come before the file, for it is not the endpoint's own."
            raise errors.bad_request("model_after_file", message, "model")

    def _known(self, asked: Request) -> None:
        path, method = asked.path, asked.method
        asked.operation = operations.BY_PATH.get(path)
        if asked.operation is not None:
            expected = "POST"
        elif path.startswith(_RESPONSES):
            raise errors.not_stored()
        elif path == _MODELS or (path.startswith(f"{_MODELS}/") and path != f"{_MODELS}/"):
            expected = "GET"
        elif runs_api.named(path):
            expected = "POST"
        elif passage.named(path) and not asked.base:
            if self.house is None:
                raise errors.no_house()
            expected = method if method in ("GET", "POST", "DELETE") else "GET"
        else:
            raise errors.unknown_route(method, path)
        if method != expected:
            raise errors.wrong_method(method, path)

    def serve(self, client: Client, asked: Request) -> None:
        label = "other"
        try:
            if asked.refusal is not None:
                raise asked.refusal
            if asked.key is not None and asked.directory is not self.context.keeper.current:
                self._authenticate(client, asked, self.clock())  # it may be revoked by now
            operation = asked.operation
            if operation is not None:
                label = operation.name
                self._relay(client, asked, operation)
                return
            if self.house is not None and passage.named(asked.path):
                label = "batches"
                passage.Passage(self.context, client, asked, self.house).start()
                return
            if asked.path.startswith(runs_api.BASE):
                label = "runs"
                runs_api.RunCommand(self.context, client, asked).start()
                return
            label = "models" if asked.path.startswith(_MODELS) else PROBE
            body = self._page(asked)
        except ApiError as error:
            client.count(asked, label, error.status, error)
            client.refuse(asked, error)
            return
        client.count(asked, label, 200)
        keep = asked.keep_alive and not self.context.draining
        identity = reply.identity(asked.id, asked.headers.get(b"x-request-id"))
        spent = timing.header(asked.timing.split(time.monotonic()))
        whole = reply.whole(200, reply.JSON, body, (identity, spent), keep_alive=keep)
        client.answer(asked, whole, keep)

    def _relay(self, client: Client, asked: Request, operation: Operation) -> None:
        key = asked.key
        assert key is not None  # or it had been refused
        if operation is operations.RAW:
            self._pass_on(client, asked, key)
            return
        if asked.upload is not None:
            call = asked.upload.call(operation, asked.base)
        else:
            call = request.read(asked.body(), operation, asked.base)
        directory = self.context.keeper.current
        if asked.base:
            found = authentication.resolve_at(directory, key, asked.base, call.model)
        elif (alias := directory.alias(key.project_id, call.model)) is not None:
            Onward(self.context, client, asked, alias, self._begin).start(call)
            return
        else:
            found = authentication.resolve(directory, key, call.model)
        self._begin(client, asked, call, *found)

    def _pass_on(self, client: Client, asked: Request, key: Key) -> None:
        found = authentication.resolve(self.context.keeper.current, key, asked.base)
        if found[0].openai:
            raise errors.unknown_route(asked.method, asked.path)  # it has just become another
        self._begin(client, asked, raw.call(asked, found[0]), *found)

    def _begin(
        self, client: Client, asked: Request, call: Call, endpoint: Endpoint, engine_model: str
    ) -> None:
        directory = self.context.keeper.current
        if asked.directory is not directory:
            self._authenticate(client, asked, self.clock())  # it went elsewhere in the meantime
        key = asked.key
        assert key is not None
        if endpoint.stopped:
            raise errors.endpoint_stopped(call.model)
        own = call.operation is operations.RAW
        if not (endpoint.openai or own):
            raise errors.operation_not_offered(call.model, call.operation.path)
        size = sizes.measure(call)
        size.media += call.operation.form
        guard.check(call, endpoint.max_model_len, size)
        context = self.context
        if type(key) is LineKey:
            # Before limits and budgets: that it has to come again later costs its key nothing.
            place = context.learning.of(endpoint.id).place(size)
            context.spare.check(endpoint, place, call.model)
            asked.entry_id = key.request_id
        run = context.runs.of(key.project_id, asked.headers, call.fields.get("metadata"))
        if run.refs:
            warning, delay_s = braking.look(context, directory, key, run, call)
        else:
            warning, delay_s = "", 0.0
        ask = context.gate.ask(directory, key, endpoint, run, call, size)
        if type(key) is LineKey and key.paid:
            ask = Ask((), (), TokenPrices(), run)
        if warning:
            ask.warning, ask.delay_s = warning, delay_s
        kind = Exchange if asked.upload is None else UploadExchange
        if own:
            kind = raw.RawExchange
        kind(context, client, asked, key, call, endpoint, engine_model, size, ask).start()

    def _page(self, asked: Request) -> bytes:
        if asked.path in _OPEN:
            if asked.method not in ("GET", "HEAD"):
                raise errors.wrong_method(asked.method, asked.path)
            if asked.path == "/readyz":
                self._ready()
            return _OK
        key, directory = asked.key, self.context.keeper.current
        assert key is not None
        if asked.path == _MODELS:
            return models_api.listing(directory, key, asked.base)
        return models_api.one(directory, key, asked.path[len(_MODELS) + 1 :], asked.base)

    def _ready(self) -> None:
        """Raises 503 with the reason why this gateway should get no traffic now."""
        if self.context.draining:
            raise errors.draining()
        if self.context.keeper.stale(self.clock()):
            raise errors.directory_stale()
        if not self.context.spool.healthy:
            raise errors.spool_full()
