"""A part of a device is metered in thousandths of each second."""

from django.db import migrations, models

FORWARD = """
ALTER TABLE billing_usageevent ADD COLUMN share smallint NOT NULL DEFAULT 1000
    CONSTRAINT usageevent_share CHECK (share BETWEEN 1 AND 1000);
"""
BACKWARD = "ALTER TABLE billing_usageevent DROP COLUMN share"


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0009_inbox_pace'),
    ]

    operations = [
        migrations.RunSQL(FORWARD, BACKWARD),
        migrations.AddField(  # of a table that Django does not manage: state alone
            model_name='usageevent',
            name='share',
            field=models.SmallIntegerField(default=1000),
        ),
    ]
