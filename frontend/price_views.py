"""What is billed and what is not, at which prices, and what is agreed beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from billing import months, rating
from billing.pricing import agreements, price_list, prices
from billing.pricing.price_list import Listed
from billing.pricing.terms import Terms
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from frontend.visits import Request, Visit, page, show


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    organization = access.organization(visit.principal, visit.organization.id, Permission.READ)
    account = organization.account
    listed = price_list.at(
        prices.versions(account.currency, account.id),
        visit.now,
        currency=account.currency,
        account_id=account.id,
    )
    terms = agreements.of(account.id)
    start = months.start_of(visit.now)
    context = {
        "currency": account.currency,
        "kinds": _kinds(listed),
        "tokens": [one for one in listed if one.meter not in rating.SECONDS],
        "never": price_list.NEVER_BILLED,
        "terms": terms.within(start, account.currency),
        "coming": _coming(terms, visit),
    }
    return show(request, visit, "prices.html", context)


@dataclass(frozen=True)
class Kind:
    """What an hour of one kind of device costs while it serves, waits warm, and sleeps; None where
    it has no such price of its own. An empty `name`: every kind that has none."""

    name: str
    serving: Listed | None
    warm: Listed | None
    asleep: Listed | None


def _kinds(listed: Sequence[Listed]) -> list[Kind]:
    """The general one last. Metering counts waiting apart only where the very kind has a price of
    its own for it, so a general price for that has no cell."""
    found = {(one.meter, one.device_kind): one for one in listed}
    names = sorted({one.device_kind for one in listed if one.meter in rating.SECONDS})
    named = [name for name in names if name]
    kinds = [Kind(name, *(found.get((meter, name)) for meter in rating.SECONDS)) for name in named]
    general = found.get(("device_seconds", ""))
    return [*kinds, Kind("", general, None, None)] if general else kinds


def _coming(terms: Terms, visit: Visit) -> bool:
    starts = [
        *(one.valid_from for one in terms.allowances),
        *(one.valid_from for one in terms.commitments),
        *(one.valid_from for one in terms.tiers),
    ]
    return any(start > visit.now for start in starts)
