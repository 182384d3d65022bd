"""What the fake remembers: objects by kind, the money in its balance, and what happened."""

import copy
import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import stripe

from tests.stripe_server.problems import invalid, missing

Obj = dict[str, Any]
PAGE = 10
PAGE_MAX = 100
DAY_S = 86_400


@dataclass
class Store:
    """`clock` is the tests' own. Every list is newest first, as Stripe's are."""

    clock: Callable[[], datetime]
    livemode: bool = False
    objects: dict[str, dict[str, Obj]] = field(default_factory=lambda: defaultdict(dict))
    undelivered: list[str] = field(default_factory=list)  # ids of events
    lock: threading.RLock = field(default_factory=threading.RLock)

    def now(self) -> int:
        return int(self.clock().timestamp())

    def make(self, kind: str, prefix: str, **members: Any) -> Obj:
        """A new object; its members are Stripe's names."""
        id = f"{prefix}_{secrets.token_hex(12)}"
        made = {
            "id": id,
            "object": kind,
            "created": self.now(),
            "livemode": self.livemode,
            **members,
        }
        self.objects[kind][id] = made
        return made

    def get(self, kind: str, id: str, param: str = "id") -> Obj:
        found = self.objects[kind].get(id)
        if found is None:
            raise missing(kind, id, param)
        return found

    def all(self, kind: str, **equal: Any) -> Iterator[Obj]:
        """Oldest first, those whose members are as given; None: no matter."""
        wanted = {name: value for name, value in equal.items() if value is not None}
        for one in list(self.objects[kind].values()):
            if all(one.get(name) == value for name, value in wanted.items()):
                yield one

    def page(self, kind: str, params: Obj, url: str, **equal: Any) -> Obj:
        """A list object: filtered by `created`, after a cursor, at most `limit` long."""
        limit = params.get("limit", PAGE)
        if not 1 <= limit <= PAGE_MAX:
            raise invalid(f"Invalid limit: {limit}", param="limit")
        rows = [one for one in self.all(kind, **equal) if _within(one, params.get("created"))]
        rows.reverse()
        if "ending_before" in params:
            rows = rows[: _position(rows, kind, params["ending_before"], "ending_before")]
            rows = rows[-limit:]
            return {"object": "list", "url": url, "has_more": False, "data": rows}
        if "starting_after" in params:
            rows = rows[1 + _position(rows, kind, params["starting_after"], "starting_after") :]
        return {
            "object": "list",
            "url": url,
            "has_more": len(rows) > limit,
            "data": rows[:limit],
        }

    def emit(self, kind: str, about: Obj) -> Obj:
        """An event with the object as it stands now, to be sent to the webhook's address."""
        event = self.make(
            "event",
            "evt",
            type=kind,
            api_version=stripe.api_version,
            data={"object": copy.deepcopy(about)},
            pending_webhooks=1,
            request={"id": None, "idempotency_key": None},
        )
        self.undelivered.append(event["id"])
        return event

    def book(self, kind: str, source: Obj, amount: int, fee: int) -> Obj:
        """Moves the balance by `amount` less `fee`, in the smallest unit of the currency."""
        return self.make(
            "balance_transaction",
            "txn",
            type=kind,
            source=source["id"],
            amount=amount,
            fee=fee,
            net=amount - fee,
            currency=source["currency"],
            status="available",
            available_on=self.now(),
            reporting_category=kind,
            payout=None,
        )

    def balance(self, currency: str = "eur") -> int:
        return sum(int(one["net"]) for one in self.all("balance_transaction", currency=currency))


def render(value: Obj) -> bytes:
    return json.dumps(value, indent=2).encode()


def _within(one: Obj, created: Any) -> bool:
    if created is None:
        return True
    at = one["created"]
    if isinstance(created, int):
        return bool(at == created)
    checks = {
        "gt": lambda bound: at > bound,
        "gte": lambda bound: at >= bound,
        "lt": lambda bound: at < bound,
        "lte": lambda bound: at <= bound,
    }
    return all(checks[name](bound) for name, bound in created.items())


def _position(rows: list[Obj], kind: str, id: str, param: str) -> int:
    for index, one in enumerate(rows):
        if one["id"] == id:
            return index
    raise missing(kind, id, param)
