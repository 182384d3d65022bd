"""The fleet's verbs. Each runs in one transaction and records one audit event."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from compliance import audit, ids
from controlplane.fleet import (
    authority,
    errors,
    inventory,
    issuance,
    notify,
    placement_policy,
    regions,
    revoking,
    wire,
)
from controlplane.fleet.models import EnrollmentToken, Node, Pool, Region
from controlplane.tenancy.models import Organization

PREFIX = "stoa-enroll-"
TOKEN_LIFETIME = timedelta(hours=1)
_NAME_LENGTH = 100
_VERSION_LENGTH = 32
_BOOT_ID_LENGTH = 64


# --- Places ---------------------------------------------------------------------------


def create_region(
    *, code: str, country: str, name: str, actor: audit.Actor, now: datetime
) -> Region:
    """Open a region with a certificate authority of its own.

    Raises InvalidRegion for a country outside the EU or a malformed code, InvalidName, and
    AlreadyExists.
    """
    if country not in regions.COUNTRIES:
        raise errors.InvalidRegion(
            f"{country!r} is no EU member state: use one of {', '.join(regions.COUNTRIES)}."
        )
    if not regions.valid_code(code):
        raise errors.InvalidRegion(
            "A region's code is lower-case letters, digits and hyphens, such as eu-de-1."
        )
    region = Region(code=code, country=country, name=_name(name), created_at=now)
    issuance.found(region, now)
    with transaction.atomic():
        _insert(region, f"There is a region {code} already.")
        audit.record(
            actor=actor,
            action="region.create",
            target=audit.Target("region", code),
            log=audit.PLATFORM,
            region=code,
            now=now,
            change=[audit.Change("country", None, country)],
        )
    return region


def create_pool(
    *,
    region: Region,
    name: str,
    actor: audit.Actor,
    now: datetime,
    organization: Organization | None = None,
    share_standby: bool = False,
    keep_block: int = 0,
    share_devices: bool = False,
) -> Pool:
    """Make a pool; with `organization` it serves that one alone.

    `keep_block`: of its blocks of so many devices one stays free for who needs all of it.
    `share_devices`: replicas of one organization may share a device.
    Raises InvalidName, InvalidRegion for an organization of another region, InvalidPolicy,
    AlreadyExists.
    """
    placement_policy.check(keep_block)
    if organization is not None and organization.region_code != region.code:
        raise errors.InvalidRegion(
            f"That organization belongs to {organization.region_code}, the pool to {region.code}."
        )
    pool = Pool(
        region=region,
        name=_name(name),
        organization=organization,
        share_standby=share_standby,
        keep_block=keep_block,
        share_devices=share_devices,
        created_at=now,
    )
    with transaction.atomic():
        _insert(pool, f"There is a pool {pool.name} in {region.code} already.")
        audit.record(
            actor=actor,
            action="pool.create",
            target=audit.Target("pool", pool.id),
            log=audit.PLATFORM,
            region=region.code,
            now=now,
            change=[
                audit.Change("organization", None, organization.id if organization else None),
                audit.Change("share_standby", None, share_standby),
                audit.Change("keep_block", None, keep_block),
                audit.Change("share_devices", None, share_devices),
            ],
            personal={"name": pool.name},
        )
    return pool


# --- Joining --------------------------------------------------------------------------


def issue_enrollment_token(
    *,
    pool: Pool,
    actor: audit.Actor,
    now: datetime,
    node: Node | None = None,
    ttl: timedelta = TOKEN_LIFETIME,
) -> tuple[EnrollmentToken, str]:
    """A single-use token for `pool`, and its secret, which nobody can read again.

    With `node` it lets that node, and no new one, join again with a new key.
    Raises RemovedNode, and ValueError if the node is of another pool.
    """
    if node is not None and node.pool_id != pool.pk:
        raise ValueError("the node is of another pool")
    if node is not None and node.removed_at is not None:
        raise errors.RemovedNode(f"Node {node.name} was removed: enrol the machine as a new one.")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = EnrollmentToken(
        pool=pool,
        node=node,
        hash=_digest(secret),
        expires_at=now + ttl,
        created_at=now,
        created_by=actor.id,
    )
    with transaction.atomic():
        token.save(force_insert=True)
        audit.record(
            actor=actor,
            action="enrollment_token.create",
            target=audit.Target("enrollment_token", token.id),
            log=audit.PLATFORM,
            region=pool.region_id,
            now=now,
            change=[
                audit.Change("pool", None, pool.id),
                audit.Change("node", None, node.id if node else None),
                audit.Change("expires_at", None, audit.stamp(token.expires_at)),
            ],
        )
    return token, secret


def enroll(
    *, token: str, csr_pem: str, name: str, agent_version: str, now: datetime
) -> tuple[Node, wire.Credential]:
    """Exchange a token for a certificate: a new node of the token's pool, or the token's own node.

    The token is spent by compare-and-set: of any number of machines exactly one gets in. That one
    may ask again with the same key for as long as the token lasts and no report of the node has
    come: its first answer was lost, or it died before it had written it down. It gets the same
    node and a new certificate, beside which the first stays good.
    Raises InvalidRequest and InvalidName (the token stays good), InvalidToken, UsedToken,
    ExpiredToken, RemovedNode.
    """
    key = authority.requested_key(csr_pem)
    name, agent_version = _name(name), _name(agent_version, length=_VERSION_LENGTH)
    digest = _digest(token)
    try:
        with transaction.atomic():
            spent = _spend(digest, authority.key_sha256(key), now)
            node, again = _joining(spent, name, now)
            credential = issuance.certify(node, key, now)
            node.agent_version = agent_version
            node.save(force_insert=not again)
            EnrollmentToken.objects.filter(pk=spent.pk).update(admitted=node)
            audit.record(
                actor=audit.Actor("node", node.id, auth="enrollment_token"),
                action="node.enroll",
                target=audit.Target("node", node.id),
                log=audit.PLATFORM,
                region=spent.pool.region_id,
                now=now,
                change=[
                    audit.Change("pool", None, spent.pool_id),
                    audit.Change("enrollment_token", None, spent.id),
                    audit.Change("certificate_sha256", None, node.certificate_sha256),
                    audit.Change("again", None, again),
                ],
                personal={"name": name},
            )
    except (errors.UsedToken, errors.ExpiredToken) as refused:
        _record_refusal(digest, refused.code, now)
        raise
    return node, credential


def renew(
    *, node: Node, csr_pem: str, presented_sha256: str, now: datetime
) -> tuple[Node, wire.Credential]:
    """A new certificate for a node that proved that it holds the one of `presented_sha256`.

    The presented one stays good until the new one is first seen, so that a lost reply locks no
    node out; any other is refused from now on. Raises InvalidRequest, RemovedNode, and
    SupersededCredential when another renewal has overtaken this one.
    """
    key = authority.requested_key(csr_pem)
    with transaction.atomic():
        node = locked(node)
        if presented_sha256 not in (node.certificate_sha256, node.previous_certificate_sha256):
            raise errors.SupersededCredential("This certificate was replaced by a newer one.")
        credential = issuance.certify(node, key, now)
        node.previous_certificate_sha256 = presented_sha256
        node.save(
            update_fields=(
                "certificate_sha256",
                "certificate_expires_at",
                "previous_certificate_sha256",
            )
        )
        audit.record(
            actor=audit.Actor("node", node.id, auth="certificate"),
            action="node.renew",
            target=audit.Target("node", node.id),
            log=audit.PLATFORM,
            region=credential.region,
            now=now,
            change=[audit.Change("certificate_sha256", presented_sha256, node.certificate_sha256)],
        )
    return node, credential


# --- Serving --------------------------------------------------------------------------


def heartbeat(*, node: Node, report: wire.Report, signed_at: datetime, now: datetime) -> bool:
    """Take note that the node lives; False when the report is stale and must not be applied.

    Within a boot of the agent `seq` orders reports. Between boots the time does at which the
    node signed them: the last words of an agent that died may arrive after the first of its
    successor. `node` is then as the database has it, perhaps with a newer report than this one.
    Raises InvalidReport.
    """
    same = Q(boot_id=report.boot_id)
    newer = same & Q(report_seq__lt=report.seq)
    successor = ~same & (Q(report_signed_at=None) | Q(report_signed_at__lte=signed_at))
    check(report)
    facts: dict[str, object] = {
        "boot_id": report.boot_id,
        "report_seq": report.seq,
        "report_signed_at": signed_at,
        "heartbeat_at": now,
        "lease_until": now + timedelta(seconds=settings.NODE_LEASE_S),
        "agent_version": report.agent_version,
    }
    if report.inventory is not None:
        facts["inventory"] = inventory.document(report.inventory)
    with transaction.atomic():
        taken = Node.objects.filter(newer | successor, pk=node.pk, removed_at=None).update(**facts)
        if taken and report.inventory is not None:
            inventory.record(node, report.inventory)
    node.refresh_from_db()
    return bool(taken)


def renewal_due(expires_at: datetime, now: datetime) -> bool:
    """Half of the certificate's life is over: time enough to try again."""
    return expires_at - now < timedelta(seconds=settings.NODE_CERTIFICATE_S / 2)


