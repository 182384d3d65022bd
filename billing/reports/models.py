"""What an operator's devices cost the operator."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class OwnedCost(models.Model):
    """What an hour of one device costs its owner, used or not, from `valid_from` on. Append-only.

    Depreciation, power, rent and people, as the operator reckons them.
    """

    id = IdField("own")
    device_kind = models.CharField(max_length=64)
    amount = models.DecimalField(max_digits=24, decimal_places=12)  # per device-hour
    currency = models.CharField(max_length=3, default="EUR")
    valid_from = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("device_kind", "valid_from"), name="ownedcost_version"),
            models.CheckConstraint(
                condition=Q(amount__gte=0) & Q(amount__lt=1_000_000), name="ownedcost_not_negative"
            ),
        )

    def __str__(self) -> str:
        return f"{self.device_kind} {self.amount} {self.currency}"
