"""The signer's key hands over to another: announced in each log by the old key, then both sign,
then the new one alone.

The announcement is a note of the old key over the new one's vkey, which the new one signs too; it
stands in an event of each log, so that whoever pinned the old key is led to the new one by the log
itself (`stoa_verify`). Each step may be repeated: a kill between two of them loses nothing.
"""

from datetime import datetime, timedelta

from django.db.models import QuerySet

from compliance import audit
from compliance.log import signing
from compliance.log.models import Log
from compliance.log.notes import parse_vkey
from compliance.models import AuditEvent

ACTION = "log.rotate_key"
OVERLAP = timedelta(days=1)  # in which whoever keeps heads is sent one that both have signed


class TooEarly(Exception):
    """The next key was not announced, or not in all logs, or not for a day; the message says."""


def owners() -> list[str]:
    """Whose logs are told: the open ones, the operator's first. The meta log has no events."""
    logs = Log.objects.filter(closed_at=None).exclude(owner__in=("meta", audit.PLATFORM))
    return [audit.PLATFORM, *logs.order_by("owner").values_list("owner", flat=True)]


def untold() -> list[str]:
    """Whose logs have been opened since the next key was announced, or missed it."""
    last = _last()
    if last is None or last.target_id == _id(signing.vkey()):
        return []
    told = set(_told(last.target_id).values_list("log_id", flat=True))
    return [owner for owner in owners() if owner not in told]


def announce(*, actor: audit.Actor, owner: str, now: datetime) -> str:
    """Have the signer draw the next key, once, and this log say so; the next key's vkey.

    Repeated, nothing changes. Raises signing.SignerAway.
    """
    new, note = signing.rotate()
    key = _id(new)
    if not _told(key).filter(log_id=owner).exists():
        audit.record(
            actor=actor,
            action=ACTION,
            target=audit.Target("log_key", key),
            log=owner,
            now=now,
            change=[audit.Change("note", None, note)],
        )
    return new


def retire(*, actor: audit.Actor, now: datetime) -> str:
    """The announced key alone signs from here on; its vkey. Repeated, nothing changes.

    Raises TooEarly, signing.SignerAway, signing.Refused.
    """
    last, new = _last(), signing.vkey()
    if last is None:
        raise TooEarly("no next key was announced")
    if last.target_id != _id(new):  # else it was done, and killed before its event
        if now - last.recorded_at < OVERLAP:
            raise TooEarly(f"announced at {audit.stamp(last.recorded_at)}: both sign for a day")
        if missed := untold():
            raise TooEarly(f"not announced in the log of {missed[0]}")
        new = signing.rotate()[0]
        if last.target_id != _id(new):
            raise TooEarly("the signer has another next key than the announced one: announce it")
        signing.retire(new)
    retired = {"action": "log.retire_key", "target_id": _id(new), "log_id": audit.PLATFORM}
    if not AuditEvent.objects.filter(**retired).exists():
        audit.record(
            actor=actor,
            action="log.retire_key",
            target=audit.Target("log_key", _id(new)),
            log=audit.PLATFORM,
            now=now,
        )
    return new


def _last() -> AuditEvent | None:
    return AuditEvent.objects.filter(action=ACTION, log_id=audit.PLATFORM).order_by("-id").first()


def _told(key: str) -> QuerySet[AuditEvent]:
    return AuditEvent.objects.filter(action=ACTION, target_id=key)


def _id(vkey: str) -> str:
    return parse_vkey(vkey).key_id.hex()
