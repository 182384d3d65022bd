"""What devices cost their owner, and what they brought in: the operator's view of a period.

Seconds are device-seconds, parts of devices counted for what they are of a whole one. Every second
that a device is owned is one of: *sold* (serving, keep-warm or asleep at a price), *given away*
(held by a replica and not billed: starting, draining, asleep for nothing, lost to a fault) or
*idle* (held by nobody).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from django.db import transaction

from billing import errors, rating
from billing.pricing import prices
from billing.reports.models import OwnedCost
from compliance import audit


@dataclass(frozen=True)
class Capacity:
    """What was there of one kind of device, from one moment to the next, by whoever knows nodes:
    `owned_s` device-seconds in the fleet, `held_s` of them held by replicas."""

    device_kind: str
    start: datetime
    end: datetime
    owned_s: Fraction
    held_s: Fraction


@dataclass(frozen=True)
class Sold:
    """What was charged for a kind's seconds and tokens, less what was given back of it."""

    device_kind: str
    seconds: Fraction
    revenue: Fraction
    given_back: Fraction = Fraction(0)


@dataclass(frozen=True)
class Row:
    """One kind of device. Money has two decimals; `cost` is None where the operator has not said
    what an hour costs, and so is what follows from it. Hours have two decimals."""

    device_kind: str
    owned_h: Decimal
    sold_h: Decimal
    given_away_h: Decimal
    idle_h: Decimal
    revenue: Decimal
    given_back: Decimal
    cost: Decimal | None
    margin: Decimal | None
    cost_per_sold_hour: Decimal | None


def set_cost(
    *, actor: audit.Actor, device_kind: str, amount: Decimal, valid_from: datetime, now: datetime
) -> OwnedCost:
    """What an hour of a device of this kind costs from `valid_from` on; the same again returns
    what is there. Raises errors.PriceRefused."""
    prices.check_amount(amount)
    if not device_kind:
        raise errors.PriceRefused("name the kind of device that this is the cost of")
    with transaction.atomic():
        found, created = OwnedCost.objects.get_or_create(
            device_kind=device_kind,
            valid_from=valid_from,
            defaults={"amount": amount, "created_at": now},
        )
        if not created:
            if found.amount != amount:
                raise errors.PriceRefused(f"a cost from {valid_from} on exists: {found.amount}")
            return found
        audit.record(
            actor=actor,
            action="owned_cost.create",
            target=audit.Target("owned_cost", found.id),
            log=audit.PLATFORM,
            now=now,
            change=(
                audit.Change("device_kind", None, device_kind),
                audit.Change("amount", None, str(amount)),
                audit.Change("valid_from", None, valid_from.isoformat()),
            ),
        )
    return found


def of(capacity: Iterable[Capacity], sold: Iterable[Sold], costs: Sequence[OwnedCost]) -> list[Row]:
    """A row for each kind that was owned or sold, by name."""
    there: dict[str, list[Capacity]] = {}
    for piece in capacity:
        there.setdefault(piece.device_kind, []).append(piece)
    earned = {one.device_kind: one for one in sold}
    return [
        _row(kind, there.get(kind, []), earned.get(kind), costs)
        for kind in sorted({*there, *earned})
    ]


def cuts(costs: Iterable[OwnedCost], start: datetime, end: datetime) -> list[datetime]:
    """Where a period must be cut, so that within a piece each kind has one cost."""
    within = {one.valid_from for one in costs if start < one.valid_from < end}
    return [start, *sorted(within), end]


def as_json(rows: Iterable[Row]) -> list[Mapping[str, str | None]]:
    return [
        {name: None if value is None else str(value) for name, value in vars(row).items()}
        for row in rows
    ]


def _row(
    kind: str, pieces: Sequence[Capacity], sold: Sold | None, costs: Sequence[OwnedCost]
) -> Row:
    owned = sum((piece.owned_s for piece in pieces), Fraction(0))
    held = sum((piece.held_s for piece in pieces), Fraction(0))
    seconds = sold.seconds if sold else Fraction(0)
    revenue = sold.revenue if sold else Fraction(0)
    cost = _cost(kind, pieces, costs)
    return Row(
        device_kind=kind,
        owned_h=_hours(owned),
        sold_h=_hours(seconds),
        given_away_h=_hours(max(held - seconds, Fraction(0))),
        idle_h=_hours(max(owned - max(held, seconds), Fraction(0))),
        revenue=rating.rounded(revenue),
        given_back=rating.rounded(sold.given_back if sold else Fraction(0)),
        cost=None if cost is None else rating.rounded(cost),
        margin=None if cost is None else rating.rounded(revenue - cost),
        cost_per_sold_hour=None
        if cost is None or not seconds
        else rating.rounded(cost * 3600 / seconds),
    )


def _cost(kind: str, pieces: Iterable[Capacity], costs: Sequence[OwnedCost]) -> Fraction | None:
    """None where a second was owned that has no cost."""
    total = Fraction(0)
    for piece in pieces:
        in_force = [c for c in costs if c.device_kind == kind and c.valid_from <= piece.start]
        if not in_force:
            if piece.owned_s:
                return None
            continue
        newest = max(in_force, key=lambda one: one.valid_from)
        total += piece.owned_s * Fraction(newest.amount) / 3600
    return total


def _hours(seconds: Fraction) -> Decimal:
    return rating.rounded(seconds / 3600)
