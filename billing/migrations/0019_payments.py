"""Payments, what they are for, and bank statements: what was said stays, what it is for is added.

The allocations of a payment add up to its amount when the transaction ends.
"""

import compliance.fields
import django.db.models.deletion
from django.db import migrations, models

FORWARD = """
SELECT stoa_make_append_only('billing_allocation');
SELECT stoa_make_append_only('billing_givenback');
SELECT stoa_make_append_only('billing_bankstatement');
SELECT stoa_make_append_only('billing_collectionfile');

CREATE FUNCTION billing_check_allocations() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of varchar := CASE TG_TABLE_NAME WHEN 'billing_payment' THEN NEW.id
                  ELSE to_jsonb(NEW) ->> 'payment_id' END;
BEGIN
    PERFORM 1 FROM billing_payment p WHERE p.id = of AND p.amount <> (
        SELECT coalesce(sum(a.amount), 0) FROM billing_allocation a WHERE a.payment_id = p.id);
    IF FOUND THEN
        RAISE EXCEPTION 'the allocations of payment % do not add up to it', of
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER allocated AFTER INSERT ON billing_allocation
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_check_allocations();
ALTER TABLE billing_allocation ENABLE ALWAYS TRIGGER allocated;
CREATE CONSTRAINT TRIGGER allocated AFTER INSERT ON billing_payment
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_check_allocations();
ALTER TABLE billing_payment ENABLE ALWAYS TRIGGER allocated;

CREATE FUNCTION billing_guard_payment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    later constant text[] := CASE TG_TABLE_NAME
        WHEN 'billing_payment' THEN '{account_id,back}'::text[]
        ELSE '{outcome,because,rest,payment_id,decided_at,decided_by}'::text[] END;
BEGIN
    IF TG_OP = 'UPDATE' AND to_jsonb(NEW) - later = to_jsonb(OLD) - later THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on % is refused: it was received', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_payment BEFORE UPDATE OR DELETE ON billing_payment
    FOR EACH ROW EXECUTE FUNCTION billing_guard_payment();
ALTER TABLE billing_payment ENABLE ALWAYS TRIGGER guard_payment;
CREATE TRIGGER guard_payment BEFORE UPDATE OR DELETE ON billing_bankentry
    FOR EACH ROW EXECUTE FUNCTION billing_guard_payment();
ALTER TABLE billing_bankentry ENABLE ALWAYS TRIGGER guard_payment;
"""

