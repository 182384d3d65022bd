"""A pool may let replicas of one organization share a device."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0009_keep_block'),
    ]

    operations = [
        migrations.AddField(
            model_name='pool',
            name='share_devices',
            field=models.BooleanField(default=False),
        ),
    ]
