"""Certificates of gateways, and those that are worth nothing before they end: theirs or a node's.

A revocation names whose certificates, and until when they were issued: so it holds for every one of
them, whoever has a copy, and a new one is good at once. Relays learn of it with their wish list and
cut what is open; gateways with their directory. The control plane asks its own tables.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F

from compliance import audit
from controlplane.fleet import authority, errors, issuance, notify, wire
from controlplane.fleet.models import Node, Region, Revocation

# The longest life of a certificate: what was revoked earlier has ended by itself.
_LONGEST = timedelta(days=90)
_REVOKED = "revoked:"  # in place of a fingerprint: no certificate has it


def issue_gateway_certificate(
    *,
    region: Region,
    gateway_id: str,
    csr_pem: str,
    actor: audit.Actor,
    now: datetime,
    lifetime: timedelta = authority.GATEWAY_LIFETIME,
) -> str:
    """PEM of a certificate with which a gateway calls the relays of the region's nodes.

    Raises InvalidRequest and InvalidName.
    """
    key = authority.requested_key(csr_pem)
    certificate = authority.gateway_certificate(
        issuance.opened(region), key, gateway_id=gateway_id, now=now, lifetime=lifetime
    )
    with transaction.atomic():
        audit.record(
            actor=actor,
            action="gateway.enroll",
            target=audit.Target("gateway", gateway_id),
            log=audit.PLATFORM,
            region=region.code,
            now=now,
            change=[
                audit.Change("certificate_sha256", None, authority.sha256(certificate)),
                audit.Change("expires_at", None, audit.stamp(certificate.not_valid_after_utc)),
            ],
        )
    return authority.pem(certificate)


def revoke_gateway(*, region: Region, gateway_id: str, actor: audit.Actor, now: datetime) -> None:
    """Every certificate of that gateway that was issued until now. Raises InvalidName."""
    if authority.GATEWAY_ID.fullmatch(gateway_id) is None:
        raise errors.InvalidName(f"{gateway_id[:80]!r} is no gateway's id.")
    with transaction.atomic():
        note(region.code, "gateway", gateway_id, now)
        audit.record(
            actor=actor,
            action="gateway.revoke",
            target=audit.Target("gateway", gateway_id),
            log=audit.PLATFORM,
            region=region.code,
            now=now,
        )


def revoke_node(*, node: Node, actor: audit.Actor, now: datetime) -> Node:
    """Every certificate of that node that was issued until now; an enrolment token for the node
    gives it another. What runs there runs on; nothing new is sent to it."""
    with transaction.atomic():
        node = Node.objects.select_for_update(of=("self",)).select_related("pool").get(pk=node.pk)
        region = node.pool.region_id
        node.certificate_sha256 = f"{_REVOKED}{node.id}"
        node.previous_certificate_sha256 = ""
        # Nobody vouches for it any more: what it serves is not routed from now on.
        if node.lease_until is not None:
            node.lease_until = min(node.lease_until, now)
        fields = ("certificate_sha256", "previous_certificate_sha256", "lease_until")
        node.save(update_fields=fields)
        note(region, "node", node.id, now)
        notify.changed(node.id)  # ends a poll of it that waits
        audit.record(
            actor=actor,
            action="node.revoke",
            target=audit.Target("node", node.id),
            log=audit.PLATFORM,
            region=region,
            now=now,
        )
    return node


def note(region: str, kind: str, subject: str, now: datetime) -> None:
    """Part of a verb that takes a name's certificates away: all other nodes hear it."""
    node_life = timedelta(seconds=settings.NODE_CERTIFICATE_S)
    expired_by = now + (_LONGEST if kind == "gateway" else max(node_life, timedelta(days=1)))
    Revocation.objects.update_or_create(
        region_id=region,
        kind=kind,
        subject=subject,
        defaults={"issued_until": now, "expired_by": expired_by},
    )
    nodes = Node.objects.filter(pool__region_id=region, removed_at=None).exclude(pk=subject)
    ids = list(nodes.values_list("id", flat=True))
    Node.objects.filter(pk__in=ids).update(desired_version=F("desired_version") + 1)
    notify.changed(*ids)


def listed(region: str, now: datetime) -> list[wire.Revoked]:
    """What nodes of the region must know."""
    found = Revocation.objects.filter(region_id=region, expired_by__gt=now).order_by("subject")
    return [
        wire.Revoked(kind=one.kind, id=one.subject, issued_until=one.issued_until.timestamp())
        for one in found
    ]


def is_revoked(certificate_sha256: str) -> bool:
    """Of a node, as its row has it."""
    return certificate_sha256.startswith(_REVOKED)