BACKWARD = """
DROP TRIGGER guard_payment ON billing_bankentry;
DROP TRIGGER guard_payment ON billing_payment;
DROP FUNCTION billing_guard_payment();
DROP TRIGGER allocated ON billing_payment;
DROP TRIGGER allocated ON billing_allocation;
DROP FUNCTION billing_check_allocations();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0018_lease_tombstones'),
    ]

    operations = [
        migrations.CreateModel(
            name='BankStatement',
            fields=[
                ('id', compliance.fields.IdField('sta', serialize=False)),
                ('iban', models.CharField(max_length=34)),
                ('name', models.CharField(max_length=100)),
                ('sequence', models.CharField(blank=True, max_length=40)),
                ('sha256', models.CharField(max_length=64)),
                ('opening', models.BigIntegerField(null=True)),
                ('closing', models.BigIntegerField(null=True)),
                ('entries', models.PositiveIntegerField()),
                ('read_at', models.DateTimeField()),
                ('read_by', models.CharField(max_length=64)),
                ('entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='billing.entity')),
            ],
        ),
        migrations.CreateModel(
            name='CollectionFile',
            fields=[
                ('id', compliance.fields.IdField('ddf', serialize=False)),
                ('message', models.CharField(max_length=35, unique=True)),
                ('content', models.BinaryField()),
                ('sha256', models.CharField(max_length=64)),
                ('debits', models.PositiveIntegerField()),
                ('amount', models.BigIntegerField()),
                ('created_at', models.DateTimeField()),
                ('created_by', models.CharField(max_length=64)),
                ('entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='billing.entity')),
            ],
        ),
        migrations.CreateModel(
            name='DebitMandate',
            fields=[
                ('id', compliance.fields.IdField('mdt', serialize=False)),
                ('reference', models.CharField(max_length=35, unique=True)),
                ('signed_on', models.DateField()),
                ('debtor_name', models.CharField(max_length=70)),
                ('debtor_iban', models.CharField(max_length=34)),
                ('debtor_bic', models.CharField(blank=True, max_length=11)),
                ('scheme', models.CharField(default='CORE', max_length=4)),
                ('recurrent', models.BooleanField(default=True)),
                ('notice_days', models.PositiveSmallIntegerField(default=14)),
                ('last_collected', models.DateField(null=True)),
                ('account_changed', models.BooleanField(default=False)),
                ('revoked_on', models.DateField(null=True)),
                ('created_at', models.DateTimeField()),
                ('account', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='mandates', to='billing.account')),
            ],
        ),
        migrations.CreateModel(
            name='Debit',
            fields=[
                ('id', compliance.fields.IdField('dbt', serialize=False)),
                ('end_to_end', models.CharField(max_length=35, unique=True)),
                ('amount', models.BigIntegerField()),
                ('notified_on', models.DateField()),
                ('collect_on', models.DateField()),
                ('state', models.CharField(choices=[('announced', 'Announced'), ('sent', 'Sent'), ('paid', 'Paid'), ('returned', 'Returned'), ('cancelled', 'Cancelled')], default='announced', max_length=16)),
                ('because', models.CharField(blank=True, max_length=200)),
                ('file', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='collections', to='billing.collectionfile')),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='debits', to='billing.invoice')),
                ('mandate', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='billing.debitmandate')),
            ],
        ),
        migrations.CreateModel(
            name='Payment',
            fields=[
                ('id', compliance.fields.IdField('pay', serialize=False)),
                ('key', models.CharField(max_length=200, unique=True)),
                ('amount', models.BigIntegerField()),
                ('currency', models.CharField(max_length=3)),
                ('method', models.CharField(choices=[('transfer', 'Transfer'), ('debit', 'Debit'), ('stripe', 'Stripe')], max_length=16)),
                ('received_at', models.DateTimeField()),
                ('booked_at', models.DateTimeField()),
                ('reference', models.CharField(blank=True, max_length=300)),
                ('payer_iban', models.CharField(blank=True, max_length=34)),
                ('back', models.BigIntegerField(default=0)),
                ('account', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='payments', to='billing.account')),
                ('entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='billing.entity')),
            ],
        ),
        migrations.CreateModel(
            name='GivenBack',
            fields=[
                ('id', compliance.fields.IdField('pbk', serialize=False)),
                ('key', models.CharField(max_length=200, unique=True)),
                ('amount', models.BigIntegerField()),
                ('fee', models.BigIntegerField(default=0)),
                ('reason', models.CharField(max_length=16)),
                ('at', models.DateTimeField()),
                ('payment', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='given_back', to='billing.payment')),
            ],
        ),
        migrations.CreateModel(
            name='BankEntry',
            fields=[
                ('id', compliance.fields.IdField('ben', serialize=False)),
                ('key', models.CharField(max_length=64, unique=True)),
                ('booked_on', models.DateField()),
                ('amount', models.BigIntegerField()),
                ('charges', models.BigIntegerField(default=0)),
                ('party', models.CharField(blank=True, max_length=140)),
                ('party_iban', models.CharField(blank=True, max_length=34)),
                ('remittance', models.CharField(blank=True, max_length=500)),
                ('end_to_end', models.CharField(blank=True, max_length=35)),
                ('outcome', models.CharField(max_length=16)),
                ('because', models.CharField(blank=True, max_length=300)),
                ('candidates', models.JSONField(default=list)),
                ('rest', models.BigIntegerField(default=0)),
                ('decided_at', models.DateTimeField(null=True)),
                ('decided_by', models.CharField(blank=True, max_length=64)),
                ('statement', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='movements', to='billing.bankstatement')),
                ('payment', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, to='billing.payment')),
            ],
        ),
        migrations.CreateModel(
            name='Allocation',
            fields=[
                ('id', compliance.fields.IdField('pal', serialize=False)),
                ('purpose', models.CharField(choices=[('invoice', 'Invoice'), ('credit', 'Credit'), ('unmatched', 'Unmatched'), ('back', 'Back')], max_length=16)),
                ('amount', models.BigIntegerField()),
                ('at', models.DateTimeField()),
                ('invoice', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='allocations', to='billing.invoice')),
                ('payment', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='allocations', to='billing.payment')),
            ],
        ),
        migrations.AddConstraint(
            model_name='bankstatement',
            constraint=models.UniqueConstraint(fields=('iban', 'name', 'sha256'), name='bankstatement_once'),
        ),
        migrations.AddConstraint(
            model_name='debitmandate',
            constraint=models.UniqueConstraint(condition=models.Q(('revoked_on', None)), fields=('account',), name='debitmandate_one'),
        ),
        migrations.AddConstraint(
            model_name='debit',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0)), name='debit_positive'),
        ),
        migrations.AddConstraint(
            model_name='debit',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ('announced', 'sent'))), fields=('invoice',), name='debit_one_open'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(fields=['account', '-received_at'], name='payment_account'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(condition=models.Q(('account', None)), fields=['entity'], name='payment_unassigned'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('back__gte', 0), ('back__lte', models.F('amount'))), name='payment_positive'),
        ),
        migrations.AddIndex(
            model_name='bankentry',
            index=models.Index(condition=models.Q(('rest', 0), _negated=True), fields=['booked_on'], name='bankentry_open'),
        ),
        migrations.AddConstraint(
            model_name='allocation',
            constraint=models.CheckConstraint(condition=models.Q(('amount', 0), _negated=True), name='allocation_moves'),
        ),
        migrations.AddConstraint(
            model_name='allocation',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('invoice__isnull', False), ('purpose', 'invoice')), models.Q(models.Q(('purpose', 'invoice'), _negated=True), ('invoice', None)), _connector='OR'), name='allocation_invoice'),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
