"""What credit is kept as: vouchers, grants, what was taken from each; and which books are closed.

Amounts are cents. `left` of a grant is the database's: a trigger lowers it by each use, and a
constraint keeps it from zero to the amount, so that nobody can spend a cent twice (migration
0015). Invoices are named by id: credit knows none of them.
"""

from django.db import models
from django.db.models import F, Q

from compliance.fields import IdField


class Voucher(models.Model):
    """A code that gives credit once. Only a keyed hash of it is kept."""

    id = IdField("vch")
    code_hash = models.CharField(max_length=64, unique=True)
    amount = models.BigIntegerField()
    currency = models.CharField(max_length=3, default="EUR")
    note = models.CharField(max_length=200, blank=True)
    valid_days = models.PositiveIntegerField(null=True)  # of the credit; null: it does not end
    expires_at = models.DateTimeField(null=True)  # until when the code may be used
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    redeemed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.CheckConstraint(condition=Q(amount__gt=0), name="voucher_positive"),)

    def __str__(self) -> str:
        return self.id


class CreditKind(models.TextChoices):
    """`FREE` and `VOUCHER` are given: a discount when used. `BOUGHT` was paid for."""

    FREE = "free"
    VOUCHER = "voucher"
    BOUGHT = "bought"


class Treatment(models.TextChoices):
    """Of bought credit, as `vat.advance` decides: taxed when it is paid, or when it is used."""

    ADVANCE_INVOICE = "advance_invoice"
    MULTI_PURPOSE_CREDIT = "multi_purpose_credit"


class CreditGrant(models.Model):
    """Credit of an account. Of bought credit `tax` cents were invoiced in advance, once they are
    (`invoice_id`); the amount includes them."""

    id = IdField("crd")
    account = models.ForeignKey("billing.Account", on_delete=models.PROTECT, related_name="grants")
    kind = models.CharField(max_length=16, choices=CreditKind)
    amount = models.BigIntegerField()
    left = models.BigIntegerField()
    currency = models.CharField(max_length=3, default="EUR")
    key = models.CharField(max_length=200, unique=True)
    granted_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    note = models.CharField(max_length=200, blank=True)
    voucher = models.OneToOneField(Voucher, null=True, on_delete=models.PROTECT)
    payment_id = models.CharField(max_length=31, blank=True)
    treatment = models.CharField(max_length=32, choices=Treatment, blank=True)
    tax = models.BigIntegerField(default=0)
    tax_country = models.CharField(max_length=2, blank=True)
    tax_rate = models.DecimalField(max_digits=6, decimal_places=3, null=True)
    invoice_id = models.CharField(max_length=31, blank=True)  # the advance invoice

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(amount__gt=0, left__gte=0, left__lte=F("amount")),
                name="creditgrant_within",
            ),
            models.CheckConstraint(
                condition=Q(tax__gte=0, tax__lt=F("amount")), name="creditgrant_tax"
            ),
            models.CheckConstraint(
                condition=Q(kind=CreditKind.BOUGHT) ^ Q(treatment=""),
                name="creditgrant_treatment",
            ),
        )
        indexes = (
            models.Index(fields=("account",), condition=Q(left__gt=0), name="creditgrant_left"),
        )

    def __str__(self) -> str:
        return self.id


class UseKind(models.TextChoices):
    APPLY = "apply"
    EXPIRE = "expire"
    REFUND = "refund"


class CreditUse(models.Model):
    """So much left a grant: for an invoice, by its end, or paid back. Append-only.

    `tax`: the part of it that an advance invoice has taxed before.
    """

    id = IdField("cru")
    grant = models.ForeignKey(CreditGrant, on_delete=models.PROTECT, related_name="uses")
    kind = models.CharField(max_length=16, choices=UseKind)
    amount = models.BigIntegerField()
    tax = models.BigIntegerField(default=0)
    invoice_id = models.CharField(max_length=31, blank=True)
    key = models.CharField(max_length=200, unique=True)
    at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(amount__gt=0, tax__gte=0, tax__lte=F("amount")),
                name="credituse_positive",
            ),
        )
        indexes = (models.Index(fields=("invoice_id",), name="credituse_invoice"),)

    def __str__(self) -> str:
        return f"{self.grant_id} {self.kind} {self.amount}"


class BooksClosing(models.Model):
    """The books of a month are closed, or were until two people opened them again.

    `balances`: of every account at the month's end, at its scale, so that later sums need not
    begin at the beginning; they are recomputed and compared each night.
    """

    id = IdField("clo")
    month = models.DateField()
    closed_at = models.DateTimeField()
    closed_by = models.CharField(max_length=64)
    balances = models.JSONField()
    asked_at = models.DateTimeField(null=True)  # to open it again
    asked_by = models.CharField(max_length=64, blank=True)
    reason = models.CharField(max_length=200, blank=True)
    reopened_at = models.DateTimeField(null=True)
    reopened_by = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("month",), condition=Q(reopened_at=None), name="booksclosing_once"
            ),
            models.CheckConstraint(condition=Q(month__day=1), name="booksclosing_month"),
            models.CheckConstraint(
                condition=Q(reopened_at=None)
                | (Q(asked_at__isnull=False) & ~Q(reopened_by="") & ~Q(reopened_by=F("asked_by"))),
                name="booksclosing_two_people",
            ),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class Reconciliation(models.Model):
    """A night's comparison of the books with all that they must agree with. Append-only."""

    id = IdField("rcn")
    at = models.DateTimeField()
    findings = models.JSONField()
    checked = models.JSONField()  # how many accounts each check compared

    class Meta:
        indexes = (models.Index(fields=("-at",), name="reconciliation_at"),)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d}: {len(self.findings)} findings"
