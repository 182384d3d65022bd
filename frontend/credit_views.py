"""Credit and payments of an organization: what is left, what came in, and a voucher's code."""

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect

from billing import errors
from billing.credit import vouchers
from billing.models import CreditGrant, Payment
from billing.payments.overdue import overdue
from controlplane.api.credit_views import shown
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from frontend.visits import Request, Visit, page, show

NEWEST = 50  # grants, and payments


class VoucherForm(forms.Form):
    code = forms.CharField(label="Code", max_length=64)


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows; POST uses a voucher."""
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    writes = request.method == "POST"
    organization = access.organization(
        visit.principal,
        request.POST.get("organization", "") if writes else visit.organization.id,
        Permission.MANAGE_PROJECTS if writes else Permission.VIEW_COSTS,
    )
    form = VoucherForm(request.POST or None)
    if writes and form.is_valid():
        try:
            made = vouchers.redeem(
                organization.account_id,
                form.cleaned_data["code"],
                actor=visit.principal.actor,
                now=visit.now,
            )
        except errors.CreditRefused as error:
            form.add_error("code", str(error))
        else:
            messages.success(request, f"Credit of {made.amount / 100:.2f} EUR is there.")
            return redirect("frontend:billing-credit")
    account = organization.account_id
    payments = Payment.objects.filter(account_id=account).prefetch_related("allocations__invoice")
    context = {
        "organization": organization,
        "form": form,
        "balance": shown(organization, visit.now),
        "grants": CreditGrant.objects.filter(account_id=account).order_by("-id")[:NEWEST],
        "payments": payments.order_by("-id")[:NEWEST],
        "overdue": list(overdue(visit.now, account)),
    }
    return show(request, visit, "billing_credit.html", context, status=422 if writes else 200)
