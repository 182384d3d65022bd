"""Credit that nobody spends twice, books that are closed, and budgets that billing sets.

A use of credit lowers what is left of its grant in the same statement, and the grant's constraint
refuses what is not there: no order of events spends a cent twice. A ledger transaction takes a
shared lock on its month, a closing the same one alone: so nothing is posted while books close,
and nothing after.
"""

import compliance.fields
import django.db.models.deletion
from django.db import migrations, models

FORWARD = """
SELECT stoa_make_append_only('billing_credituse');
SELECT stoa_make_append_only('billing_reconciliation');

CREATE FUNCTION billing_take_credit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE billing_creditgrant SET "left" = "left" - NEW.amount WHERE id = NEW.grant_id;
    RETURN NULL;
END $$;
CREATE TRIGGER take_credit AFTER INSERT ON billing_credituse
    FOR EACH ROW EXECUTE FUNCTION billing_take_credit();
ALTER TABLE billing_credituse ENABLE ALWAYS TRIGGER take_credit;

CREATE FUNCTION billing_guard_grant() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    taxed constant text[] := '{tax,tax_country,tax_rate,invoice_id,treatment}';
BEGIN
    IF TG_OP = 'INSERT' AND NEW."left" = NEW.amount THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        -- What is left is lowered by uses alone, from within their trigger.
        IF pg_trigger_depth() > 1 AND to_jsonb(NEW) - 'left' = to_jsonb(OLD) - 'left' THEN
            RETURN NEW;
        END IF;
        IF OLD.invoice_id = '' AND OLD.kind = 'bought'
           AND to_jsonb(NEW) - taxed = to_jsonb(OLD) - taxed THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% of a grant of credit is refused', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_grant BEFORE INSERT OR UPDATE OR DELETE ON billing_creditgrant
    FOR EACH ROW EXECUTE FUNCTION billing_guard_grant();
ALTER TABLE billing_creditgrant ENABLE ALWAYS TRIGGER guard_grant;
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_creditgrant
    FOR EACH STATEMENT EXECUTE FUNCTION stoa_refuse_change();
ALTER TABLE billing_creditgrant ENABLE ALWAYS TRIGGER append_only_truncate;

CREATE FUNCTION billing_guard_closing() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    later constant text[] := '{asked_at,asked_by,reason,reopened_at,reopened_by}';
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.reopened_at IS NULL
       AND to_jsonb(NEW) - later = to_jsonb(OLD) - later THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of a closing is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_closing BEFORE UPDATE OR DELETE ON billing_booksclosing
    FOR EACH ROW EXECUTE FUNCTION billing_guard_closing();
ALTER TABLE billing_booksclosing ENABLE ALWAYS TRIGGER guard_closing;
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_booksclosing
    FOR EACH STATEMENT EXECUTE FUNCTION stoa_refuse_change();
ALTER TABLE billing_booksclosing ENABLE ALWAYS TRIGGER append_only_truncate;

CREATE FUNCTION billing_month(moment timestamptz) RETURNS date LANGUAGE sql IMMUTABLE
RETURN date_trunc('month', moment AT TIME ZONE 'UTC')::date;

CREATE FUNCTION billing_refuse_closed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of date := billing_month(NEW.effective_at);
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('books:' || of, 0));
    PERFORM 1 FROM billing_booksclosing WHERE month = of AND reopened_at IS NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'the books of % are closed', to_char(of, 'YYYY-MM')
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'ledgertransaction_open_books';
    END IF;
    RETURN NULL;
END $$;
-- AFTER: a repetition, which inserts nothing, is answered for closed books too.
CREATE TRIGGER refuse_closed AFTER INSERT ON billing_ledgertransaction
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_closed();
ALTER TABLE billing_ledgertransaction ENABLE ALWAYS TRIGGER refuse_closed;
"""

