"""What was ended for good: a backup made before it must not bring it back.

Each room names, as it loads, the actions whose effect may not return (a key that was revoked, a
file that was deleted), and how such an end is done again. `audit.record` leaves a tombstone for
each in the verb's own transaction, so that there is one exactly where the end was committed.
Tombstones are carried out of the database into a journal (workers.backup.journal); after a restore
those that the restored tables do not know are replayed before anything opens.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from compliance.models import AuditEvent, Tombstone

# Does the end again, at a time; whether there still was something to end. May be repeated.
Replay = Callable[[Tombstone, datetime], bool]

_replays: dict[str, Replay] = {}


class UnknownEnd(Exception):
    """A tombstone of an action that no room of this version knows; the message names it."""


def register(action: str, replay: Replay) -> None:
    _replays[action] = replay


def registered() -> frozenset[str]:
    return frozenset(_replays)


def note(event: AuditEvent, changes: Iterable[Mapping[str, Any]]) -> None:
    """Part of `audit.record`: an event of a registered action leaves a tombstone."""
    if event.action in _replays and event.outcome == "success":
        Tombstone.objects.create(
            event_id=event.id,
            action=event.action,
            target_type=event.target_type,
            target_id=event.target_id,
            facts={change["path"]: change["to"] for change in changes} | {"region": event.region},
            at=event.recorded_at,
        )


def replay(found: Iterable[Tombstone], now: datetime) -> dict[str, int]:
    """Ends again what each tells of, in the order of their times; how many had effect, by action.

    In the caller's transaction: all of them or none. Raises UnknownEnd before anything is done.
    """
    waiting = sorted(found, key=lambda one: (one.at, one.id))
    if unknown := {one.action for one in waiting} - _replays.keys():
        raise UnknownEnd(f"this version does not know how to end again: {', '.join(unknown)}")
    done: dict[str, int] = {}
    for one in waiting:
        one.journaled_at = now
        Tombstone.objects.bulk_create([one], ignore_conflicts=True)
        done[one.action] = done.get(one.action, 0) + _replays[one.action](one, now)
    return done
