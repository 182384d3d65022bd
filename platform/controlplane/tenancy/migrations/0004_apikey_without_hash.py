"""The gateway's view of keys reads the secrets by now (endpoints.0004 runs before this)."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('tenancy', '0003_secrets'),
    ]

    operations = [
        migrations.RemoveField(
            model_name='apikey',
            name='hash',
        ),
    ]
