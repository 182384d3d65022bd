"""Prices that end and prices of one account; what else is agreed with it. No egress in either."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import F, Q

import compliance.fields

_METERS = (
    "device_seconds",
    "warm_seconds",
    "asleep_seconds",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
)

FORWARD = """
ALTER TABLE billing_term
    ADD CONSTRAINT term_whole_months
        CHECK (date_trunc('month', valid_from, 'UTC') = valid_from);
CREATE UNIQUE INDEX term_once ON billing_term
    (account_id, kind, meter, device_kind, valid_from, (CASE kind WHEN 'tier' THEN quantity END))
    NULLS NOT DISTINCT;
SELECT stoa_make_append_only('billing_term');
"""
BACKWARD = """
DROP TRIGGER append_only_rows ON billing_term;
DROP TRIGGER append_only_truncate ON billing_term;
DROP INDEX term_once;
ALTER TABLE billing_term DROP CONSTRAINT term_whole_months;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0012_invoices")]

    operations = [
        migrations.RemoveConstraint("price", "price_version"),
        migrations.AddField(
            "price",
            "account",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="prices",
                to="billing.account",
            ),
        ),
        migrations.AddField("price", "valid_to", models.DateTimeField(null=True)),
        migrations.AddConstraint(
            "price",
            models.UniqueConstraint(
                fields=("account", "meter", "device_kind", "currency", "valid_from"),
                name="price_version",
                nulls_distinct=False,
            ),
        ),
        migrations.AddConstraint(
            "price",
            models.CheckConstraint(
                condition=Q(valid_to=None) | Q(valid_to__gte=F("valid_from")), name="price_ends"
            ),
        ),
        migrations.CreateModel(
            name="Term",
            fields=[
                ("id", compliance.fields.IdField("trm", serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("allowance", "Free each month"),
                            ("commitment", "At least, each month"),
                            ("tier", "Less, from a quantity on"),
                        ],
                        max_length=16,
                    ),
                ),
                ("meter", models.CharField(blank=True, max_length=32)),
                ("device_kind", models.CharField(blank=True, max_length=64)),
                ("quantity", models.BigIntegerField(default=0)),
                ("discount", models.PositiveSmallIntegerField(default=0)),
                ("amount", models.BigIntegerField(default=0)),
                ("currency", models.CharField(max_length=3)),
                ("note", models.CharField(blank=True, max_length=100)),
                ("valid_from", models.DateTimeField()),
                ("created_at", models.DateTimeField()),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="billing.account"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=Q(meter__in=["", *_METERS]), name="term_never_egress"
                    ),
                    models.CheckConstraint(
                        condition=Q(quantity__gte=0, amount__gte=0, discount__lte=1000),
                        name="term_not_negative",
                    ),
                    models.CheckConstraint(
                        condition=(
                            Q(kind="allowance", discount=0)
                            & (
                                Q(meter="", device_kind="", quantity=0)
                                | (~Q(meter="") & Q(amount=0))
                            )
                        )
                        | Q(kind="commitment", meter="", device_kind="", quantity=0, discount=0)
                        | (Q(kind="tier", amount=0) & ~Q(meter="")),
                        name="term_shape",
                    ),
                    models.CheckConstraint(
                        condition=Q(currency__regex="^[A-Z]{3}$"), name="term_currency"
                    ),
                ],
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
