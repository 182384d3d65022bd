"""An advance invoice may be credited in parts, each for one refund; what is taken back whole, once."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0024_topups'),
    ]

    operations = [
        migrations.AlterField(
            model_name='invoice',
            name='corrects',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='credit_notes', to='billing.invoice'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('source', '')), fields=('corrects',), name='invoice_credited_once'),
        ),
    ]
