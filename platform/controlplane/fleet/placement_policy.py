"""What a pool asks of placement."""

from datetime import datetime

from django.db import transaction

from compliance import audit
from controlplane.fleet import errors
from controlplane.fleet.models import Pool

KEEP_BLOCKS = (0, 2, 4, 8)


def check(keep_block: int) -> None:
    """Raises errors.InvalidPolicy for a size that no aligned block has."""
    if keep_block not in KEEP_BLOCKS:
        sizes = ", ".join(str(size) for size in KEEP_BLOCKS)
        raise errors.InvalidPolicy(f"A block that is kept has {sizes} devices, not {keep_block}.")


def set_placement(
    *,
    pool: Pool,
    actor: audit.Actor,
    now: datetime,
    keep_block: int | None = None,
    share_devices: bool | None = None,
) -> Pool:
    """Keep of the pool's aligned blocks of so many devices one free, or none (0); let replicas of
    one organization share a device, or none any more. From here on: nobody is moved for it. What
    is None stays. Raises errors.InvalidPolicy."""
    if keep_block is not None:
        check(keep_block)
    asked = {"keep_block": keep_block, "share_devices": share_devices}
    with transaction.atomic():
        locked = Pool.objects.select_for_update(of=("self",)).get(pk=pool.pk)
        change = [
            audit.Change(name, getattr(locked, name), value)
            for name, value in asked.items()
            if value is not None and value != getattr(locked, name)
        ]
        for one in change:
            setattr(locked, one.path, one.after)
        if change:
            locked.save(update_fields=[one.path for one in change])
            audit.record(
                actor=actor,
                action="pool.update",
                target=audit.Target("pool", pool.id),
                log=audit.PLATFORM,
                region=pool.region_id,
                now=now,
                change=change,
            )
    return locked
