"""The control plane, for threads that fetch: what they need to know, and a tenant's own files."""

import ssl
import time
from collections.abc import Callable
from typing import TypeVar

import httpx
import msgspec

from controlplane.fleet import wire
from workers.agent.client import Backoff, Client, Refused, Unavailable, decode, raise_for
from workers.agent.weights.errors import (
    ACCESS_DENIED,
    FETCH_FAILED,
    MODEL_NOT_FOUND,
    Cancelled,
    ModelError,
)

T = TypeVar("T", bound=wire.Message)
TIMEOUT_S = 15.0
_REASONS = frozenset({ACCESS_DENIED, FETCH_FAILED, MODEL_NOT_FOUND})


class ControlPlaneDoor:
    """Blocking; any thread. Signs as `client` does, with whatever its identity is by then."""

    def __init__(self, client: Client, pause: Callable[[float], None] = time.sleep) -> None:
        self._client, self._pause = client, pause

    def source(self, request: wire.SourceRequest, cancelled: Callable[[], bool]) -> wire.Source:
        """Raises ModelError where the control plane says why not; waits while it is away."""
        return self._ask("/source", request, wire.Source, cancelled)

    def secrets(self, request: wire.SecretsRequest, cancelled: Callable[[], bool]) -> wire.Secrets:
        """For one start from an image: to be kept nowhere. Raises as `source` does."""
        return self._ask("/secrets", request, wire.Secrets, cancelled)

    def _ask(
        self, path: str, request: wire.Message, kind: type[T], cancelled: Callable[[], bool]
    ) -> T:
        backoff = Backoff(cap_s=5.0)
        body = msgspec.json.encode(request)
        while not cancelled():
            try:
                answer = self._post(path, body)
                if reason := _reason(answer):
                    raise ModelError(*reason)
                raise_for(answer)
                return decode(answer.content, kind)
            except (Unavailable, Refused):  # the loop sees to a credential that is no good
                self._pause(backoff.next())
        raise Cancelled

    def signed(self, path: str) -> tuple[str, dict[str, str], ssl.SSLContext]:
        return self._client.signed("GET", path, b"")

    def _post(self, path: str, body: bytes) -> httpx.Response:
        url, headers, context = self._client.signed("POST", path, body)
        sent = {**headers, "content-type": "application/json"}
        try:
            return httpx.post(
                url,
                content=body,
                headers=sent,
                timeout=TIMEOUT_S,
                verify=context,
                trust_env=self._client.trust_env,
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"no answer: {type(error).__name__}") from error


def _reason(answer: httpx.Response) -> tuple[str, str] | None:
    """Why the model cannot be had, where the control plane knows."""
    if answer.status_code != 409:
        return None
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    code = problem.get("code")
    return (str(code), str(problem.get("detail", ""))) if code in _REASONS else None