BACKWARD = """
DROP TRIGGER refuse_closed ON billing_ledgertransaction;
DROP FUNCTION billing_refuse_closed();
DROP FUNCTION billing_month(timestamptz);
DROP TRIGGER append_only_truncate ON billing_booksclosing;
DROP TRIGGER guard_closing ON billing_booksclosing;
DROP FUNCTION billing_guard_closing();
DROP TRIGGER append_only_truncate ON billing_creditgrant;
DROP TRIGGER guard_grant ON billing_creditgrant;
DROP FUNCTION billing_guard_grant();
DROP TRIGGER take_credit ON billing_credituse;
DROP FUNCTION billing_take_credit();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0014_stripe'),
    ]

    operations = [
        migrations.CreateModel(
            name='BooksClosing',
            fields=[
                ('id', compliance.fields.IdField('clo', serialize=False)),
                ('month', models.DateField()),
                ('closed_at', models.DateTimeField()),
                ('closed_by', models.CharField(max_length=64)),
                ('balances', models.JSONField()),
                ('asked_at', models.DateTimeField(null=True)),
                ('asked_by', models.CharField(blank=True, max_length=64)),
                ('reason', models.CharField(blank=True, max_length=200)),
                ('reopened_at', models.DateTimeField(null=True)),
                ('reopened_by', models.CharField(blank=True, max_length=64)),
            ],
        ),
        migrations.CreateModel(
            name='CreditGrant',
            fields=[
                ('id', compliance.fields.IdField('crd', serialize=False)),
                ('kind', models.CharField(choices=[('free', 'Free'), ('voucher', 'Voucher'), ('bought', 'Bought')], max_length=16)),
                ('amount', models.BigIntegerField()),
                ('left', models.BigIntegerField()),
                ('currency', models.CharField(default='EUR', max_length=3)),
                ('key', models.CharField(max_length=200, unique=True)),
                ('granted_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField(null=True)),
                ('note', models.CharField(blank=True, max_length=200)),
                ('payment_id', models.CharField(blank=True, max_length=31)),
                ('treatment', models.CharField(blank=True, choices=[('advance_invoice', 'Advance Invoice'), ('multi_purpose_credit', 'Multi Purpose Credit')], max_length=32)),
                ('tax', models.BigIntegerField(default=0)),
                ('tax_country', models.CharField(blank=True, max_length=2)),
                ('tax_rate', models.DecimalField(decimal_places=3, max_digits=6, null=True)),
                ('invoice_id', models.CharField(blank=True, max_length=31)),
            ],
        ),
        migrations.CreateModel(
            name='CreditUse',
            fields=[
                ('id', compliance.fields.IdField('cru', serialize=False)),
                ('kind', models.CharField(choices=[('apply', 'Apply'), ('expire', 'Expire'), ('refund', 'Refund')], max_length=16)),
                ('amount', models.BigIntegerField()),
                ('tax', models.BigIntegerField(default=0)),
                ('invoice_id', models.CharField(blank=True, max_length=31)),
                ('key', models.CharField(max_length=200, unique=True)),
                ('at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='Reconciliation',
            fields=[
                ('id', compliance.fields.IdField('rcn', serialize=False)),
                ('at', models.DateTimeField()),
                ('findings', models.JSONField()),
                ('checked', models.JSONField()),
            ],
        ),
        migrations.CreateModel(
            name='Voucher',
            fields=[
                ('id', compliance.fields.IdField('vch', serialize=False)),
                ('code_hash', models.CharField(max_length=64, unique=True)),
                ('amount', models.BigIntegerField()),
                ('currency', models.CharField(default='EUR', max_length=3)),
                ('note', models.CharField(blank=True, max_length=200)),
                ('valid_days', models.PositiveIntegerField(null=True)),
                ('expires_at', models.DateTimeField(null=True)),
                ('created_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(null=True)),
                ('redeemed_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='budget',
            name='budget_once',
        ),
        migrations.AddField(
            model_name='budget',
            name='by_billing',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.UniqueConstraint(condition=models.Q(('deleted_at', None)), fields=('subject', 'subject_id', 'name', 'unit', 'window', 'by_billing'), name='budget_once'),
        ),
        migrations.AddConstraint(
            model_name='booksclosing',
            constraint=models.UniqueConstraint(condition=models.Q(('reopened_at', None)), fields=('month',), name='booksclosing_once'),
        ),
        migrations.AddConstraint(
            model_name='booksclosing',
            constraint=models.CheckConstraint(condition=models.Q(('month__day', 1)), name='booksclosing_month'),
        ),
        migrations.AddConstraint(
            model_name='booksclosing',
            constraint=models.CheckConstraint(condition=models.Q(('reopened_at', None), models.Q(('asked_at__isnull', False), models.Q(('reopened_by', ''), _negated=True), models.Q(('reopened_by', models.F('asked_by')), _negated=True)), _connector='OR'), name='booksclosing_two_people'),
        ),
        migrations.AddField(
            model_name='creditgrant',
            name='account',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='grants', to='billing.account'),
        ),
        migrations.AddField(
            model_name='credituse',
            name='grant',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='uses', to='billing.creditgrant'),
        ),
        migrations.AddIndex(
            model_name='reconciliation',
            index=models.Index(fields=['-at'], name='reconciliation_at'),
        ),
        migrations.AddConstraint(
            model_name='voucher',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0)), name='voucher_positive'),
        ),
        migrations.AddField(
            model_name='creditgrant',
            name='voucher',
            field=models.OneToOneField(null=True, on_delete=django.db.models.deletion.PROTECT, to='billing.voucher'),
        ),
        migrations.AddIndex(
            model_name='credituse',
            index=models.Index(fields=['invoice_id'], name='credituse_invoice'),
        ),
        migrations.AddConstraint(
            model_name='credituse',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('tax__gte', 0), ('tax__lte', models.F('amount'))), name='credituse_positive'),
        ),
        migrations.AddIndex(
            model_name='creditgrant',
            index=models.Index(condition=models.Q(('left__gt', 0)), fields=['account'], name='creditgrant_left'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('left__gte', 0), ('left__lte', models.F('amount'))), name='creditgrant_within'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('tax__gte', 0), ('tax__lt', models.F('amount'))), name='creditgrant_tax'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('kind', 'bought'), ('treatment', ''), _connector='XOR'), name='creditgrant_treatment'),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
