"""What no backup may bring back, until it stands in the journal outside of this database."""

import compliance.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("compliance", "0002_append_only")]
    operations = [
        migrations.CreateModel(
            name="Tombstone",
            fields=[
                ("id", compliance.fields.IdField("tmb", serialize=False)),
                ("event_id", models.CharField(blank=True, max_length=31)),
                ("action", models.CharField(max_length=64)),
                ("target_type", models.CharField(max_length=32)),
                ("target_id", models.CharField(max_length=200)),
                ("facts", models.JSONField(default=dict)),
                ("at", models.DateTimeField()),
                ("journaled_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("journaled_at", None)),
                        fields=["id"],
                        name="tombstone_waiting",
                    )
                ],
            },
        ),
    ]
