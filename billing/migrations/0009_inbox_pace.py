"""How fast a request was answered: what a quote is held against."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_inbox_booked")]

    operations = [
        migrations.AddField(
            model_name="usageinbox",
            name=name,
            field=models.BigIntegerField(null=True),
        )
        for name in ("first_us", "decode_us")
    ]
