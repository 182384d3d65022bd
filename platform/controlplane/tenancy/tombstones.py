"""What of this room no backup may bring back, and how it is ended again."""

from datetime import datetime, timedelta

from compliance import audit, tombstones
from compliance.models import Tombstone
from controlplane.tenancy import project_secrets, services
from controlplane.tenancy.models import ApiKey, ApiKeySecret, Membership, ProjectSecret, User


def register() -> None:
    tombstones.register("api_key.revoke", _revoke_key)
    tombstones.register("api_key.rotate", _end_older_secrets)
    tombstones.register("membership.delete", _remove_member)
    tombstones.register("membership.change_role", _change_role)
    tombstones.register("secret.delete", _delete_secret)
    tombstones.register("user.set_password", _forget_password)


def _revoke_key(stone: Tombstone, now: datetime) -> bool:
    key = ApiKey.objects.filter(id=stone.target_id, revoked_at=None).first()
    if key is None:
        return False
    services.revoke_key(actor=audit.SYSTEM, key=key, now=now)
    return True


def _end_older_secrets(stone: Tombstone, now: datetime) -> bool:
    """The secret that took their place is lost: whoever rotated a key rotates it once more."""
    until = stone.at + timedelta(seconds=stone.facts["overlap_s"])
    older = ApiKeySecret.objects.filter(key_id=stone.target_id, created_at__lt=stone.at)
    return older.filter(expires_at=None).update(expires_at=until) > 0


def _remove_member(stone: Tombstone, now: datetime) -> bool:
    # Not by the verb: whoever owned beside them may be lost as well, and the last owner would stay.
    return Membership.objects.filter(id=stone.target_id).delete()[0] > 0


def _change_role(stone: Tombstone, now: datetime) -> bool:
    found = Membership.objects.filter(id=stone.target_id).exclude(role=stone.facts["role"])
    return found.update(role=stone.facts["role"]) > 0


def _delete_secret(stone: Tombstone, now: datetime) -> bool:
    rows = ProjectSecret.objects.select_related("project__organization")
    secret = rows.filter(id=stone.target_id).first()
    if secret is None:
        return False
    project_secrets.delete_secret(actor=audit.SYSTEM, secret=secret, now=now)
    return True


def _forget_password(stone: Tombstone, now: datetime) -> bool:
    """The new one is lost and the old one may be known to others: an operator sets another."""
    user = User.objects.filter(id=stone.target_id).first()
    if user is None:
        return False
    user.set_unusable_password()
    user.save(update_fields=["password"])
    return True
