"""What the cellar keeps: accounts, prices, usage, and the ledger.

Dimensions such as `project_id` are plain strings here: billing knows accounts and meters, never
endpoints. Money is exact: prices are numeric(24,12), ledger amounts are integers at a scale.
"""

from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Now

from billing.books.models import DatevSetting as DatevSetting
from billing.credit.advance_models import TopUpDecision as TopUpDecision
from billing.credit.models import BooksClosing as BooksClosing
from billing.credit.models import CreditGrant as CreditGrant
from billing.credit.models import CreditUse as CreditUse
from billing.credit.models import Reconciliation as Reconciliation
from billing.credit.models import Voucher as Voucher
from billing.invoices.models import Customer as Customer
from billing.invoices.models import Entity as Entity
from billing.invoices.models import Invoice as Invoice
from billing.invoices.models import InvoiceFile as InvoiceFile
from billing.invoices.models import InvoiceLine as InvoiceLine
from billing.invoices.models import MonthRun as MonthRun
from billing.invoices.models import NumberSeries as NumberSeries
from billing.meters.models import MeterFinding as MeterFinding
from billing.meters.models import MeteringDigest as MeteringDigest
from billing.meters.models import NodeBatch as NodeBatch
from billing.meters.models import NodeCertificate as NodeCertificate
from billing.meters.models import NodeRecord as NodeRecord
from billing.payments.models import Allocation as Allocation
from billing.payments.models import BankEntry as BankEntry
from billing.payments.models import BankStatement as BankStatement
from billing.payments.models import CollectionFile as CollectionFile
from billing.payments.models import Debit as Debit
from billing.payments.models import DebitMandate as DebitMandate
from billing.payments.models import GivenBack as GivenBack
from billing.payments.models import Payment as Payment
from billing.payments.stripe import models as stripe_models  # noqa: F401  (loaded with the room)
from billing.pricing.models import Term as Term
from billing.pricing.models import TermKind as TermKind
from billing.reports.models import OwnedCost as OwnedCost
from compliance.fields import IdField


class Meter(models.TextChoices):
    """Everything that can have a price. There is no egress here, and the database agrees."""

    DEVICE_SECONDS = "device_seconds", "device-seconds"  # serving
    WARM_SECONDS = "warm_seconds", "keep-warm device-seconds"  # ready, and nobody asks
    ASLEEP_SECONDS = "asleep_seconds", "asleep device-seconds"
    INPUT_TOKENS = "input_tokens", "input tokens"
    CACHED_TOKENS = "cached_tokens", "cached input tokens"
    OUTPUT_TOKENS = "output_tokens", "output tokens"


class Basis(models.TextChoices):
    """Whether usage is owed, only attributes a cost that is owed by another meter, or is given
    back: a credit undoes a charge of the same meter at the same price, by a quantity of its own."""

    CHARGE = "charge"
    ATTRIBUTION = "attribution"
    CREDIT = "credit"


class Account(models.Model):
    id = IdField("acc")
    name = models.CharField(max_length=100)
    currency = models.CharField(max_length=3, default="EUR")
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Price(models.Model):
    """One version of one price: euro per device-hour, or per million tokens. Never edited.

    `account`: whom alone it is for; null is the list. `valid_to`: from when on neither it holds nor
    what it superseded; where that is `valid_from`, it is a withdrawal.
    """

    id = IdField("prc")
    meter = models.CharField(max_length=32, choices=Meter)
    device_kind = models.CharField(max_length=64, blank=True)  # blank: any
    currency = models.CharField(max_length=3, default="EUR")
    amount = models.DecimalField(max_digits=24, decimal_places=12)
    valid_from = models.DateTimeField()
    valid_to = models.DateTimeField(null=True)
    account = models.ForeignKey(Account, null=True, on_delete=models.PROTECT, related_name="prices")
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("account", "meter", "device_kind", "currency", "valid_from"),
                name="price_version",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=Q(valid_to=None) | Q(valid_to__gte=F("valid_from")), name="price_ends"
            ),
            models.CheckConstraint(condition=Q(meter__in=Meter.values), name="price_never_egress"),
            # numeric knows NaN, and holds it for greater than every number.
            models.CheckConstraint(
                condition=Q(amount__gte=0) & Q(amount__lt=1_000_000), name="price_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(currency__regex="^[A-Z]{3}$"), name="price_currency"
            ),
        )

    def __str__(self) -> str:
        return f"{self.meter} {self.amount} {self.currency}"


