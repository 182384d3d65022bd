"""What holders have been granted of budgets, and how that ends where nobody can give it back."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import Greatest

from billing import errors
from billing.models import Lease
from compliance import audit


@dataclass(frozen=True)
class Holding:
    """The open leases of one holder under one epoch, which end together."""

    holder: str
    epoch: str
    leases: int
    outstanding: dict[str, int]  # by unit


def open_leases() -> QuerySet[Lease]:
    return Lease.objects.filter(closed_at=None)


def holdings() -> list[Holding]:
    rows = (
        open_leases()
        .values("holder", "epoch", "budget__unit")
        .annotate(
            count=Count("id"),
            held=Sum(Greatest(F("granted") - F("settled"), 0)),
        )
        .order_by("holder", "epoch", "budget__unit")
    )
    found: dict[tuple[str, str], Holding] = {}
    for row in rows:
        key = row["holder"], row["epoch"]
        before = found.get(key) or Holding(*key, 0, {})
        found[key] = Holding(
            *key,
            before.leases + row["count"],
            {**before.outstanding, row["budget__unit"]: int(row["held"])},
        )
    return list(found.values())


def write_off(*, actor: audit.Actor, holder: str, epoch: str, now: datetime) -> Holding:
    """A gateway's disk is lost, and with it what it had not told: free what it held.

    Only an operator knows that. What was spent and never arrived is not charged to anybody, and
    may be spent again: that is what is written off. Raises errors.BudgetConflict where the
    holder has no open lease under this epoch.
    """
    with transaction.atomic():
        mine = open_leases().filter(holder=holder, epoch=epoch)
        # Windows before leases, everywhere; here no window changes.
        list(mine.select_for_update().order_by("id").values_list("id", flat=True))
        found = [each for each in holdings() if (each.holder, each.epoch) == (holder, epoch)]
        if not found:
            message = f"{holder} holds nothing under the epoch {epoch}"
            raise errors.BudgetConflict(message, code="no_such_leases")
        mine.update(closed_at=now)
        audit.record(
            actor=actor,
            action="lease.write_off",
            target=audit.Target("lease_holder", holder),
            log=audit.PLATFORM,
            now=now,
            change=[
                audit.Change("epoch", epoch, None),
                audit.Change("leases", found[0].leases, 0),
                audit.Change("outstanding", dict(found[0].outstanding), None),
            ],
        )
    return found[0]
