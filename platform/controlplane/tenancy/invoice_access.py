"""Whose invoices somebody may see: the way to them, as `access` is to other things.

An invoice is of a whole organization, so a project's keys see none. The operator sees all.
"""

from django.db.models import QuerySet

from billing.models import Invoice
from compliance import ids
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization


def invoices(principal: Principal) -> QuerySet[Invoice]:
    found = Invoice.objects.select_related("account", "entity", "corrects")
    if principal.is_operator:
        return found
    if principal.project_id is not None:
        return found.none()
    seen = [
        one for one in principal.memberships if Permission.VIEW_COSTS in principal.permissions(one)
    ]
    return found.filter(account__organization__in=seen)


def invoice(principal: Principal, id: str) -> Invoice:
    """NotFound for what is not in `invoices`."""
    found = invoices(principal).filter(pk=id).first() if ids.valid(id, "inv") else None
    if found is None:
        raise NotFound("invoice")
    return found


def owner(invoice: Invoice) -> Organization | None:
    return Organization.objects.filter(account_id=invoice.account_id).first()
