"""What an operator's devices cost the operator: said once, never edited."""

import compliance.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0022_node_records'),
    ]

    operations = [
        migrations.CreateModel(
            name='OwnedCost',
            fields=[
                ('id', compliance.fields.IdField('own', serialize=False)),
                ('device_kind', models.CharField(max_length=64)),
                ('amount', models.DecimalField(decimal_places=12, max_digits=24)),
                ('currency', models.CharField(default='EUR', max_length=3)),
                ('valid_from', models.DateTimeField()),
                ('created_at', models.DateTimeField()),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('device_kind', 'valid_from'), name='ownedcost_version'), models.CheckConstraint(condition=models.Q(('amount__gte', 0), ('amount__lt', 1000000)), name='ownedcost_not_negative')],
            },
        ),
        migrations.RunSQL(
            "SELECT stoa_make_append_only('billing_ownedcost')", migrations.RunSQL.noop
        ),
    ]
