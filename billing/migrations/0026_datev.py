"""The account numbers that a DATEV file of the ledger uses."""

import compliance.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0025_part_credits'),
    ]

    operations = [
        migrations.CreateModel(
            name='DatevSetting',
            fields=[
                ('id', compliance.fields.IdField('dtv', serialize=False)),
                ('consultant', models.PositiveIntegerField(default=1001)),
                ('client', models.PositiveIntegerField(default=1)),
                ('year_begins', models.PositiveSmallIntegerField(default=1)),
                ('digits', models.PositiveSmallIntegerField(default=4)),
                ('chart', models.CharField(default='03', max_length=2)),
                ('accounts', models.JSONField(default=dict)),
                ('changed_at', models.DateTimeField()),
            ],
        ),
    ]
