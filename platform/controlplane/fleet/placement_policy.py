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


def set_placement(*, pool: Pool, keep_block: int, actor: audit.Actor, now: datetime) -> Pool:
    """Keep of the pool's aligned blocks of so many devices one free, or none (0), from here on:
    nobody is moved for it. Raises errors.InvalidPolicy."""
    check(keep_block)
    with transaction.atomic():
        locked = Pool.objects.select_for_update(of=("self",)).get(pk=pool.pk)
        before, locked.keep_block = locked.keep_block, keep_block
        if before != keep_block:
            locked.save(update_fields=("keep_block",))
            audit.record(
                actor=actor,
                action="pool.update",
                target=audit.Target("pool", pool.id),
                log=audit.PLATFORM,
                region=pool.region_id,
                now=now,
                change=[audit.Change("keep_block", before, keep_block)],
            )
    return locked
