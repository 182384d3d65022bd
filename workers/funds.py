"""What customers can pay bounds what they may spend, and they hear of it before it ends."""

import logging
from datetime import datetime

from django.db.models import Sum

from billing import errors
from billing.models import UsageInbox
from billing.spending import funds
from compliance import audit
from controlplane.tenancy import notices
from controlplane.tenancy.models import Organization, Project

log = logging.getLogger(__name__)


def tend(now: datetime) -> int:
    """Set each bounded customer's budget; returns how many there are."""
    wanted = [one.account_id for one in funds.bounded()]
    organizations = {
        one.account_id: one for one in Organization.objects.filter(account_id__in=wanted)
    }
    pending = _pending(organizations.values())
    owners = {
        account_id: funds.Whose(one.id, one.region_code, pending.get(one.id, 0))
        for account_id, one in organizations.items()
    }
    try:
        found = funds.tend(owners, now)
    except errors.BillingError as error:
        log.error("budgets of what customers can pay are not set: %s", error)
        return 0
    for each in found:
        _tell(organizations[each.account_id], each, now)
    return len(found)


def _pending(organizations: object) -> dict[str, int]:
    """Requests that were spent in the budgets and are not usage yet: seconds of them."""
    rows = UsageInbox.objects.filter(booked_at=None, problem="").values_list("project_id")
    sums = {project: int(total) for project, total in rows.annotate(total=Sum("nano_eur"))}
    found: dict[str, int] = {}
    for id, organization_id in Project.objects.filter(id__in=sums).values_list(
        "id", "organization_id"
    ):
        found[organization_id] = found.get(organization_id, 0) + sums[id]
    return found


def _tell(organization: Organization, each: funds.Funds, now: datetime) -> None:
    """At 80, 95 and 100 %, once each until there is more again."""
    about = audit.Target("account", each.account_id)
    for percent in funds.THRESHOLDS:
        key = f"low:{percent}"
        if each.used_percent < percent:
            notices.withdraw(actor=audit.SYSTEM, about=about, key=f"{key}:{_turn(each)}", now=now)
            continue
        notices.tell(
            organization,
            subject=_subject(each, percent),
            text=_text(each),
            about=about,
            key=f"{key}:{_turn(each)}",
            now=now,
        )


def _turn(each: funds.Funds) -> str:
    """More credit, or another limit, is another tale."""
    return str(each.whole)


def _subject(each: funds.Funds, percent: int) -> str:
    what = "credit" if each.mode == "prepaid" else "credit limit"
    if percent == 100:
        return f"The {what} is used up: nothing new starts"
    return f"{percent} % of the {what} is used"


def _text(each: funds.Funds) -> str:
    left = max(0, each.available) // 10**7 / 100
    pace = f" At the pace of the last day it lasts {each.days_left} days." if each.days_left else ""
    return (
        f"{left:.2f} EUR without VAT can still be spent.{pace} What cannot be paid does not scale"
        " or stay warm, and running work drains."
    )
