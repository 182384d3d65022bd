"""Whose invoices and means of payment somebody may see and use, for payments by Stripe.

Owners and admins of an organization pay, and who keeps its books (the role billing).
"""

from dataclasses import dataclass

from django.db.models import QuerySet

from billing.models import Invoice
from billing.payments.stripe.models import StripeMethod
from compliance import ids
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization

PAY = Permission.PAY


@dataclass(frozen=True)
class FoundMethod:
    method: StripeMethod
    organization: Organization


def organization(principal: Principal, id: str, need: Permission) -> Organization:
    """People only: no key of a project pays, or sees by what is paid."""
    if principal.project_id is not None:
        raise NotFound("organization")
    return access.organization(principal, id, need)


def methods(principal: Principal) -> QuerySet[StripeMethod]:
    """Those of all organizations whose costs they see."""
    seen = [
        one
        for one in principal.memberships
        if principal.project_id is None and Permission.VIEW_COSTS in principal.permissions(one)
    ]
    accounts = Organization.objects.filter(id__in=seen).values("account_id")
    return StripeMethod.objects.filter(detached_at=None, account_id__in=accounts)


def method(principal: Principal, id: str, need: Permission) -> FoundMethod:
    found = methods(principal).filter(pk=id).first() if ids.valid(id, "spm") else None
    if found is None:
        raise NotFound("payment method")
    return FoundMethod(found, _owner(principal, found.account_id, need, "payment method"))


def invoice(principal: Principal, id: str, need: Permission) -> Invoice:
    found = Invoice.objects.filter(pk=id).first() if ids.valid(id, "inv") else None
    if found is None or found.state == "draft":
        raise NotFound("invoice")
    _owner(principal, found.account_id, need, "invoice")
    return found


def _owner(principal: Principal, account_id: str, need: Permission, what: str) -> Organization:
    owner = Organization.objects.filter(account_id=account_id).first()
    if owner is None or principal.project_id is not None:
        raise NotFound(what)
    access.demand(principal, need, owner.id, None, what)
    return owner
