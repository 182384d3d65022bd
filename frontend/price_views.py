"""What is billed and what is not, at which prices, and what is agreed beside them."""

from collections.abc import Sequence

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
        "devices": [one for one in listed if one.meter in rating.SECONDS],
        "tokens": [one for one in listed if one.meter not in rating.SECONDS],
        "warm": _priced(listed, "warm_seconds"),
        "asleep": _priced(listed, "asleep_seconds"),
        "never": price_list.NEVER_BILLED,
        "terms": terms.within(start, account.currency),
        "coming": _coming(terms, visit),
    }
    return show(request, visit, "prices.html", context)


def _priced(listed: Sequence[Listed], meter: str) -> list[str]:
    """The device kinds that have a price of their own for it."""
    return [
        one.device_kind
        for one in listed
        if one.meter == meter and one.device_kind and one.amount is not None
    ]


def _coming(terms: Terms, visit: Visit) -> bool:
    starts = [
        *(one.valid_from for one in terms.allowances),
        *(one.valid_from for one in terms.commitments),
        *(one.valid_from for one in terms.tiers),
    ]
    return any(start > visit.now for start in starts)