def versions(node_ids: Iterable[str]) -> dict[str, int | None]:
    """Of each node the version of its wish list; None where its credential counts no more."""
    rows = Node.objects.filter(pk__in=list(node_ids)).order_by()
    found = rows.values_list("id", "desired_version", "removed_at", "certificate_sha256")
    return {
        id: None if removed_at or revoking.is_revoked(sha256) else version
        for id, version, removed_at, sha256 in found
    }


def touch(node: Node) -> None:
    """The node's wish list changed: raise its version and wake its agent's long poll."""
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(desired_version=F("desired_version") + 1)
        notify.changed(node.pk)


# --- Keeping --------------------------------------------------------------------------


def cordon(*, node: Node, actor: audit.Actor, now: datetime) -> Node:
    """Place nothing new on the node; what runs there runs on. Raises RemovedNode."""
    with transaction.atomic():
        node = locked(node)
        if node.cordoned_at is None or node.health_action:
            node.cordoned_at = node.cordoned_at or now
            _take_over(node)
            _keep(node, "node.cordon", actor, now, "cordoned_at", *_HEALTH)
    return node


def uncordon(*, node: Node, actor: audit.Actor, now: datetime) -> Node:
    """Take the node back into service, and end its drain. Raises RemovedNode, and Leaving.

    What is wrong with it now moves the health policy no more: somebody has seen it.
    """
    with transaction.atomic():
        node = locked(node)
        if leaving(node):
            raise errors.Leaving(f"Node {node.name} is being decommissioned: cancel that first.")
        if node.cordoned_at is not None or node.drain_requested_at is not None:
            node.cordoned_at = node.drain_requested_at = None
            _take_over(node)
            seen = node.findings.filter(ended_at=None, acknowledged_at=None)
            seen.update(acknowledged_at=now)
            _keep(node, "node.uncordon", actor, now, "cordoned_at", "drain_requested_at", *_HEALTH)
    return node


