"""What of this room no backup may bring back, and how it is ended again."""

from datetime import datetime

from compliance import audit, tombstones
from compliance.models import Tombstone
from controlplane.fleet import revoking
from controlplane.fleet.models import EnrollmentToken, Node


def register() -> None:
    tombstones.register("node.revoke", _revoke_node)
    for action in ("node.decommissioned", "node.delete"):
        tombstones.register(action, _remove_node)
    tombstones.register("gateway.revoke", _revoke_gateway)
    tombstones.register("enrollment_token.revoke", _end_token)


def _revoke_node(stone: Tombstone, now: datetime) -> bool:
    node = Node.objects.filter(id=stone.target_id).first()
    if node is None or revoking.is_revoked(node.certificate_sha256):
        return False
    revoking.revoke_node(node=node, actor=audit.SYSTEM, now=now)
    return True


def _remove_node(stone: Tombstone, now: datetime) -> bool:
    """It left for good: it is not trusted, and its replicas are given up as those of a lost one."""
    node = Node.objects.filter(id=stone.target_id, removed_at=None).first()
    if node is None:
        return False
    if not revoking.is_revoked(node.certificate_sha256):
        revoking.revoke_node(node=node, actor=audit.SYSTEM, now=now)
    Node.objects.filter(id=node.id, cordoned_at=None).update(cordoned_at=now)
    return True


def _revoke_gateway(stone: Tombstone, now: datetime) -> bool:
    revoking.note(stone.facts["region"], "gateway", stone.target_id, stone.at)
    return True


def _end_token(stone: Tombstone, now: datetime) -> bool:
    open_ones = EnrollmentToken.objects.filter(id=stone.target_id, used_at=None)
    return open_ones.filter(expires_at__gt=now).update(expires_at=now) > 0
