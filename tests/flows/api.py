"""The management API as tests use it: over HTTP with a key, saying what it was that failed."""

import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx


class Api:
    def __init__(self, console_url: str, api_key: str) -> None:
        self.http = httpx.Client(
            base_url=f"{console_url}/api/v1",
            headers={"authorization": f"Bearer {api_key}"},
            timeout=60,
        )

    # --- calls ---------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> Any:
        return self._good(self.http.get(path, params=query))

    def pages(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Every row of a list, however long it is."""
        after: dict[str, str] = {}
        while True:
            found = self.get(path, **query, **after)
            yield from found["data"]
            if not found["has_more"]:
                return
            after = {"after": found["last_id"]}

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._good(self.http.post(path, json=body))

    def delete(self, path: str) -> None:
        self._good(self.http.delete(path))

    def refused(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST what must be refused: the status, and the problem in the right shape."""
        reply = self.http.post(path, json=body)
        assert reply.status_code >= 400, reply.text
        assert reply.headers["content-type"] == "application/problem+json", reply.text
        problem: dict[str, Any] = reply.json()
        assert problem["status"] == reply.status_code
        assert problem["title"]
        assert problem["code"]
        assert problem["detail"]
        return reply.status_code, problem

    @staticmethod
    def _good(reply: httpx.Response) -> Any:
        assert reply.status_code < 400, f"{reply.request.url}: {reply.status_code}: {reply.text}"
        return reply.json() if reply.content else None

    # --- things ------------------------------------------------------------------------

    def endpoint(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.get("/endpoints", name=name)["data"]
        assert len(found) == 1, found
        return found[0]

    def replicas(self, endpoint_id: str = "") -> list[dict[str, Any]]:
        query = {"endpoint": endpoint_id} if endpoint_id else {}
        found: list[dict[str, Any]] = self.get("/replicas", limit="100", **query)["data"]
        return found

    def transitions(self, endpoint_id: str) -> list[dict[str, Any]]:
        """Oldest first."""
        path = f"/endpoints/{endpoint_id}/transitions"
        return list(self.pages(path, limit="100"))[::-1]

    def free_devices(self) -> int:
        return sum(d["free"] for pool in self.get("/pools")["data"] for d in pool["devices"])

    def usage(self, **query: str) -> list[dict[str, Any]]:
        return list(self.pages("/usage", **query))

    def tokens(self, request_id: str) -> dict[str, int]:
        """Meter to quantity of one request; cached input counts as input too, as OpenAI says."""
        rows = self.usage(request=request_id)
        assert len({row["id"] for row in rows}) == len(rows)
        found = dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens"), 0)
        for row in rows:
            assert row["id"] == f"{request_id}:{row['meter']}"
            found[row["meter"]] += row["quantity"]
        found["input_tokens"] += found["cached_tokens"]
        return found if rows else {}

    # --- streams -------------------------------------------------------------------------

    def events(self, path: str, **query: str) -> Iterator[tuple[str, Any]]:
        """Server-sent events of one connection, as (name, data)."""
        with self.http.stream("GET", path, params=query) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in reply.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def euro(quantity: int, amount: Decimal, unit: int) -> Decimal:
    """Exactly: enough digits for anything that a test uses."""
    return Decimal(quantity) * amount / unit