def drain(*, node: Node, actor: audit.Actor, now: datetime) -> Node:
    """Cordon the node and ask the reconciler to move its replicas away. Raises RemovedNode."""
    with transaction.atomic():
        node = locked(node)
        if node.drain_requested_at is None or node.health_action:
            node.cordoned_at = node.cordoned_at or now
            node.drain_requested_at = node.drain_requested_at or now
            _take_over(node)
            _keep(node, "node.drain", actor, now, "cordoned_at", "drain_requested_at", *_HEALTH)
    return node


def remove_node(*, node: Node, actor: audit.Actor, now: datetime) -> Node:
    """Take the node out of the fleet for good; its record stays and its credential is dead.

    What it ran is lost: drain it first. Its lease ends here, so that nothing counts on it.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update(of=("self",)).get(pk=node.pk)
        if node.removed_at is None:
            node.removed_at = now
            node.cordoned_at = node.cordoned_at or now
            if node.lease_until is not None:
                node.lease_until = min(node.lease_until, now)
            revoking.note(node.pool.region_id, "node", node.id, now)
            _keep(node, "node.delete", actor, now, "removed_at", "cordoned_at", "lease_until")
    return node


_HEALTH = ("health_action", "health_reason", "health_since")


def _take_over(node: Node) -> None:
    """An operator decides for this node from here on: the health policy undoes nothing of it."""
    node.health_action, node.health_reason, node.health_since = "", "", None


def _keep(node: Node, action: str, actor: audit.Actor, now: datetime, *fields: str) -> None:
    node.save(update_fields=fields)
    touch(node)
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("node", node.id),
        log=audit.PLATFORM,
        region=node.pool.region_id,
        now=now,
    )


def leaving(node: Node) -> bool:
    """Whether it is being decommissioned."""
    return node.decommissions.filter(device=None, closed_at=None).exists()


# --- Inside ---------------------------------------------------------------------------


def _name(name: str, *, length: int = _NAME_LENGTH) -> str:
    name = name.strip()
    if not 0 < len(name) <= length or not name.isprintable():
        raise errors.InvalidName(
            f"A name is 1 to {length} printable characters, not {name[: length + 1]!r}."
        )
    return name


def check(report: wire.Report) -> None:
    """Raises InvalidReport for what the columns cannot hold."""
    words = ((report.boot_id, _BOOT_ID_LENGTH), (report.agent_version, _VERSION_LENGTH))
    if not all(0 < len(word) <= length and word.isprintable() for word, length in words):
        raise errors.InvalidReport("boot_id or agent_version is empty, too long or not printable.")
    if not 0 <= report.seq < 1 << 63:
        raise errors.InvalidReport("seq is out of bounds.")


def _insert(row: Region | Pool, taken: str) -> None:
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise errors.AlreadyExists(taken) from error


def _digest(secret: str) -> bytes:
    """A token has 256 random bits: a plain hash of it cannot be guessed backwards."""
    return hashlib.sha256(secret.encode()).digest()


def _spend(digest: bytes, key_sha256: str, now: datetime) -> EnrollmentToken:
    """The token, taken by this key: now, or before by the same one."""
    found = EnrollmentToken.objects.filter(hash=digest)
    unused = found.filter(used_at=None, expires_at__gt=now)
    spent = unused.update(used_at=now, used_key_sha256=key_sha256)
    token = found.select_related("pool__region").first()
    if token is None:
        raise errors.InvalidToken("This is no enrolment token of ours: ask for a new one.")
    if spent:
        return token
    if token.used_at is None:
        raise errors.ExpiredToken(
            f"This enrolment token expired at {_minute(token.expires_at)}: ask for a new one."
        )
    if token.admitted_id is None or token.used_key_sha256 != key_sha256 or token.expires_at <= now:
        raise _used(token)
    return token


def _joining(token: EnrollmentToken, name: str, now: datetime) -> tuple[Node, bool]:
    """The node that a token admits, locked, and whether it is a known one."""
    if token.admitted_id is not None:
        node = locked(Node(pk=token.admitted_id))
        if node.report_signed_at is not None:
            raise _used(token)  # it has its credential: nobody else needs one
        # Two attempts may cross each other: whichever answer arrives must be good.
        node.previous_certificate_sha256 = node.certificate_sha256
        return node, True
    if token.node_id is None:
        node = Node(id=ids.new("node"), pool=token.pool, name=name, created_at=now)
        return node, False
    node = locked(Node(pk=token.node_id))
    # A new key: nothing that the old one signed counts, nor the order of its reports.
    node.previous_certificate_sha256 = ""
    node.report_signed_at = None
    return node, True


def _used(token: EnrollmentToken) -> errors.UsedToken:
    at = _minute(token.used_at) if token.used_at else "some time"
    return errors.UsedToken(f"This enrolment token was used at {at}: ask for a new one.")


def locked(node: Node) -> Node:
    """The node under its row's lock, within the caller's transaction. Raises RemovedNode."""
    found = Node.objects.select_for_update(of=("self",)).select_related("pool__region")
    node = found.get(pk=node.pk)
    if node.removed_at is not None:
        raise errors.RemovedNode(f"Node {node.name} was removed from the fleet.")
    return node


def _record_refusal(digest: bytes, code: str, now: datetime) -> None:
    """Somebody tried a spent token: the operator should be able to see it."""
    token = EnrollmentToken.objects.select_related("pool").get(hash=digest)
    audit.record(
        actor=audit.SYSTEM,
        action="node.refuse",
        target=audit.Target("enrollment_token", token.id),
        log=audit.PLATFORM,
        region=token.pool.region_id,
        now=now,
        outcome="denied",
        reason=code,
    )


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
