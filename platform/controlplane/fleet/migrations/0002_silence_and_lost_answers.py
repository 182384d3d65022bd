from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0001_initial")]
    operations = [
        migrations.AddField("node", "unreachable_at", models.DateTimeField(null=True)),
        migrations.AddField(
            "enrollmenttoken",
            "used_key_sha256",
            models.CharField(blank=True, default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            "enrollmenttoken",
            "admitted",
            models.ForeignKey(
                null=True, on_delete=models.CASCADE, related_name="+", to="fleet.node"
            ),
        ),
    ]
