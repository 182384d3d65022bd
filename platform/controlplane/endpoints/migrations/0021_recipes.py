"""What an endpoint promises, and what each replica proved; two reasons why one could not."""

from django.db import migrations, models

from controlplane.endpoints.states import Reason

# Choices are no part of the database: as the code has them.
_REASON = models.CharField(max_length=32, choices=[(one.value, one.value) for one in Reason])


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0020_sources")]
    operations = [
        migrations.AddField("endpoint", "capabilities", models.JSONField(null=True)),
        migrations.AddField("replica", "proof", models.JSONField(default=dict)),
        migrations.AlterField("replica", "reason", _REASON),
        migrations.AlterField("start", "reason", _REASON),
        migrations.AlterField("transition", "reason", _REASON),
    ]
