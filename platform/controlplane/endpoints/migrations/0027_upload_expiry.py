"""An upload that nobody goes on with is not kept for ever."""

from django.db import migrations, models

FORWARD = """
UPDATE endpoints_upload SET expires_at = now() + interval '7 days' WHERE finished_at IS NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0026_ttft_target")]
    operations = [
        migrations.AddField("upload", "expires_at", models.DateTimeField(null=True)),
        migrations.RunSQL(FORWARD, migrations.RunSQL.noop),
    ]
