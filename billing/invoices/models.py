"""What an invoice is kept as: who issues, who owes, the lines, the frozen files, the numbers.

Money is whole cents of `currency`, prices are numeric; an amount of a credit note is positive, as
on its document. The database holds the life of an invoice (migration 0012): only drafts change,
a number is the next of its series, and files stay until their retention ends.
"""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from compliance.fields import IdField


class Issuer(models.TextChoices):
    """Who makes the legal invoice: two for one supply would owe the VAT twice (Art. 203)."""

    PLATFORM = "platform"
    STRIPE = "stripe"


class CustomerKind(models.TextChoices):
    BUSINESS = "business"
    LEGAL_PERSON = "legal_person"


class Mode(models.TextChoices):
    POSTPAID = "postpaid"
    PREPAID = "prepaid"


class Collection(models.TextChoices):
    TRANSFER = "transfer"
    DEBIT = "debit"
    STRIPE = "stripe"


class InvoiceKind(models.TextChoices):
    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"
    ADVANCE = "advance"  # for a payment on account


class InvoiceState(models.TextChoices):
    """`CREDITED`: a credit note took it back, whole. Only `FINAL` is open."""

    DRAFT = "draft"
    FINAL = "final"
    PAID = "paid"
    WRITTEN_OFF = "written_off"
    CREDITED = "credited"


class Form(models.TextChoices):
    JSON = "json"  # the document, canonical
    CII = "cii"
    PDF = "pdf"
    UBL = "ubl"
    DECISION = "decision"  # of VAT, with VIES's answer: the proof that is archived with it


class Entity(models.Model):
    """A legal person that issues invoices. `placeholder`: not filled in yet, nothing is issued."""

    id = IdField("ent")
    name = models.CharField(max_length=200)
    street = models.CharField(max_length=200)
    extra = models.CharField(max_length=200, blank=True)
    postcode = models.CharField(max_length=20)
    city = models.CharField(max_length=100)
    country = models.CharField(max_length=2)
    vat_id = models.CharField(max_length=20)
    tax_number = models.CharField(max_length=32, blank=True)
    registration = models.CharField(max_length=100, blank=True)
    iban = models.CharField(max_length=34, blank=True)
    bic = models.CharField(max_length=11, blank=True)
    creditor_id = models.CharField(max_length=35, blank=True)
    contact = models.CharField(max_length=100, blank=True)
    email = models.CharField(max_length=254, blank=True)
    phone = models.CharField(max_length=40, blank=True)
    currency = models.CharField(max_length=3, default="EUR")
    invoice_issuer = models.CharField(max_length=16, choices=Issuer, default=Issuer.PLATFORM)
    payment_terms_days = models.PositiveSmallIntegerField(default=14)
    placeholder = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(currency__regex="^[A-Z]{3}$") & Q(country__regex="^[A-Z]{2}$"),
                name="entity_codes",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Customer(models.Model):
    """The billing profile of an account: who owes, where it is established, how it pays."""

    id = IdField("cus")
    account = models.OneToOneField(
        "billing.Account", on_delete=models.PROTECT, related_name="customer"
    )
    entity = models.ForeignKey(Entity, on_delete=models.PROTECT, related_name="customers")
    legal_name = models.CharField(max_length=200)
    street = models.CharField(max_length=200)
    extra = models.CharField(max_length=200, blank=True)
    postcode = models.CharField(max_length=20, blank=True)
    city = models.CharField(max_length=100)
    region = models.CharField(max_length=32, blank=True)  # where no postcode tells the territory
    country = models.CharField(max_length=2)
    vat_id = models.CharField(max_length=20, blank=True)
    registration = models.CharField(max_length=100, blank=True)
    kind = models.CharField(max_length=16, choices=CustomerKind, default=CustomerKind.BUSINESS)
    contact = models.CharField(max_length=100, blank=True)
    email = models.CharField(max_length=254, blank=True)
    # The electronic address (BT-49) where it is no e-mail address, and its scheme.
    electronic_address = models.CharField(max_length=100, blank=True)
    electronic_scheme = models.CharField(max_length=8, blank=True)
    buyer_reference = models.CharField(max_length=100, blank=True)
    # What shows that a customer outside the Union is a business, as `vat.BusinessProof` has it.
    proof = models.JSONField(default=dict)
    # Whose word it is that VIES's other name is this customer.
    name_accepted_by = models.CharField(max_length=64, blank=True)
    mode = models.CharField(max_length=16, choices=Mode, default=Mode.POSTPAID)
    collection = models.CharField(max_length=16, choices=Collection, default=Collection.TRANSFER)
    credit_limit = models.BigIntegerField(null=True)  # cents; null: none
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(country__regex="^[A-Z]{2}$"), name="customer_country"
            ),
            models.CheckConstraint(
                condition=Q(credit_limit=None) | Q(credit_limit__gte=0), name="customer_limit"
            ),
        )

    def __str__(self) -> str:
        return self.legal_name