class UsageInbox(models.Model):
    """Requests as gateways closed them; insert-only for the gateway's role, unique by request."""

    request_id = models.CharField(max_length=64, primary_key=True)
    gateway_id = models.CharField(max_length=64)
    key_id = models.CharField(max_length=31)
    project_id = models.CharField(max_length=31)
    endpoint_id = models.CharField(max_length=31)
    replica_id = models.CharField(max_length=31)
    operation = models.CharField(max_length=32)
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField()
    status = models.IntegerField()
    finish = models.CharField(max_length=16)
    counted_by = models.CharField(max_length=16)
    input_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    # What its tokens cost at list prices: owed on a shared endpoint, attribution on another.
    nano_eur = models.BigIntegerField(db_default=0)
    # Pseudonyms of the run (a path, the root first) and the agent that asked.
    run = models.CharField(max_length=255, blank=True, db_default="")
    agent = models.CharField(max_length=31, blank=True, db_default="")
    # Microseconds to its first token, without a start that it waited for, and from there to its
    # last; null: nobody could tell.
    first_us = models.BigIntegerField(null=True)
    decode_us = models.BigIntegerField(null=True)
    # [budget, window, lease, unit, amount] each: settled by the row's arrival (migration 0003).
    charges = models.JSONField(db_default=Value([], models.JSONField()))
    received_at = models.DateTimeField(db_default=Now())
    booked_at = models.DateTimeField(null=True)
    # Why it could not be booked, in a person's words: set aside, and never dropped.
    problem = models.CharField(max_length=200, blank=True, db_default="")

    class Meta:
        indexes = (
            models.Index(
                fields=("received_at",),
                condition=Q(booked_at=None, problem=""),
                name="usageinbox_unbooked",
            ),
            models.Index(
                fields=("received_at",),
                condition=Q(booked_at=None) & ~Q(problem=""),
                name="usageinbox_problem",
            ),
            models.Index(
                fields=("booked_at",), condition=~Q(booked_at=None), name="usageinbox_booked"
            ),
            models.Index(
                fields=("project_id", "closed_at"),
                condition=~Q(run="") | ~Q(agent=""),
                name="usageinbox_run",
            ),
        )

    def __str__(self) -> str:
        return self.request_id


class UsageEvent(models.Model):
    """A quantity of one meter, once: the producer draws the id, the table is keyed by it.

    Partitioned by month of `at`; append-only. `(id, at)` is the key, so a producer must repeat
    the same `at` when it repeats an id: both come from one durable record.
    """

    id = models.CharField(max_length=80, primary_key=True)
    at = models.DateTimeField()
    account_id = models.CharField(max_length=31)
    project_id = models.CharField(max_length=31)
    key_id = models.CharField(max_length=31, blank=True)
    endpoint_id = models.CharField(max_length=31)
    replica_id = models.CharField(max_length=31, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    region = models.CharField(max_length=32)
    device_kind = models.CharField(max_length=64, blank=True)
    meter = models.CharField(max_length=32, choices=Meter)
    basis = models.CharField(max_length=16, choices=Basis)
    quantity = models.BigIntegerField()
    share = models.SmallIntegerField(default=1000)  # thousandths of each unit: part of a device
    flags = models.JSONField(default=list)
    # Pseudonyms of who asked: an agent, and the path of a run, the root first.
    agent = models.CharField(max_length=31, blank=True, default="")
    run = models.CharField(max_length=255, blank=True, default="")
    # In the order in which it came, by the database.
    number = models.BigIntegerField(editable=False)

    class Meta:
        managed = False  # made in SQL: Django cannot declare a partitioned table

    def __str__(self) -> str:
        return self.id


class LedgerAccount(models.Model):
    """A place that money can stand: receivable of a customer, revenue of a meter, …"""

    id = IdField("lac")
    code = models.CharField(max_length=100, unique=True)  # e.g. "unbilled:acc_…"
    currency = models.CharField(max_length=3)
    scale = models.PositiveSmallIntegerField()  # decimal places of amounts: 2 = cent, 9 = nano

    def __str__(self) -> str:
        return self.code


class LedgerTransaction(models.Model):
    """A balanced set of entries, sealed when its database transaction ends."""

    id = IdField("ltx")
    idempotency_key = models.CharField(max_length=200, unique=True)
    kind = models.CharField(max_length=32)
    effective_at = models.DateTimeField()
    posted_at = models.DateTimeField(db_default=Now())
    reverses = models.OneToOneField("self", null=True, on_delete=models.PROTECT)
    # The transaction id that posted it: a later one may not add entries (migration 0002).
    xid = models.BigIntegerField(editable=False, null=True)

    def __str__(self) -> str:
        return self.idempotency_key


class LedgerEntry(models.Model):
    """One side of a transaction: + debit, - credit, in units of 10^-scale of the currency."""

    id = IdField("len")
    transaction = models.ForeignKey(
        LedgerTransaction, on_delete=models.PROTECT, related_name="entries"
    )
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="entries")
    amount = models.BigIntegerField()

    class Meta:
        constraints = (
            models.CheckConstraint(condition=~Q(amount=0), name="ledgerentry_moves_something"),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.amount}"


