"""What payments are kept as: money that came and went, what it was for, and how banks said so.

Amounts are cents. A payment is what came in; an allocation is what part of it is for, and each
change is a further row: what an invoice has settled is the sum of its allocations, whatever
happened in between. Account numbers of payers are kept because their next payment is told by them.
"""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class Method(models.TextChoices):
    TRANSFER = "transfer"
    DEBIT = "debit"
    STRIPE = "stripe"


class Purpose(models.TextChoices):
    """What a part of a payment is for. `UNMATCHED`: nobody knows yet."""

    INVOICE = "invoice"
    CREDIT = "credit"
    UNMATCHED = "unmatched"
    BACK = "back"  # it was given back, or taken


class Payment(models.Model):
    """Money that came in, once for each `key`. `back`: how much of it went again."""

    id = IdField("pay")
    key = models.CharField(max_length=200, unique=True)
    entity = models.ForeignKey("billing.Entity", on_delete=models.PROTECT)
    account = models.ForeignKey(
        "billing.Account", null=True, on_delete=models.PROTECT, related_name="payments"
    )
    amount = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    method = models.CharField(max_length=16, choices=Method)
    received_at = models.DateTimeField()
    booked_at = models.DateTimeField()
    reference = models.CharField(max_length=300, blank=True)
    payer_iban = models.CharField(max_length=34, blank=True)
    back = models.BigIntegerField(default=0)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(amount__gt=0, back__gte=0, back__lte=models.F("amount")),
                name="payment_positive",
            ),
        )
        indexes = (
            models.Index(fields=("account", "-received_at"), name="payment_account"),
            models.Index(fields=("entity",), condition=Q(account=None), name="payment_unassigned"),
        )

    def __str__(self) -> str:
        return self.id


class Allocation(models.Model):
    """So much of a payment is for that; negative where that is undone. Append-only.

    The allocations of a payment add up to its amount.
    """

    id = IdField("pal")
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="allocations")
    purpose = models.CharField(max_length=16, choices=Purpose)
    invoice = models.ForeignKey(
        "billing.Invoice", null=True, on_delete=models.PROTECT, related_name="allocations"
    )
    amount = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(condition=~Q(amount=0), name="allocation_moves"),
            models.CheckConstraint(
                condition=Q(purpose=Purpose.INVOICE, invoice__isnull=False)
                | (~Q(purpose=Purpose.INVOICE) & Q(invoice=None)),
                name="allocation_invoice",
            ),
        )

    def __str__(self) -> str:
        return f"{self.payment_id} {self.purpose} {self.amount}"


class GivenBack(models.Model):
    """Money that went back, once for each `key`; negative: a dispute was won. Append-only."""

    id = IdField("pbk")
    key = models.CharField(max_length=200, unique=True)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="given_back")
    amount = models.BigIntegerField()
    fee = models.BigIntegerField(default=0)
    reason = models.CharField(max_length=16)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.payment_id} {self.reason} {self.amount}"


class BankStatement(models.Model):
    """A statement that was read, whole. Balances in cents; null where the file had none."""

    id = IdField("sta")
    entity = models.ForeignKey("billing.Entity", on_delete=models.PROTECT)
    iban = models.CharField(max_length=34)
    name = models.CharField(max_length=100)
    sequence = models.CharField(max_length=40, blank=True)
    sha256 = models.CharField(max_length=64)
    opening = models.BigIntegerField(null=True)
    closing = models.BigIntegerField(null=True)
    entries = models.PositiveIntegerField()
    read_at = models.DateTimeField()
    read_by = models.CharField(max_length=64)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("iban", "name", "sha256"), name="bankstatement_once"),
        )

    def __str__(self) -> str:
        return self.name


class BankEntry(models.Model):
    """One movement of a statement, once for each `key`, and what became of it.

    `rest`: what a person must still decide, in cents, signed as `amount`.
    """

    id = IdField("ben")
    statement = models.ForeignKey(BankStatement, on_delete=models.PROTECT, related_name="movements")
    key = models.CharField(max_length=64, unique=True)
    booked_on = models.DateField()
    amount = models.BigIntegerField()
    charges = models.BigIntegerField(default=0)
    party = models.CharField(max_length=140, blank=True)
    party_iban = models.CharField(max_length=34, blank=True)
    remittance = models.CharField(max_length=500, blank=True)
    end_to_end = models.CharField(max_length=35, blank=True)
    outcome = models.CharField(max_length=16)
    because = models.CharField(max_length=300, blank=True)
    candidates = models.JSONField(default=list)
    rest = models.BigIntegerField(default=0)
    payment = models.ForeignKey(Payment, null=True, on_delete=models.PROTECT)
    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=64, blank=True)

    class Meta:
        indexes = (
            models.Index(fields=("booked_on",), condition=~Q(rest=0), name="bankentry_open"),
        )

    def __str__(self) -> str:
        return f"{self.booked_on} {self.amount}"


class DebitMandate(models.Model):
    """What a debtor signed: `sepa.mandates.Mandate` is made of it."""

    id = IdField("mdt")
    account = models.ForeignKey(
        "billing.Account", on_delete=models.PROTECT, related_name="mandates"
    )
    reference = models.CharField(max_length=35, unique=True)
    signed_on = models.DateField()
    debtor_name = models.CharField(max_length=70)
    debtor_iban = models.CharField(max_length=34)
    debtor_bic = models.CharField(max_length=11, blank=True)
    scheme = models.CharField(max_length=4, default="CORE")
    recurrent = models.BooleanField(default=True)
    notice_days = models.PositiveSmallIntegerField(default=14)
    last_collected = models.DateField(null=True)
    account_changed = models.BooleanField(default=False)
    revoked_on = models.DateField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("account",), condition=Q(revoked_on=None), name="debitmandate_one"
            ),
        )

    def __str__(self) -> str:
        return self.reference


class CollectionFile(models.Model):
    """A pain.008 file, as it is given to the bank."""

    id = IdField("ddf")
    entity = models.ForeignKey("billing.Entity", on_delete=models.PROTECT)
    message = models.CharField(max_length=35, unique=True)
    content = models.BinaryField()
    sha256 = models.CharField(max_length=64)
    debits = models.PositiveIntegerField()
    amount = models.BigIntegerField()
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=64)

    def __str__(self) -> str:
        return self.message


class DebitState(models.TextChoices):
    """`ANNOUNCED`: the debtor was told of amount and day. `SENT`: in a file for the bank."""

    ANNOUNCED = "announced"
    SENT = "sent"
    PAID = "paid"
    RETURNED = "returned"
    CANCELLED = "cancelled"


class Debit(models.Model):
    """One direct debit for one invoice."""

    id = IdField("dbt")
    invoice = models.ForeignKey("billing.Invoice", on_delete=models.PROTECT, related_name="debits")
    mandate = models.ForeignKey(DebitMandate, on_delete=models.PROTECT)
    file = models.ForeignKey(
        CollectionFile, null=True, on_delete=models.PROTECT, related_name="collections"
    )
    end_to_end = models.CharField(max_length=35, unique=True)
    amount = models.BigIntegerField()
    notified_on = models.DateField()
    collect_on = models.DateField()
    state = models.CharField(max_length=16, choices=DebitState, default=DebitState.ANNOUNCED)
    because = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = (
            models.CheckConstraint(condition=Q(amount__gt=0), name="debit_positive"),
            models.UniqueConstraint(
                fields=("invoice",),
                condition=Q(state__in=("announced", "sent")),
                name="debit_one_open",
            ),
        )

    def __str__(self) -> str:
        return self.end_to_end
