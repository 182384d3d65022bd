"""Webhooks as Stripe sends them: signed over the raw body, in no order, sometimes twice."""

import hashlib
import hmac
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from tests.stripe_server.store import Obj, Store, render

Send = Callable[[bytes, str], int]  # body and signature; the status of the answer
RETRIED_FOR_S = 3 * 86_400


def signature(body: bytes, at: int, *keys: str) -> str:
    """The header `Stripe-Signature`: one v1 for each secret that is in force."""
    parts = [f"t={at}"]
    for key in keys:
        signed = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256)
        parts.append(f"v1={signed.hexdigest()}")
    return ",".join(parts)


def to(url: str) -> Send:
    """Over HTTP, as Stripe does it."""

    def send(body: bytes, header: str) -> int:
        headers = {"Stripe-Signature": header, "Content-Type": "application/json; charset=utf-8"}
        return httpx.post(url, content=body, headers=headers, timeout=30).status_code

    return send


@dataclass
class Webhooks:
    """Sends what has happened. What is not answered by 2xx stays, to be sent again."""

    store: Store
    send: Send
    secrets: Sequence[str] = ("whsec_tests",)

    def body(self, event: Obj) -> bytes:
        return render({name: value for name, value in event.items() if name[0] != "_"})

    def deliver(
        self,
        *,
        chance: random.Random | None = None,
        repeat: float = 0.0,
        drop: float = 0.0,
        hold: float = 0.0,
    ) -> list[int]:
        """With `chance` shuffled; and of each event the probability that it comes twice, never,
        or only with a later delivery. Returns the answers' statuses."""
        waiting = list(self.store.undelivered)
        if chance:
            chance.shuffle(waiting)
        statuses = []
        for id in waiting:
            event = self.store.objects["event"][id]
            if chance and chance.random() < hold:
                continue
            if chance and chance.random() < drop:
                self.store.undelivered.remove(id)
                continue
            times = 2 if chance and chance.random() < repeat else 1
            given = [self.one(event) for _ in range(times)]
            statuses += given
            expired = event["created"] < self.store.now() - RETRIED_FOR_S
            if 200 <= given[0] < 300 or expired:
                self.store.undelivered.remove(id)
        return statuses

    def one(self, event: Obj, *, at: int | None = None) -> int:
        body = self.body(event)
        moment = self.store.now() if at is None else at
        return self.send(body, signature(body, moment, *self.secrets))
