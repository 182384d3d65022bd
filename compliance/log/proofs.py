"""What API, bundles and verifiers ask of a log: signed heads, and proofs that lead to them."""

from dataclasses import dataclass

from compliance.log import checkpoints, merkle, tree
from compliance.log.models import Log, LogCheckpoint, LogLeaf, LogPending


class Unknown(LookupError):
    """There is no such event, log, or size of a log."""


class NotYet(Exception):
    """It is kept and waits for its index or for a signed head: a minute at most."""


@dataclass(frozen=True)
class Inclusion:
    """That an event stands in its log: `merkle.included` checks it against the note's root."""

    event_id: str
    origin: str
    index: int
    size: int
    leaf_hash: bytes
    proof: list[bytes]
    note: str


@dataclass(frozen=True)
class Consistency:
    """That the newest head continues the one of size `old`: `merkle.consistent` checks it."""

    origin: str
    old: int
    new: int
    proof: list[bytes]
    note: str


@dataclass(frozen=True)
class InMeta:
    """That a checkpoint stands in the meta log, whose leaf's body is the blinded note."""

    index: int
    size: int
    proof: list[bytes]
    salt: bytes
    body: bytes
    note: str


def inclusion(event_id: str) -> Inclusion:
    """In the newest signed head of the event's log. Raises Unknown and NotYet."""
    # In the newest log that has it: a restored one may hold it without a head.
    leaf = LogLeaf.objects.filter(event_id=event_id).order_by("-log_id").first()
    if leaf is None:
        if LogPending.objects.filter(event_id=event_id).exists():
            raise NotYet("the event has no index yet")
        raise Unknown("no such event")
    log = Log.objects.get(id=leaf.log_id)
    head = _covering(log.id, leaf.index + 1)
    return Inclusion(
        event_id=event_id,
        origin=log.origin,
        index=leaf.index,
        size=head.size,
        leaf_hash=bytes(leaf.leaf_hash),
        proof=merkle.inclusion_proof(tree.nodes(log.id), leaf.index, head.size),
        note=head.note,
    )


def consistency(owner: str, old: int) -> Consistency:
    """From size `old` of the owner's open log to its newest head. Raises Unknown and NotYet."""
    log = Log.objects.filter(owner=owner, closed_at=None).first()
    if log is None:
        raise NotYet("nothing has happened in this log yet")
    head = _covering(log.id, 0)
    if not 0 <= old <= head.size:
        raise Unknown(f"the newest head has {head.size} leaves, fewer than {old}")
    proof = merkle.consistency_proof(tree.nodes(log.id), old, head.size)
    return Consistency(log.origin, old, head.size, proof, head.note)


def in_meta(head: LogCheckpoint) -> InMeta | None:
    """None while no signed head of the meta log covers it."""
    leaf = LogLeaf.objects.filter(event_id=head.id).order_by("-log_id").first()
    if leaf is None:
        return None
    try:
        top = _covering(leaf.log_id, leaf.index + 1)
    except NotYet:
        return None
    proof = merkle.inclusion_proof(tree.nodes(leaf.log_id), leaf.index, top.size)
    salt, body = bytes(head.salt), bytes(head.blind)
    return InMeta(leaf.index, top.size, proof, salt, body, top.note)


def _covering(log_id: str, size: int) -> LogCheckpoint:
    head = LogCheckpoint.objects.filter(log_id=log_id, size__gte=size).order_by("-size").first()
    if head is None:
        raise NotYet("no signed head covers it yet")
    return head


newest = checkpoints.newest
