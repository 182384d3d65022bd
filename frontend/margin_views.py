"""What devices cost their owner and what they brought in; a page for operators alone."""

from decimal import Decimal

from django import forms
from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from billing import months
from billing.errors import PriceRefused
from billing.models import OwnedCost
from billing.reports import margin, sales
from controlplane.endpoints import capacity
from controlplane.tenancy import access
from frontend.visits import Request, Visit, page, show

_MONTHS = 12


class CostForm(forms.Form):
    device_kind = forms.CharField(max_length=64)
    amount = forms.DecimalField(max_digits=24, decimal_places=12)


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    access.operator(visit.principal)
    shown = months.last(visit.now, _MONTHS)
    wanted = request.GET.get("month", "")
    start = next((one for one in shown if f"{one:%Y-%m}" == wanted), shown[0])
    end = months.after(start)
    spent = list(OwnedCost.objects.order_by("device_kind", "-valid_from"))
    there = capacity.of(margin.cuts(spent, start, end), visit.now)
    rows = margin.of(there, sales.of(start, end), spent)
    revenue = sum((row.revenue for row in rows), Decimal(0))
    said = [row.cost for row in rows if row.cost is not None]
    cost = sum(said, Decimal(0)) if len(said) == len(rows) else None
    context = {
        "rows": rows,
        "revenue": revenue,
        "cost": cost,
        "margin": None if cost is None else revenue - cost,
        "months": shown,
        "month": start,
        "spent": spent,
    }
    return show(request, visit, "margin.html", context)


@require_POST
@page
def set_cost(request: Request, visit: Visit) -> HttpResponseBase:
    access.operator(visit.principal)
    form = CostForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Name a kind of device, and what an hour of one costs in euro.")
        return redirect("frontend:margin")
    try:
        made = margin.set_cost(
            actor=visit.principal.actor,
            device_kind=form.cleaned_data["device_kind"],
            amount=form.cleaned_data["amount"],
            # What is owned was owned all month: a first cost covers it.
            valid_from=months.start_of(visit.now)
            if _first(form.cleaned_data["device_kind"])
            else visit.now,
            now=visit.now,
        )
    except PriceRefused as error:
        messages.error(request, str(error))
    else:
        messages.success(
            request, f"An hour of {made.device_kind} costs {made.amount.normalize():f} EUR."
        )
    return redirect("frontend:margin")


def _first(device_kind: str) -> bool:
    return not OwnedCost.objects.filter(device_kind=device_kind).exists()
