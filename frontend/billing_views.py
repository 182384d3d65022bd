"""Billing: an organization's invoices and profile; for the operator issuer, months and cures."""

from typing import Any

from django.contrib import messages
from django.db.models import Case, F, Q, When
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from billing import errors
from billing.einvoice.ubl import Profile
from billing.invoices import archive, crediting, freezing, invoicing, month_end, profiles
from billing.invoices.models import Form, InvoiceKind, InvoiceState
from billing.models import Customer, Invoice, InvoiceLine, MonthRun, TopUpDecision
from billing.payments.stripe import configuration
from controlplane.api.invoice_views import download
from controlplane.tenancy import access, invoice_access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from frontend.billing_forms import EntityForm, ProfileForm, WhyForm, filled, issuing
from frontend.forms import blaming
from frontend.visits import Request, Visit, page, show

SHOWN = 200  # invoices on a page, the newest
_FILES = {"pdf": (Form.PDF, "application/pdf"), "xml": (Form.CII, "application/xml"),
          "json": (Form.JSON, "application/json")}  # fmt: skip
_UBL = {"xrechnung": Profile.XRECHNUNG, "peppol": Profile.PEPPOL}
# What cures an invoice that is held, for the reasons that people can do something about.
_CURES = {
    "entity_not_set": "Fill in who issues the invoices, below.",
    "entity_missing": "Fill in who issues the invoices, below.",
    "other_issuer": "Another issuer is set: the platform makes no invoice.",
    "profile_missing": "The organization has to fill in its billing profile.",
    "unpriced": "Publish a price for what was used.",
    "currency_mismatch": "Account and issuer have different currencies.",
    "negative_total": "Credit an earlier invoice instead.",
    "changed_since_draft": "Look at what changed, and save the billing profile to decide anew.",
}
_ASK_AGAIN = "It is tried again each hour; the billing profile may need another VAT number."


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    organization = access.organization(
        visit.principal, visit.organization.id, Permission.VIEW_COSTS
    )
    found = invoice_access.invoices(visit.principal).filter(account_id=organization.account_id)
    profile = Customer.objects.filter(account_id=organization.account_id).first()
    shown = found.order_by("-period_start", "-id")
    asking = Q(state=InvoiceState.FINAL) & ~Q(kind=InvoiceKind.CREDIT_NOTE)
    rows = shown.annotate(
        open=Case(When(asking, then=F("due") - F("settled")), default=0),
        overdue=Q(asking, due_on__lt=visit.now.date(), due__gt=F("settled")),
    )
    context = {"invoices": rows[:SHOWN], "profile": profile}
    return show(request, visit, "billing/index.html", context)


@require_safe
@page
def detail(request: Request, visit: Visit, id: str) -> HttpResponseBase:
    """One invoice: its lines by project and endpoint, its VAT and why, its files."""
    invoice = invoice_access.invoice(visit.principal, id)
    owner = invoice_access.owner(invoice)
    mine = owner is not None and owner.id in visit.principal.memberships
    if owner is not None and mine:
        visit.enter_organization(request, owner.id)
    context: dict[str, Any] = {
        "invoice": invoice,
        "groups": _groups(invoice),
        "owner": owner,
        "files": [*_FILES, *_UBL] if invoice.state != InvoiceState.DRAFT else [],
        "cure": cure(invoice),
        "open": _open(invoice),
        "overdue": bool(_open(invoice) and invoice.due_on and invoice.due_on < visit.now.date()),
        "operator": visit.principal.is_operator,
        "pays_there": mine and visit.may["pay"] and _stripe_takes(invoice),
    }
    return show(request, visit, "billing/invoice.html", context)


@require_safe
@page
def file(request: Request, visit: Visit, id: str, form: str) -> HttpResponseBase:
    invoice = invoice_access.invoice(visit.principal, id)
    try:
        return _file(invoice, form)
    except errors.UnknownInvoice as error:
        raise NotFound("file") from error
    except errors.NotIssuable as error:
        messages.error(request, f"{form} cannot be made: {error}")
        return redirect("frontend:billing-invoice", id=id)


@page
def profile(request: Request, visit: Visit) -> HttpResponseBase:
    """GET shows it, POST sets it: for those who manage billing."""
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    need = Permission.MANAGE_BILLING if request.method == "POST" else Permission.VIEW_COSTS
    organization = access.organization(visit.principal, visit.organization.id, need)
    row = Customer.objects.filter(account_id=organization.account_id).first()
    form = ProfileForm(request.POST or None, initial=filled(row))
    if request.method == "POST" and form.is_valid():
        with blaming(form, otherwise="proof_kind"):
            profiles.set_profile(
                organization.account_id, form.wanted, actor=visit.principal.actor, now=visit.now
            )
            messages.success(request, "The billing profile is saved.")
            return redirect("frontend:billing-profile")
    refused = form.is_bound and not form.is_valid()
    context = {"form": form, "profile": row}
    return show(request, visit, "billing/profile.html", context, status=422 if refused else 200)


