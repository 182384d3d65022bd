"""The management API as `make up` uses it: with an API key over HTTP, like anybody else."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx


class ApiError(Exception):
    """The API refused; the message is its `detail`."""


class Api:
    def __init__(self, console_url: str, api_key: str) -> None:
        self._client = httpx.Client(
            base_url=f"{console_url}/api/v1",
            headers={"authorization": f"Bearer {api_key}"},
            timeout=30,
        )

    def get(self, path: str, **query: str) -> Any:
        return self._answer(self._client.get(path, params=query))

    def create(self, path: str, body: dict[str, Any], *, idempotency_key: str) -> Any:
        headers = {"idempotency-key": idempotency_key}
        return self._answer(self._client.post(path, json=body, headers=headers))

    def post(self, path: str) -> Any:
        return self._answer(self._client.post(path))

    def events(self, path: str, *, timeout_s: float) -> Iterator[tuple[str, Any]]:
        """Server-sent events as (name, data), reconnecting until `timeout_s` is over."""
        deadline = time.monotonic() + timeout_s
        last_id = ""
        while time.monotonic() < deadline:
            headers = {"last-event-id": last_id} if last_id else {}
            try:
                with self._client.stream("GET", path, headers=headers, timeout=60) as reply:
                    if reply.status_code >= 400:
                        reply.read()
                        self._answer(reply)
                    for event_id, name, data in _parse(reply.iter_lines()):
                        last_id = event_id or last_id
                        yield name, data
            except httpx.TransportError:
                continue

    @staticmethod
    def _answer(reply: httpx.Response) -> Any:
        if reply.status_code >= 400:
            try:
                problem = reply.json()
            except ValueError:
                problem = {}
            detail = problem.get("detail") or reply.text[:300]
            raise ApiError(f"{reply.request.url.path}: {reply.status_code}: {detail}")
        return reply.json() if reply.content else None


def _parse(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    event_id, name, data = "", "message", ""
    for line in lines:
        if not line:
            if data:
                yield event_id, name, json.loads(data)
            event_id, name, data = "", "message", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "id":
                event_id = value
            elif field == "data":
                data += value
