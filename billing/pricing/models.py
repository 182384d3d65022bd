"""What was agreed with an account beyond prices, kept: rows that are added and never edited."""

from django.db import models
from django.db.models import Q

from billing.rating import UNITS_PER_PRICE, WHOLE
from compliance.fields import IdField


class TermKind(models.TextChoices):
    ALLOWANCE = "allowance", "Free each month"
    COMMITMENT = "commitment", "At least, each month"
    TIER = "tier", "Less, from a quantity on"


class Term(models.Model):
    """One row of `billing.pricing.terms`, from a month (UTC) on. `amount`: cents. A row of nothing
    ends what the one before agreed."""

    id = IdField("trm")
    account = models.ForeignKey("billing.Account", on_delete=models.PROTECT)
    kind = models.CharField(max_length=16, choices=TermKind)
    meter = models.CharField(max_length=32, blank=True)
    device_kind = models.CharField(max_length=64, blank=True)
    quantity = models.BigIntegerField(default=0)  # free, of an allowance; passed, of a tier
    discount = models.PositiveSmallIntegerField(default=0)  # thousandths of the price
    amount = models.BigIntegerField(default=0)
    currency = models.CharField(max_length=3)
    note = models.CharField(max_length=100, blank=True)
    valid_from = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(meter__in=["", *UNITS_PER_PRICE]), name="term_never_egress"
            ),
            models.CheckConstraint(
                condition=Q(quantity__gte=0, amount__gte=0, discount__lte=WHOLE),
                name="term_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(kind=TermKind.ALLOWANCE, discount=0)
                & (Q(meter="", device_kind="", quantity=0) | (~Q(meter="") & Q(amount=0)))
                | Q(kind=TermKind.COMMITMENT, meter="", device_kind="", quantity=0, discount=0)
                | Q(kind=TermKind.TIER, amount=0) & ~Q(meter=""),
                name="term_shape",
            ),
            models.CheckConstraint(condition=Q(currency__regex="^[A-Z]{3}$"), name="term_currency"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"