class NumberSeries(models.Model):
    """The counter of one series and year. Its row is locked by the transaction that numbers."""

    id = models.BigAutoField(primary_key=True)
    entity = models.ForeignKey(Entity, on_delete=models.PROTECT)
    series = models.CharField(max_length=8)
    year = models.PositiveSmallIntegerField()
    last = models.BigIntegerField(default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("entity", "series", "year"), name="numberseries_once"),
        )

    def __str__(self) -> str:
        return f"{self.series}-{self.year}: {self.last}"


class Invoice(models.Model):
    """An invoice, a credit note or an advance invoice. See the module's docstring for its life.

    `period_end` is the first moment after the period. `settled`: cents of `due` that payments and
    credit notes have covered. `label` is the number as the document has it.
    """

    id = IdField("inv")
    entity = models.ForeignKey(Entity, on_delete=models.PROTECT)
    account = models.ForeignKey(
        "billing.Account", on_delete=models.PROTECT, related_name="invoices"
    )
    kind = models.CharField(max_length=16, choices=InvoiceKind)
    state = models.CharField(max_length=16, choices=InvoiceState, default=InvoiceState.DRAFT)
    series = models.CharField(max_length=8)
    year = models.PositiveSmallIntegerField(null=True)
    number = models.BigIntegerField(null=True)
    label = models.CharField(max_length=40, blank=True)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    issued_on = models.DateField(null=True)
    due_on = models.DateField(null=True)
    currency = models.CharField(max_length=3)
    net = models.BigIntegerField(default=0)
    vat = models.BigIntegerField(default=0)
    gross = models.BigIntegerField(default=0)
    prepaid = models.BigIntegerField(default=0)
    # The highest number of usage that it knew when it was drawn (`billing.meters.cutoff`).
    usage_upto = models.BigIntegerField(null=True)
    due = models.BigIntegerField(default=0)
    settled = models.BigIntegerField(default=0)
    decision = models.JSONField(default=dict)
    # Units of 10^-9 that it took of the accruals of each month, "2026-03".
    accrued = models.JSONField(default=dict)
    drafted_at = models.DateTimeField()
    final_at = models.DateTimeField(null=True)
    paid_at = models.DateTimeField(null=True)
    # Why it is not final yet, for programs and for people; blank: nothing holds it.
    held_reason = models.CharField(max_length=64, blank=True)
    held_because = models.CharField(max_length=500, blank=True)
    corrects = models.ForeignKey(
        "self", null=True, on_delete=models.PROTECT, related_name="credit_notes"
    )
    reason = models.CharField(max_length=500, blank=True)  # of a credit note
    # The advance invoices that this one settles, by id.
    advances = ArrayField(models.CharField(max_length=31), default=list)
    # What it is of, once: of an advance invoice the credit, of a part's credit note the refund.
    source = models.CharField(max_length=100, blank=True)
    json_sha256 = models.CharField(max_length=64, blank=True)
    xml_sha256 = models.CharField(max_length=64, blank=True)
    pdf_sha256 = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("entity", "series", "year", "number"), name="invoice_number_once"
            ),
            models.UniqueConstraint(
                fields=("account", "period_start"),
                condition=Q(kind=InvoiceKind.INVOICE) & ~Q(state=InvoiceState.CREDITED),
                name="invoice_one_a_month",
            ),
            models.UniqueConstraint(
                fields=("source",), condition=~Q(source=""), name="invoice_source_once"
            ),
            models.UniqueConstraint(
                fields=("corrects",), condition=Q(source=""), name="invoice_credited_once"
            ),
            models.CheckConstraint(
                condition=Q(state=InvoiceState.DRAFT, number=None, final_at=None)
                | (
                    ~Q(state=InvoiceState.DRAFT)
                    & Q(number__gte=1, year__isnull=False, issued_on__isnull=False)
                    & Q(final_at__isnull=False, held_reason="")
                    & ~Q(label="")
                    & ~Q(json_sha256="")
                    & ~Q(xml_sha256="")
                    & ~Q(pdf_sha256="")
                ),
                name="invoice_numbered_when_final",
            ),
            models.CheckConstraint(
                condition=Q(gross=F("net") + F("vat"), due=F("gross") - F("prepaid")),
                name="invoice_adds_up",
            ),
            models.CheckConstraint(
                condition=Q(state=InvoiceState.DRAFT)
                | Q(gross__gte=0, due__gte=0, settled__gte=0, settled__lte=F("due")),
                name="invoice_not_negative",
            ),
            models.CheckConstraint(
                condition=~Q(state=InvoiceState.PAID) | Q(settled=F("due")),
                name="invoice_paid_whole",
            ),
            models.CheckConstraint(
                condition=Q(kind=InvoiceKind.CREDIT_NOTE, corrects__isnull=False)
                | (~Q(kind=InvoiceKind.CREDIT_NOTE) & Q(corrects__isnull=True)),
                name="invoice_credit_corrects",
            ),
            models.CheckConstraint(
                condition=Q(period_end__gt=F("period_start")), name="invoice_period"
            ),
        )
        indexes = (
            models.Index(fields=("account", "-period_start"), name="invoice_account"),
            models.Index(
                fields=("entity", "issued_on"),
                condition=~Q(state=InvoiceState.DRAFT),
                name="invoice_issued",
            ),
            models.Index(
                fields=("account", "due_on"),
                condition=Q(state=InvoiceState.FINAL),
                name="invoice_open",
            ),
            models.Index(
                fields=("period_start",),
                condition=Q(state=InvoiceState.DRAFT),
                name="invoice_draft",
            ),
        )

    def __str__(self) -> str:
        return self.label or self.id


