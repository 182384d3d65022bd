"""What upkeep looks for among the requests of a month: those whose time is over."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0007_root_budgets")]

    operations = [
        migrations.AddIndex(
            model_name="usageinbox",
            index=models.Index(
                condition=~Q(booked_at=None), fields=["booked_at"], name="usageinbox_booked"
            ),
        ),
    ]
