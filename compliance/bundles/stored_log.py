"""A log in the database as of one signed head, for bundles (log_part.View), and what opens it."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Max, Min

from compliance import audit
from compliance.bundles.log_part import Opening
from compliance.keys.kms import KeyDestroyed
from compliance.log import checkpoints, proofs, tree
from compliance.log.models import Log, LogCheckpoint, LogLeaf, LogPending
from compliance.models import AuditEvent, EventSecret

_AT_ONCE = 1_000


class NotReady(Exception):
    """Events of the period wait for their index or for a signed head: a minute at most."""


@dataclass(frozen=True)
class Erasure:
    """Why values of an event are gone. `certificate`: the target of the event `certified_by`."""

    reason: str
    certificate: str
    certified_by: str


Erasures = Callable[[Sequence[str]], dict[str, Erasure]]
_erasures: list[Erasures] = []


def register_erasures(found: Erasures) -> None:
    """Whoever erases openings tells of it: ids of events to what erased values of theirs."""
    _erasures.append(found)


class StoredLog:
    def __init__(self, head: LogCheckpoint, meta: dict[str, Any] | None) -> None:
        self._head, self._meta = head, meta
        self.origin = Log.objects.only("origin").get(id=head.log_id).origin
        self.size, self.root, self.note = head.size, bytes(head.root), head.note
        self._node = tree.nodes(head.log_id)

    def hashes(self, start: int, end: int) -> Iterator[bytes]:
        return tree.hashes(self._head.log_id, start, end)

    def subtree(self, start: int, end: int) -> bytes:
        height = (end - start).bit_length() - 1
        return self._node(height, start >> height)

    def events(self, start: int, end: int) -> Iterator[bytes]:
        for leaves in self._leaves(start, end):
            bodies = dict(_events(leaves).values_list("id", "body"))
            for leaf in leaves:
                if leaf.event_id not in bodies:
                    raise LookupError(f"the body of event {leaf.index} is not kept any more")
                yield bytes(bodies[leaf.event_id])

    def meta(self) -> dict[str, Any] | None:
        return self._meta

    def span(self, start: datetime, end: datetime) -> tuple[int, int]:
        """First index and count of the events of start <= time < end, with a neighbour on each
        side where there is one: they show that the period is whole."""
        mine = LogLeaf.objects.filter(log_id=self._head.log_id, index__lt=self.size)
        first = mine.filter(recorded_at__gte=start).aggregate(at=Min("index"))["at"]
        last = mine.filter(recorded_at__lt=end).aggregate(at=Max("index"))["at"]
        first = self.size if first is None else first
        last = -1 if last is None else last
        first, last = max(min(first, last + 1) - 1, 0), min(max(last, first - 1) + 1, self.size - 1)
        return first, last - first + 1

    def openings(self, start: int, end: int) -> Iterator[Opening]:
        """Of every commitment its opening, or why there is none any more."""
        for leaves in self._leaves(start, end):
            ids = [leaf.event_id for leaf in leaves]
            kept: dict[str, list[EventSecret]] = {}
            for one in EventSecret.objects.filter(event_id__in=ids).order_by("event_id", "path"):
                kept.setdefault(one.event_id, []).append(one)
            events = {one.id: one for one in _events(leaves)}
            erased = _erased(ids)
            for leaf in leaves:
                waiting = set(json.loads(bytes(events[leaf.event_id].body))["d"])
                for secret in kept.get(leaf.event_id, ()):
                    try:
                        salt, value = audit.unsealed(secret, events[leaf.event_id])
                    except KeyDestroyed:
                        continue
                    waiting.discard(audit.commitment(salt, secret.path, value))
                    yield Opening(leaf.index, leaf.event_id, secret.path, salt, value)
                why = erased.get(leaf.event_id, Erasure("erased", "", ""))
                for commitment in sorted(waiting):
                    yield Opening(
                        leaf.index,
                        leaf.event_id,
                        commitment=commitment,
                        redacted=why.reason,
                        certificate=why.certificate,
                    )

    def certificates(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The events that certify erasures in those from `start` to before `end`, once each."""
        wanted: set[str] = set()
        for leaves in self._leaves(start, end):
            found = _erased([leaf.event_id for leaf in leaves])
            wanted |= {one.certified_by for one in found.values() if one.certified_by}
        within = {"log_id": self._head.log_id, "index__lt": self.size}
        leaves = list(LogLeaf.objects.filter(event_id__in=wanted, **within).order_by("index"))
        bodies = dict(_events(leaves).values_list("id", "body")) if leaves else {}
        for leaf in leaves:
            yield leaf.index, bytes(bodies[leaf.event_id])

    def rotations(self) -> Iterator[tuple[int, bytes]]:
        """The events of this log, under its head, in which its key announced the next one."""
        told = AuditEvent.objects.filter(log_id=self._head.owner, action="log.rotate_key")
        bodies = dict(told.values_list("id", "body"))
        within = {"log_id": self._head.log_id, "index__lt": self.size}
        for leaf in LogLeaf.objects.filter(event_id__in=bodies, **within).order_by("index"):
            yield leaf.index, bytes(bodies[leaf.event_id])

    def _leaves(self, start: int, end: int) -> Iterator[list[LogLeaf]]:
        for first in range(start, end, _AT_ONCE):
            within = {"index__gte": first, "index__lt": min(first + _AT_ONCE, end)}
            found = LogLeaf.objects.filter(log_id=self._head.log_id, **within)
            yield list(found.order_by("index"))


def covering(owner: str, before: datetime) -> LogCheckpoint:
    """The newest signed head of the owner's log, if all that was recorded before that moment is
    under it. Raises NotReady."""
    head = checkpoints.newest(owner)
    if head is None or LogPending.objects.filter(owner=owner, recorded_at__lt=before).exists():
        raise NotReady("events wait for their index in the log")
    above = LogLeaf.objects.filter(log_id=head.log_id, index__gte=head.size)
    if above.filter(recorded_at__lt=before).exists():
        raise NotReady("events wait for a signed head of the log")
    return head


def in_meta(head: LogCheckpoint) -> dict[str, Any] | None:
    """log/meta.json: that the head is in the log of checkpoints; None while it is not."""
    found = proofs.in_meta(head)
    if found is None:
        return None
    return {
        "checkpoint": found.note,
        "index": found.index,
        "leaf": found.body.decode(),
        "proof": [base64.b64encode(one).decode() for one in found.proof],
        "salt": base64.b64encode(found.salt).decode(),
    }


def _events(leaves: Iterable[LogLeaf]) -> Any:
    """Their events; the times lead to the partitions."""
    times = [leaf.recorded_at for leaf in leaves]
    return AuditEvent.objects.filter(
        id__in=[leaf.event_id for leaf in leaves],
        recorded_at__gte=min(times),
        recorded_at__lte=max(times),
    )


def _erased(ids: Sequence[str]) -> dict[str, Erasure]:
    found: dict[str, Erasure] = {}
    for one in _erasures:
        found |= one(ids)
    return found
