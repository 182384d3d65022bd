"""Means of payment that Stripe keeps, what it collects, and the way to its page and back."""

from decimal import Decimal

from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse

from billing.models import Invoice
from billing.payments.stripe import client, configuration, hosted, paying, setup
from billing.payments.stripe.models import LIVE, PaymentState, StripePayment
from billing.payments.stripe.problems import StripeProblem
from controlplane.tenancy import collecting
from controlplane.tenancy.access import Permission
from frontend.visits import Request, Visit, page, show

SESSION = "{CHECKOUT_SESSION_ID}"  # Stripe puts the id of its page in here
SHOWN = 20


@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """GET lists, and takes over what was given on Stripe's page; POST opens that page."""
    if visit.project is None:
        return show(request, visit, "nowhere.html")
    writes = request.method == "POST"
    wanted = request.POST.get("organization", "") if writes else visit.project.organization_id
    need = collecting.PAY if writes else Permission.VIEW_COSTS
    found = collecting.organization(visit.principal, wanted, need)
    if writes:
        here = request.build_absolute_uri(reverse("frontend:payment-methods"))
        try:
            opened = setup.begin(
                client.connect(),
                found.account_id,
                success_url=f"{here}?session={SESSION}",
                cancel_url=here,
                now=visit.now,
            )
        except StripeProblem as problem:
            messages.error(request, str(problem))
            return redirect("frontend:payment-methods")
        # A form may lead to this site alone (form-action), so the last step is a link.
        return show(request, visit, "payment_page.html", {"url": opened.url})
    if session := request.GET.get("session", ""):
        _came_back(request, visit, session)
        return redirect("frontend:payment-methods")
    if session := request.GET.get("paid", ""):
        _paid(request, visit, session)
        return redirect("frontend:payment-methods")
    payments = StripePayment.objects.filter(account_id=found.account_id).order_by("-id")[:SHOWN]
    labels = dict(
        Invoice.objects.filter(id__in=[one.invoice_id for one in payments]).values_list(
            "id", "label"
        )
    )
    context = {
        "organization": found,
        "stripe_on": configuration.current() is not None,
        "methods": setup.methods(found.account_id),
        "open": _open(found.account_id),
        "payments": [
            (labels.get(one.invoice_id, ""), Decimal(one.amount).scaleb(-2), one)
            for one in payments
        ],
    }
    return show(request, visit, "payment_methods.html", context)


@page
def delete(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """GET asks once more, POST does it."""
    found = collecting.method(visit.principal, id, collecting.PAY)
    if request.method != "POST":
        return show(request, visit, "payment_method_delete.html", {"method": found.method})
    setup.detach(found.method, actor=visit.principal.actor, now=visit.now)
    messages.success(request, "It is used no more.")
    return redirect("frontend:payment-methods")


@page
def pay(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """Collects what is open of an invoice, by the newest means of payment."""
    found = collecting.invoice(visit.principal, id, collecting.PAY)
    if request.method == "POST":
        try:
            configuration.required()
            paying.pay(found.id, actor=visit.principal.actor, now=visit.now)
        except StripeProblem as problem:
            messages.error(request, str(problem))
        else:
            messages.success(request, f"{found.label} is being collected.")
    return redirect("frontend:payment-methods")


@page
def pay_there(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """POST opens Stripe's page for what is open of an invoice."""
    found = collecting.invoice(visit.principal, id, collecting.PAY)
    if request.method != "POST":
        return redirect("frontend:billing-invoice", id=id)
    here = request.build_absolute_uri(reverse("frontend:payment-methods"))
    try:
        opened = hosted.begin(
            client.connect(),
            found.id,
            success_url=f"{here}?paid={SESSION}",
            cancel_url=here,
            actor=visit.principal.actor,
            now=visit.now,
        )
    except StripeProblem as problem:
        messages.error(request, str(problem))
        return redirect("frontend:payment-methods")
    return show(request, visit, "payment_page.html", {"url": opened.url, "invoice": found})


def _paid(request: Request, visit: Visit, session: str) -> None:
    """The webhook will tell the same; whoever is back wants to see it now."""
    try:
        payment = hosted.follow(client.connect(), session[:128], now=visit.now)
    except StripeProblem:
        payment = None
    if payment is not None and payment.state == PaymentState.SUCCEEDED:
        messages.success(request, "The invoice is paid.")
    else:
        messages.info(request, "The payment is under way: it will show here in a moment.")


def _came_back(request: Request, visit: Visit, session: str) -> None:
    """The webhook will tell the same; whoever is back wants to see it now."""
    try:
        method = setup.observe(client.connect(), session[:128], now=visit.now)
    except StripeProblem:
        method = None
    if method is None:
        messages.info(request, "What was given will show here in a moment.")
    else:
        messages.success(request, f"{method} is stored.")


def _open(account_id: str) -> list[tuple[Invoice, Decimal]]:
    rows = Invoice.objects.filter(account_id=account_id, state="final").exclude(kind="credit_note")
    # What is on Stripe's page stays here: whoever left that page finds it again.
    live = StripePayment.objects.filter(account_id=account_id, state__in=LIVE)
    busy = set(live.exclude(state=PaymentState.OFFERED).values_list("invoice_id", flat=True))
    return [
        (one, Decimal(one.due - one.settled).scaleb(-2))
        for one in rows.order_by("due_on", "id")[:SHOWN]
        if one.due > one.settled and one.id not in busy
    ]
