"""Payments on a page at Stripe: of one invoice, without a stored means of payment."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0027_node_evidence'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='stripepayment',
            name='stripepayment_one_live',
        ),
        migrations.RemoveIndex(
            model_name='stripepayment',
            name='stripepayment_live',
        ),
        migrations.AddField(
            model_name='stripepayment',
            name='session_id',
            field=models.CharField(blank=True, max_length=128),
        ),
        migrations.AlterField(
            model_name='stripecall',
            name='kind',
            field=models.CharField(choices=[('customer', 'Customer'), ('checkout', 'Checkout'), ('payment', 'Payment'), ('page', 'Page'), ('expire', 'Expire'), ('cancel', 'Cancel'), ('refund', 'Refund'), ('detach', 'Detach'), ('meter', 'Meter'), ('meter_cancel', 'Meter Cancel')], max_length=16),
        ),
        migrations.AlterField(
            model_name='stripepayment',
            name='method',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, to='billing.stripemethod'),
        ),
        migrations.AlterField(
            model_name='stripepayment',
            name='state',
            field=models.CharField(choices=[('asked', 'Asked'), ('offered', "on Stripe's page"), ('processing', 'Processing'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('canceled', 'Canceled')], default='asked', max_length=16),
        ),
        migrations.AddIndex(
            model_name='stripepayment',
            index=models.Index(condition=models.Q(('state__in', ('asked', 'offered', 'processing'))), fields=['looked_at'], name='stripepayment_live'),
        ),
        migrations.AddConstraint(
            model_name='stripepayment',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ('asked', 'offered', 'processing'))), fields=('invoice_id',), name='stripepayment_one_live'),
        ),
        migrations.AddConstraint(
            model_name='stripepayment',
            constraint=models.CheckConstraint(condition=models.Q(('method__isnull', True), models.Q(('session_id', ''), models.Q(('state', 'offered'), _negated=True)), _connector='OR'), name='stripepayment_page'),
        ),
    ]