class InvoiceLine(models.Model):
    """A `charges.Charge`, frozen, with the names that its project and endpoint had then."""

    id = models.BigAutoField(primary_key=True)
    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=16)
    project_id = models.CharField(max_length=31, blank=True)
    project_name = models.CharField(max_length=100, blank=True)
    endpoint_id = models.CharField(max_length=31, blank=True)
    endpoint_name = models.CharField(max_length=100, blank=True)
    meter = models.CharField(max_length=32, blank=True)
    device_kind = models.CharField(max_length=64, blank=True)
    share = models.SmallIntegerField(default=1000)
    price_id = models.CharField(max_length=31, blank=True)
    unit_amount = models.DecimalField(max_digits=36, decimal_places=18)
    unit_size = models.BigIntegerField()
    quantity = models.BigIntegerField()
    exact = models.CharField(max_length=120)  # of the currency, as a fraction: "7/3"
    amount = models.BigIntegerField()
    start = models.DateTimeField()
    end = models.DateTimeField()
    note = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("invoice", "position"), name="invoiceline_position"),
            # Traffic is on every invoice, and costs nothing (Data Act, Art. 29).
            models.CheckConstraint(
                condition=~Q(kind="egress") | Q(amount=0, unit_amount=0),
                name="invoiceline_egress_free",
            ),
        )

    def __str__(self) -> str:
        return f"{self.invoice_id} {self.position}"


class InvoiceFile(models.Model):
    """One frozen form of a final invoice. Not deleted before the day after `keep_until`.

    `sha256` is of what was frozen; `content` is sealed where a key of the vault is named.
    """

    id = models.BigAutoField(primary_key=True)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="files")
    form = models.CharField(max_length=16, choices=Form)
    content = models.BinaryField()
    sha256 = models.CharField(max_length=64)
    keep_until = models.DateField()
    created_at = models.DateTimeField()
    vault_key_id = models.CharField(
        max_length=31, blank=True, db_default="", default=""
    )  # invoices.vault

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("invoice", "form"), name="invoicefile_once"),
        )
        indexes = (models.Index(fields=("keep_until",), name="invoicefile_until"),)

    def __str__(self) -> str:
        return f"{self.invoice_id} {self.form}"


class MonthRun(models.Model):
    """How far the workers are with a month: one run makes drafts, a second one invoices.

    `cursor`: the account that was done last, in the order of ids.
    """

    id = models.BigAutoField(primary_key=True)
    month = models.DateField()
    final = models.BooleanField()
    cursor = models.CharField(max_length=31, blank=True)
    outcomes = models.JSONField(default=dict)
    begun_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("month", "final"), name="monthrun_once"),
            models.CheckConstraint(condition=Q(month__day=1), name="monthrun_month"),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {'final' if self.final else 'draft'}"
