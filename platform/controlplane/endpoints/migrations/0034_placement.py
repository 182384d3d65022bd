"""What placement reserves and remembers, and whether people asked for what gateways report."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0033_model_facts'),
        ('fleet', '0009_keep_block'),
    ]

    operations = [
        migrations.AddField(
            model_name='activity',
            name='people',
            field=models.BooleanField(db_default=True),
        ),
        migrations.CreateModel(
            name='PlacementNote',
            fields=[
                ('replica', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='placement_note', serialize=False, to='endpoints.replica')),
                ('rejected', models.JSONField()),
                ('at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='Reservation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(max_length=64)),
                ('count', models.PositiveSmallIntegerField()),
                ('expires_at', models.DateTimeField()),
                ('node', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='reservations', to='fleet.node')),
                ('replica', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='reservations', to='endpoints.replica')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('replica', 'node'), name='reservation_once')],
            },
        ),
    ]