class Subject(models.TextChoices):
    """Whose spending a budget bounds; every agent and run of a project has its own counter."""

    ORGANIZATION = "organization"
    PROJECT = "project"
    KEY = "key"
    AGENT = "agent"
    RUN = "run"
    ROOT = "root"  # a run with all that is below it: a project's limit of calls


class Unit(models.TextChoices):
    NANO_EUR = "nano_eur", "euro"
    TOKENS = "tokens"
    CALLS = "calls"


class Period(models.TextChoices):
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class Budget(models.Model):
    """How much a subject may spend in each window. `subject_id` of agents and runs: a project."""

    id = IdField("bud")
    organization_id = models.CharField(max_length=31, db_index=True)
    subject = models.CharField(max_length=16, choices=Subject)
    subject_id = models.CharField(max_length=31)
    name = models.CharField(max_length=64, blank=True)  # of an agent; blank: every agent
    unit = models.CharField(max_length=16, choices=Unit)
    amount = models.BigIntegerField()
    allowance = models.BigIntegerField(default=0)  # to finish what runs; a hard budget's only
    window = models.CharField(max_length=8, choices=Period)
    time_zone = models.CharField(max_length=64, default="UTC")
    hard = models.BooleanField(default=True)
    # Set by billing alone: what an account can pay. Its people see it and cannot change it.
    by_billing = models.BooleanField(default=False, db_default=False)
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(amount__gte=0) & Q(allowance__gte=0), name="budget_not_negative"
            ),
            models.UniqueConstraint(
                fields=("subject", "subject_id", "name", "unit", "window", "by_billing"),
                condition=Q(deleted_at=None),
                name="budget_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.subject} {self.subject_id}: {self.amount} {self.unit} a {self.window}"


class BudgetWindow(models.Model):
    """What was spent of a budget in one window, as far as it has arrived here."""

    id = models.BigAutoField(primary_key=True)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="windows")
    window = models.CharField(max_length=48)  # "2026-03", or "total/run_…"
    spent = models.BigIntegerField(default=0)
    calls = models.BigIntegerField(default=0)
    first_at = models.DateTimeField(db_default=Now())
    last_at = models.DateTimeField(db_default=Now())
    noted = models.PositiveSmallIntegerField(db_default=0)  # percent: the owner was told of it

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("budget", "window"), name="budgetwindow_once"),
        )
        indexes = (models.Index(fields=("last_at",), name="budgetwindow_last"),)

    def __str__(self) -> str:
        return f"{self.budget_id} {self.window}"


class Lease(models.Model):
    """What one holder may spend of a window without asking: gateway hosts, and scaling.

    Outstanding is `granted - settled`. `id` is drawn by the holder for each of its counters.
    """

    id = models.BigIntegerField(primary_key=True)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="leases")
    window = models.CharField(max_length=48)
    holder = models.CharField(max_length=64)  # a gateway's id, or a replica's
    epoch = models.CharField(max_length=32)  # of the holder's counters: with them the lease ends
    granted = models.BigIntegerField(default=0)
    settled = models.BigIntegerField(default=0)
    seq = models.BigIntegerField(default=0)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(
                fields=("budget", "window"), condition=Q(closed_at=None), name="lease_open"
            ),
            models.Index(
                fields=("holder", "epoch"), condition=Q(closed_at=None), name="lease_holder"
            ),
            models.Index(fields=("closed_at",), condition=~Q(closed_at=None), name="lease_closed"),
        )

    def __str__(self) -> str:
        return f"{self.holder} {self.budget_id} {self.window}"


class RunStop(models.Model):
    """A run was stopped, or resumed: gateways refuse a stopped one for a day."""

    project_id = models.CharField(max_length=31)
    run = models.CharField(max_length=31)  # its reference
    at = models.DateTimeField(db_default=Now())
    stopped = models.BooleanField()
    key_id = models.CharField(max_length=31, blank=True, db_default="")  # whose request it was
    gateway_id = models.CharField(max_length=64, blank=True, db_default="")

    class Meta:
        indexes = (models.Index(fields=("at",), name="runstop_at"),)

    def __str__(self) -> str:
        return f"{self.run} {'stopped' if self.stopped else 'resumed'}"
