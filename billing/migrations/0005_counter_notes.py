"""When a budget's owner was told, and what upkeep and reports look through."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_leases")]

    operations = [
        migrations.AddField(
            model_name="budgetwindow",
            name="noted",
            field=models.PositiveSmallIntegerField(db_default=0),
        ),
        migrations.AddIndex(
            model_name="budgetwindow",
            index=models.Index(fields=["last_at"], name="budgetwindow_last"),
        ),
        migrations.AddIndex(
            model_name="lease",
            index=models.Index(
                condition=~Q(closed_at=None), fields=["closed_at"], name="lease_closed"
            ),
        ),
        migrations.AddIndex(
            model_name="usageinbox",
            index=models.Index(
                condition=~Q(run="") | ~Q(agent=""),
                fields=["project_id", "closed_at"],
                name="usageinbox_run",
            ),
        ),
    ]
