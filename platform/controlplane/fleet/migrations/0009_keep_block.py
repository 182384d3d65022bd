"""A pool's policy may keep one whole block of devices free."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0008_agent_rollouts'),
    ]

    operations = [
        migrations.AddField(
            model_name='pool',
            name='keep_block',
            field=models.PositiveSmallIntegerField(default=0),
        ),
    ]
