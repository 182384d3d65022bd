"""Where the processes hold data of people: the broker's messages and the gateways' spools.

Neither should hold any: messages carry ids, records pseudonyms. An erasure looks all the same, and
waits for what passes through to be through.
"""

import mmap
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from compliance.privacy import stores
from compliance.privacy.stores import Found, Outcome
from compliance.subjects import ORGANIZATION, PERSON, Subject
from workers.backup.config import Config


class Passing(stores.Base):
    """What goes by itself: nothing is erased, the erasure waits until nothing of it is there."""

    order, moves = 65, True

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"workers.{self.place}/{kind}", kind

    def count(self, values: Collection[bytes]) -> int:
        raise NotImplementedError

    def find(self, subject: Subject) -> Found:
        known = [one.encode() for one in stores.known_values(subject)]
        return Found(self.count(known) if known else 0)

    def plan(self, subject: Subject, now: datetime) -> Outcome:
        return Outcome(self.action, 0)

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        if left := self.find(subject).rows:
            raise stores.NotYet(f"{left} in the {self.place} are not through yet")
        return Outcome(self.action, 0)


class Queue(Passing):
    place = "queue"
    order = 5

    def count(self, values: Collection[bytes]) -> int:
        """Of a broker that speaks Redis' protocol; another is not looked into."""
        if not settings.BROKER_URL.startswith("redis"):
            return 0
        return sum(any(value in text for value in values) for text in texts(settings.BROKER_URL))


class Spools(Passing):
    place = "spool"
    order = 5

    def count(self, values: Collection[bytes]) -> int:
        """Files of the gateways that backups know of (STOA_BACKUP_GATEWAYS)."""
        folders = Config.from_env().gateways
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return sum(_holds(path, values) for path in files)


def texts(url: str) -> Iterator[bytes]:
    """Every value that lies in the broker. Raises stores.NotYet where it does not answer."""
    import redis

    broker = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        for key in broker.scan_iter(count=1_000):
            yield bytes(key)
            yield from _values(broker, key)
    except redis.RedisError as error:
        raise stores.NotYet(f"the broker does not answer: {error}") from error
    finally:
        broker.close()


def _values(broker: Any, key: bytes) -> Iterator[bytes]:
    match broker.type(key):
        case b"string":
            yield broker.get(key) or b""
        case b"list":
            yield from broker.lrange(key, 0, -1)
        case b"set":
            yield from broker.smembers(key)
        case b"zset":
            yield from broker.zrange(key, 0, -1)
        case b"hash":
            for name, value in broker.hgetall(key).items():
                yield from (name, value)


def _holds(path: Path, values: Collection[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                return any(text.find(value) >= 0 for value in values)
    except FileNotFoundError:  # shipped meanwhile
        return False


def register() -> None:
    for kind in (PERSON, ORGANIZATION):
        stores.register(Queue(kind))
        stores.register(Spools(kind))
