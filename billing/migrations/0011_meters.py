"""Keep-warm and asleep seconds as meters, credits as a basis, and who asked on each event."""

from django.db import migrations, models
from django.db.models import Q

_METERS = (
    "device_seconds",
    "warm_seconds",
    "asleep_seconds",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
)

FORWARD = """
ALTER TABLE billing_usageevent
    DROP CONSTRAINT usageevent_never_egress,
    ADD CONSTRAINT usageevent_never_egress CHECK (meter IN
        ('device_seconds', 'warm_seconds', 'asleep_seconds',
         'input_tokens', 'cached_tokens', 'output_tokens')),
    DROP CONSTRAINT usageevent_basis,
    ADD CONSTRAINT usageevent_basis CHECK (basis IN ('charge', 'attribution', 'credit')),
    ADD COLUMN agent varchar(31) NOT NULL DEFAULT '',
    ADD COLUMN run varchar(255) NOT NULL DEFAULT '';
"""
# Refused by the constraints themselves where there is such usage: it cannot be unsaid.
BACKWARD = """
ALTER TABLE billing_usageevent
    DROP COLUMN run,
    DROP COLUMN agent,
    DROP CONSTRAINT usageevent_basis,
    ADD CONSTRAINT usageevent_basis CHECK (basis IN ('charge', 'attribution')),
    DROP CONSTRAINT usageevent_never_egress,
    ADD CONSTRAINT usageevent_never_egress CHECK (meter IN
        ('device_seconds', 'input_tokens', 'cached_tokens', 'output_tokens'));
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_shares")]

    operations = [
        migrations.RunSQL(FORWARD, BACKWARD),
        migrations.RemoveConstraint("price", "price_never_egress"),
        migrations.AddConstraint(
            "price",
            models.CheckConstraint(condition=Q(meter__in=_METERS), name="price_never_egress"),
        ),
        migrations.AlterField(
            "price",
            "meter",
            models.CharField(
                choices=[
                    ("device_seconds", "device-seconds"),
                    ("warm_seconds", "keep-warm device-seconds"),
                    ("asleep_seconds", "asleep device-seconds"),
                    ("input_tokens", "input tokens"),
                    ("cached_tokens", "cached input tokens"),
                    ("output_tokens", "output tokens"),
                ],
                max_length=32,
            ),
        ),
        # Of a table that Django does not manage: state alone.
        migrations.AlterField(
            "usageevent",
            "meter",
            models.CharField(
                choices=[
                    ("device_seconds", "device-seconds"),
                    ("warm_seconds", "keep-warm device-seconds"),
                    ("asleep_seconds", "asleep device-seconds"),
                    ("input_tokens", "input tokens"),
                    ("cached_tokens", "cached input tokens"),
                    ("output_tokens", "output tokens"),
                ],
                max_length=32,
            ),
        ),
        migrations.AlterField(
            "usageevent",
            "basis",
            models.CharField(
                choices=[
                    ("charge", "Charge"),
                    ("attribution", "Attribution"),
                    ("credit", "Credit"),
                ],
                max_length=16,
            ),
        ),
        migrations.AddField(
            "usageevent", "agent", models.CharField(blank=True, default="", max_length=31)
        ),
        migrations.AddField(
            "usageevent", "run", models.CharField(blank=True, default="", max_length=255)
        ),
    ]
