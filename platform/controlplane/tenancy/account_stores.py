"""What billing holds of an organization and of people: no lower room knows whose account it is."""

from collections.abc import Iterable
from datetime import date, datetime

from django.db.models import F, Max, Model, Q, Value
from django.db.models.functions import Concat

from billing import models as b
from billing.invoices import vault
from billing.payments.stripe import models as stripe
from billing.vat import retention
from compliance.privacy import stores
from compliance.privacy.stores import ERASED, KEEP, PSEUDONYMISE, Found, Outcome, Rows
from compliance.subjects import ORGANIZATION, Subject
from controlplane.tenancy.models import Organization, User

BOOKS = "Art. 17(3)(b): books and vouchers are kept as long as tax and commercial law demand"
# Where the issuer is established; of an account without one, the longest of the table's.
_COUNTRY = "DE"
_NOTED = "Art. 17(3)(b): words of the books' own history, which the database keeps as they are"


class People(stores.Base):
    """Members' logins: people are subjects of their own, and may belong elsewhere too."""

    name, kind, action = "tenancy.users/organization", ORGANIZATION, KEEP
    ground = "the logins of people, who are erased as people: when they ask, or by the operator"

    def find(self, subject: Subject) -> Found:
        members = User.objects.filter(memberships__organization_id=subject.id)
        return Found(members.count(), ("tenancy_user.email",))

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        return self.plan(subject, now)


def not_settled(subject: Subject) -> tuple[str, str] | None:
    """What an organization owes, or is yet to be billed, comes before its end."""
    organization = Organization.objects.filter(id=subject.id).first()
    if subject.kind != ORGANIZATION or organization is None:
        return None
    invoices = b.Invoice.objects.filter(account_id=organization.account_id)
    if invoices.filter(Q(state="final") | Q(state="draft", net__gt=0)).exists():
        return "not_settled", "it has invoices that are not final, or not paid: settle them first"
    billed = invoices.exclude(state="draft").aggregate(to=Max("period_end"))["to"]
    usage = b.UsageEvent.objects.filter(account_id=organization.account_id, basis="charge")
    if (usage.filter(at__gte=billed) if billed else usage).exists():
        return "not_billed", "it has usage that no invoice charges yet: let its month end first"
    return None


def of_accounts() -> Iterable[Rows]:
    """The account itself stays, as a number that the books name; who it was goes."""
    account = "account__organization__id"
    yield Rows(
        name="billing.accounts",
        model=b.Account,
        of="organization__id",
        kind=ORGANIZATION,
        action=PSEUDONYMISE,
        put={"name": Concat(Value(f"{ERASED} "), F("id"))},
    )
    blank = (
        *("street", "extra", "postcode", "city", "vat_id", "registration", "contact", "email"),
        *("electronic_address", "buyer_reference", "name_accepted_by"),
    )
    yield Rows(
        name="billing.customers",
        model=b.Customer,
        of=account,
        kind=ORGANIZATION,
        action=PSEUDONYMISE,
        put={"legal_name": ERASED, "proof": {}} | dict.fromkeys(blank, ""),
    )
    yield Rows(
        name="billing.stripe_methods",
        model=stripe.StripeMethod,
        of=_by_account,
        kind=ORGANIZATION,
        action=PSEUDONYMISE,
        put={"last4": "", "expires": ""},
    )
    kept: tuple[tuple[str, type[Model], str], ...] = (
        ("invoices", b.Invoice, account),
        ("invoice_lines", b.InvoiceLine, f"invoice__{account}"),
        ("payments", b.Payment, account),
        ("bank_entries", b.BankEntry, f"payment__{account}"),
        ("mandates", b.DebitMandate, account),
        ("collection_files", b.CollectionFile, f"collections__invoice__{account}"),
        ("credit_grants", b.CreditGrant, account),
        ("top_ups", b.TopUpDecision, f"grant__{account}"),
        ("terms", b.Term, account),
    )
    for name, model, of in kept:
        yield Rows(f"billing.{name}", model, of, ORGANIZATION, KEEP, ground=BOOKS, last=books_kept)
    for name, model_ in (
        ("stripe_calls", stripe.StripeCall),
        ("meter_findings", b.MeterFinding),
    ):
        yield Rows(
            f"billing.{name}",
            model_,
            _by_account,
            ORGANIZATION,
            KEEP,
            ground=BOOKS,
            last=books_kept,
        )


class Vault(stores.Base):
    """Frozen invoices: sealed under keys of the vault, which stand until the files' last days."""

    name, kind, action = "billing.invoice_files", ORGANIZATION, KEEP
    tables: tuple[str, ...] = ("billing_invoicefile",)
    ground = f"{BOOKS}; sealed in the accounting vault"

    def find(self, subject: Subject) -> Found:
        files = b.InvoiceFile.objects.filter(invoice__account__organization__id=subject.id)
        return Found(files.count(), ("billing_invoicefile.content",))

    def plan(self, subject: Subject, now: datetime) -> Outcome:
        return Outcome(KEEP, self.find(subject).rows, self.ground, books_kept(subject, now))

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        for organization in Organization.objects.filter(id=subject.id):
            vault.enclose(organization.account_id, subject, now)
        return self.plan(subject, now)


def of_people() -> Iterable[Rows]:
    """Words of those who keep the books."""
    for name, model, by in (
        ("closings", b.BooksClosing, "asked_by"),
        ("findings_explained", b.MeterFinding, "explained_by"),
    ):
        yield Rows(f"billing.{name}", model, by, action=KEEP, ground=_NOTED, last=books_kept)


def books_kept(subject: Subject, now: datetime) -> date:
    """The last day of the youngest voucher that there can be."""
    files = b.InvoiceFile.objects.filter(invoice__account__organization__id=subject.id)
    until: date | None = files.aggregate(until=Max("keep_until"))["until"]
    return until or retention.destroy_after(_COUNTRY, "ledger", now.date())


def _by_account(id: str) -> Q:
    mine = Organization.objects.filter(id=id)
    return Q(account_id__in=mine.values("account_id"))


def register() -> None:
    stores.register(People())
    stores.register(Vault())
    stores.register_obstacle(not_settled)
    for store in (*of_accounts(), *of_people()):
        stores.register(store)
    stores.exempt("billing_entity", "the issuer's own name and contact, as invoices must have them")
    stores.exempt("billing_voucher", "codes for nobody in particular; a note says what for")