@page
def operator(request: Request, visit: Visit) -> HttpResponseBase:
    """Who issues, what is held and why, how far the months are."""
    access.operator(visit.principal)
    entity = profiles.entity(visit.now)
    form = EntityForm(request.POST or None, initial=issuing(entity))
    if request.method == "POST" and form.is_valid():
        with blaming(form):
            profiles.set_entity(form.cleaned_data, actor=visit.principal.actor, now=visit.now)
            messages.success(request, "Invoices are issued so from now on.")
            return redirect("frontend:billing-operator")
    held = (
        Invoice.objects.filter(state=InvoiceState.DRAFT, kind=InvoiceKind.INVOICE)
        .exclude(held_reason="")
        .select_related("account__organization")
        .order_by("period_start", "id")[:SHOWN]
    )
    last = invoicing.period(visit.now)[0]
    refused = form.is_bound and not form.is_valid()
    state = month_end.state(invoicing.before(last), visit.now)
    context = {
        "form": form,
        "entity": entity,
        "held": [(one, cure(one)) for one in held],
        "top_ups": TopUpDecision.objects.filter(decided_at=None)
        .select_related("grant__account__organization")
        .order_by("due_on", "id")[:SHOWN],
        "today": visit.now.date(),
        "archive": archive.due(visit.now, limit=SHOWN),
        "runs": MonthRun.objects.order_by("-month", "-final")[:6],
        "state": state,
        "outcomes": sorted(state.outcomes.items()),
    }
    return show(request, visit, "billing/operator.html", context, status=422 if refused else 200)


@require_POST
@page
def act(request: Request, visit: Visit, id: str, verb: str) -> HttpResponseBase:
    """Finalise what was held, credit or write off: the operator's."""
    access.operator(visit.principal)
    invoice = invoice_access.invoice(visit.principal, id)
    try:
        made = _act(request, visit, invoice, verb)
    except errors.BillingError as error:
        messages.error(request, str(error))
        return redirect("frontend:billing-invoice", id=id)
    if made is None:
        messages.success(request, "Nothing is owed for that month: the draft is gone.")
        return redirect("frontend:billing-operator")
    if made.held_reason:
        messages.error(request, f"It is still held: {made.held_because}")
    else:
        messages.success(request, f"{made}: done.")
    return redirect("frontend:billing-invoice", id=made.id)


def _act(request: Request, visit: Visit, invoice: Invoice, verb: str) -> Invoice | None:
    actor = visit.principal.actor
    if verb == "finalise":
        return invoicing.finalise(invoice.id, actor, visit.now)
    form = WhyForm(request.POST)
    if not form.is_valid():
        raise errors.InvoiceRefused("Say why, for the customer to read.")
    reason = form.cleaned_data["reason"]
    if verb == "credit":
        return crediting.credit(invoice.id, reason, actor, visit.now)
    if verb == "write-off":
        return crediting.write_off(invoice.id, reason, actor, visit.now)
    raise NotFound("verb")


def cure(invoice: Invoice) -> str:
    """What to do about an invoice that waits."""
    return _CURES.get(invoice.held_reason, _ASK_AGAIN) if invoice.held_reason else ""


def _stripe_takes(invoice: Invoice) -> bool:
    at_hand = invoice.state == InvoiceState.FINAL and configuration.current() is not None
    return at_hand and bool(_open(invoice))


def _open(invoice: Invoice) -> int:
    """Cents that it still asks for, or will."""
    asking = invoice.state in (InvoiceState.DRAFT, InvoiceState.FINAL)
    gives = invoice.kind == InvoiceKind.CREDIT_NOTE
    return invoice.due - invoice.settled if asking and not gives else 0


def _file(invoice: Invoice, form: str) -> HttpResponse:
    if form in _UBL:
        xml = freezing.ubl_of(invoice, _UBL[form])
        return download(xml, "application/xml", f"{invoice.label}-{form}.xml")
    if form not in _FILES:
        raise NotFound("file")
    kept, kind = _FILES[form]
    return download(freezing.content(invoice, kept), kind, f"{invoice.label}.{form}")


def _groups(invoice: Invoice) -> list[tuple[str, list[InvoiceLine], int]]:
    """Lines by project and endpoint, with the sum of each group in cents."""
    groups: dict[str, list[InvoiceLine]] = {}
    for line in invoice.lines.order_by("position"):
        project = line.project_name or line.project_id
        endpoint = line.endpoint_name or line.endpoint_id
        groups.setdefault(" / ".join(filter(None, (project, endpoint))), []).append(line)
    return [(name, lines, sum(one.amount for one in lines)) for name, lines in groups.items()]
