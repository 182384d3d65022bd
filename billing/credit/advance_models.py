"""How each top-up is taxed, with all that it was decided from."""

from django.db import models
from django.db.models import Q


class TopUpTreatment(models.TextChoices):
    """As `vat.advance` has it; what it holds or refuses waits and has none yet."""

    ADVANCE_INVOICE = "advance_invoice"
    MULTI_PURPOSE_CREDIT = "multi_purpose_credit"


class TopUpDecision(models.Model):
    """Of one bought credit: open until `decided_at`, then never changed (migration 0024).

    `decision`: `vat.advance.AdvanceDecision` as JSON, with VIES's answer; empty where the credit
    was used before anybody decided. `due_on`: the last day for its advance invoice.
    """

    id = models.BigAutoField(primary_key=True)
    grant = models.OneToOneField(
        "billing.CreditGrant", on_delete=models.PROTECT, related_name="top_up"
    )
    received_on = models.DateField()
    due_on = models.DateField()
    treatment = models.CharField(max_length=32, choices=TopUpTreatment, blank=True)
    because = models.CharField(max_length=500, blank=True)
    decision = models.JSONField(default=dict)
    # Why it is not decided yet, for programs; `because` says it to people.
    held_reason = models.CharField(max_length=64, blank=True)
    tried_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(decided_at=None, treatment="")
                | (Q(decided_at__isnull=False, held_reason="") & ~Q(treatment="")),
                name="topupdecision_decided",
            ),
        )
        indexes = (
            models.Index(
                fields=("due_on",), condition=Q(decided_at=None), name="topupdecision_open"
            ),
        )

    def __str__(self) -> str:
        return f"{self.grant_id} {self.treatment or self.held_reason}"
