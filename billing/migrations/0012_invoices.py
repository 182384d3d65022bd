"""Invoices, and what the database itself holds about them.

Only a draft changes or goes away; what is final changes in how it was settled alone. A number is
the next of its series, its invoice must be there when the transaction commits, and so must the
frozen files and lines that add up to it. Files stay until the day after `keep_until`.
"""

import compliance.fields
import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models


FORWARD = """
CREATE FUNCTION billing_guard_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    settling constant text[] := '{state,settled,paid_at}';
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'draft' THEN
            RAISE EXCEPTION 'an invoice begins as a draft' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        IF OLD.state = 'draft' THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'DELETE of invoice % is refused: it is final', OLD.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state = 'draft' THEN
        IF (NEW.id, NEW.account_id, NEW.kind) IS DISTINCT FROM (OLD.id, OLD.account_id, OLD.kind)
           OR NEW.state NOT IN ('draft', 'final') THEN
            RAISE EXCEPTION 'a draft stays what it is, or becomes final (%)', OLD.id
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF NEW.state = 'final' AND NOT EXISTS (
            SELECT FROM billing_numberseries s
            WHERE (s.entity_id, s.series, s.year, s.last)
                = (NEW.entity_id, NEW.series, NEW.year, NEW.number)
        ) THEN
            RAISE EXCEPTION 'invoice %: % is not the number that was drawn', OLD.id, NEW.number
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF to_jsonb(NEW) - settling <> to_jsonb(OLD) - settling
       OR (OLD.state || '>' || NEW.state) NOT IN (
           'final>final', 'final>paid', 'final>written_off', 'final>credited', 'paid>paid',
           'paid>final', 'paid>credited', 'written_off>final', 'written_off>paid',
           'written_off>credited', 'written_off>written_off', 'credited>credited') THEN
        RAISE EXCEPTION 'UPDATE of invoice % is refused: it is final', OLD.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_invoice BEFORE INSERT OR UPDATE OR DELETE ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION billing_guard_invoice();
ALTER TABLE billing_invoice ENABLE ALWAYS TRIGGER guard_invoice;

CREATE FUNCTION billing_check_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT coalesce(sum(amount), 0) FROM billing_invoiceline WHERE invoice_id = NEW.id)
       <> NEW.net THEN
        RAISE EXCEPTION 'invoice %: its lines are not its net amount', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF (SELECT count(*) FROM billing_invoicefile WHERE invoice_id = NEW.id AND (form, sha256) IN (
            ('json', NEW.json_sha256), ('cii', NEW.xml_sha256), ('pdf', NEW.pdf_sha256))) <> 3 THEN
        RAISE EXCEPTION 'invoice %: its files are not there', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER complete_when_final AFTER UPDATE ON billing_invoice
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.state = 'draft' AND NEW.state = 'final') EXECUTE FUNCTION billing_check_final();
ALTER TABLE billing_invoice ENABLE ALWAYS TRIGGER complete_when_final;

CREATE FUNCTION billing_guard_lines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted text := CASE WHEN TG_OP = 'INSERT' THEN NEW.invoice_id ELSE OLD.invoice_id END;
BEGIN
    -- The lock makes whoever finalises it wait, so that no line slips in between.
    PERFORM 1 FROM billing_invoice WHERE id = wanted AND state <> 'draft' FOR SHARE;
    IF FOUND OR TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION '% of a line of invoice % is refused', TG_OP, wanted
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER guard_lines BEFORE INSERT OR UPDATE OR DELETE ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION billing_guard_lines();
ALTER TABLE billing_invoiceline ENABLE ALWAYS TRIGGER guard_lines;

CREATE FUNCTION billing_guard_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM 1 FROM billing_invoice WHERE id = NEW.invoice_id AND state = 'draft';
        IF FOUND THEN
            RAISE EXCEPTION 'a draft has no files (%)', NEW.invoice_id
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' AND OLD.keep_until < (now() AT TIME ZONE 'UTC')::date THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% of a file of invoice % is refused: it is kept until %',
        TG_OP, OLD.invoice_id, OLD.keep_until USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_files BEFORE INSERT OR UPDATE OR DELETE ON billing_invoicefile
    FOR EACH ROW EXECUTE FUNCTION billing_guard_files();
ALTER TABLE billing_invoicefile ENABLE ALWAYS TRIGGER guard_files;
ALTER TABLE billing_invoicefile
    ADD CONSTRAINT invoicefile_hash CHECK (sha256 = encode(sha256(content), 'hex'));

CREATE FUNCTION billing_guard_series() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.last = 0 THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.last = OLD.last + 1
       AND to_jsonb(NEW) - 'last' = to_jsonb(OLD) - 'last' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of a series of numbers is refused: it counts from 1, by ones', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_series BEFORE INSERT OR UPDATE OR DELETE ON billing_numberseries
    FOR EACH ROW EXECUTE FUNCTION billing_guard_series();
ALTER TABLE billing_numberseries ENABLE ALWAYS TRIGGER guard_series;

CREATE FUNCTION billing_check_drawn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_invoice i WHERE (i.entity_id, i.series, i.year, i.number)
            = (NEW.entity_id, NEW.series, NEW.year, NEW.last)
    ) THEN
        RAISE EXCEPTION 'number % of % % was drawn for nothing', NEW.last, NEW.series, NEW.year
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER drawn_for_an_invoice AFTER UPDATE ON billing_numberseries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_check_drawn();
ALTER TABLE billing_numberseries ENABLE ALWAYS TRIGGER drawn_for_an_invoice;

DO $$
DECLARE target text;
BEGIN
    FOREACH target IN ARRAY '{billing_invoice,billing_invoiceline,billing_invoicefile,
                              billing_numberseries}'::text[] LOOP
        EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION stoa_refuse_change()', target);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only_truncate', target);
    END LOOP;
END $$;
"""

BACKWARD = """
DROP TRIGGER guard_invoice ON billing_invoice;
DROP TRIGGER complete_when_final ON billing_invoice;
DROP TRIGGER guard_lines ON billing_invoiceline;
DROP TRIGGER guard_files ON billing_invoicefile;
DROP TRIGGER guard_series ON billing_numberseries;
DROP TRIGGER drawn_for_an_invoice ON billing_numberseries;
DROP TRIGGER append_only_truncate ON billing_invoice;
DROP TRIGGER append_only_truncate ON billing_invoiceline;
DROP TRIGGER append_only_truncate ON billing_invoicefile;
DROP TRIGGER append_only_truncate ON billing_numberseries;
DROP FUNCTION billing_guard_invoice();
DROP FUNCTION billing_check_final();
DROP FUNCTION billing_guard_lines();
DROP FUNCTION billing_guard_files();
DROP FUNCTION billing_guard_series();
DROP FUNCTION billing_check_drawn();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0011_meters'),
        ('compliance', '0002_append_only'),
    ]

    operations = [
        migrations.CreateModel(
            name='Entity',
            fields=[
                ('id', compliance.fields.IdField('ent', serialize=False)),
                ('name', models.CharField(max_length=200)),
                ('street', models.CharField(max_length=200)),
                ('extra', models.CharField(blank=True, max_length=200)),
                ('postcode', models.CharField(max_length=20)),
                ('city', models.CharField(max_length=100)),
                ('country', models.CharField(max_length=2)),
                ('vat_id', models.CharField(max_length=20)),
                ('tax_number', models.CharField(blank=True, max_length=32)),
                ('registration', models.CharField(blank=True, max_length=100)),
                ('iban', models.CharField(blank=True, max_length=34)),
                ('bic', models.CharField(blank=True, max_length=11)),
                ('creditor_id', models.CharField(blank=True, max_length=35)),
                ('contact', models.CharField(blank=True, max_length=100)),
                ('email', models.CharField(blank=True, max_length=254)),
                ('phone', models.CharField(blank=True, max_length=40)),
                ('currency', models.CharField(default='EUR', max_length=3)),
                ('invoice_issuer', models.CharField(choices=[('platform', 'Platform'), ('stripe', 'Stripe')], default='platform', max_length=16)),
                ('payment_terms_days', models.PositiveSmallIntegerField(default=14)),
                ('placeholder', models.BooleanField(default=False)),
                ('created_at', models.DateTimeField()),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('currency__regex', '^[A-Z]{3}$'), ('country__regex', '^[A-Z]{2}$')), name='entity_codes')],
            },
        ),
        migrations.CreateModel(
            name='Invoice',
            fields=[
                ('id', compliance.fields.IdField('inv', serialize=False)),
                ('kind', models.CharField(choices=[('invoice', 'Invoice'), ('credit_note', 'Credit Note'), ('advance', 'Advance')], max_length=16)),
                ('state', models.CharField(choices=[('draft', 'Draft'), ('final', 'Final'), ('paid', 'Paid'), ('written_off', 'Written Off'), ('credited', 'Credited')], default='draft', max_length=16)),
                ('series', models.CharField(max_length=8)),
                ('year', models.PositiveSmallIntegerField(null=True)),
                ('number', models.BigIntegerField(null=True)),
                ('label', models.CharField(blank=True, max_length=40)),
                ('period_start', models.DateTimeField()),
                ('period_end', models.DateTimeField()),
                ('issued_on', models.DateField(null=True)),
                ('due_on', models.DateField(null=True)),
                ('currency', models.CharField(max_length=3)),
                ('net', models.BigIntegerField(default=0)),
                ('vat', models.BigIntegerField(default=0)),
                ('gross', models.BigIntegerField(default=0)),
                ('prepaid', models.BigIntegerField(default=0)),
                ('due', models.BigIntegerField(default=0)),
                ('settled', models.BigIntegerField(default=0)),
                ('decision', models.JSONField(default=dict)),
                ('accrued', models.JSONField(default=dict)),
                ('drafted_at', models.DateTimeField()),
                ('final_at', models.DateTimeField(null=True)),
                ('paid_at', models.DateTimeField(null=True)),
                ('held_reason', models.CharField(blank=True, max_length=64)),
                ('held_because', models.CharField(blank=True, max_length=500)),
                ('reason', models.CharField(blank=True, max_length=500)),
                ('advances', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=31), default=list, size=None)),
                ('source', models.CharField(blank=True, max_length=100)),
                ('json_sha256', models.CharField(blank=True, max_length=64)),
                ('xml_sha256', models.CharField(blank=True, max_length=64)),
                ('pdf_sha256', models.CharField(blank=True, max_length=64)),
                ('account', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='invoices', to='billing.account')),
                ('corrects', models.OneToOneField(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='credit_note', to='billing.invoice')),
                ('entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='billing.entity')),
            ],
        ),
        migrations.CreateModel(
            name='InvoiceFile',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('form', models.CharField(choices=[('json', 'Json'), ('cii', 'Cii'), ('pdf', 'Pdf'), ('ubl', 'Ubl'), ('decision', 'Decision')], max_length=16)),
                ('content', models.BinaryField()),
                ('sha256', models.CharField(max_length=64)),
                ('keep_until', models.DateField()),
                ('created_at', models.DateTimeField()),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='files', to='billing.invoice')),
            ],
        ),
        migrations.CreateModel(
            name='InvoiceLine',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('position', models.PositiveIntegerField()),
                ('kind', models.CharField(max_length=16)),
                ('project_id', models.CharField(blank=True, max_length=31)),
                ('project_name', models.CharField(blank=True, max_length=100)),
                ('endpoint_id', models.CharField(blank=True, max_length=31)),
                ('endpoint_name', models.CharField(blank=True, max_length=100)),
                ('meter', models.CharField(blank=True, max_length=32)),
                ('device_kind', models.CharField(blank=True, max_length=64)),
                ('share', models.SmallIntegerField(default=1000)),
                ('price_id', models.CharField(blank=True, max_length=31)),
                ('unit_amount', models.DecimalField(decimal_places=18, max_digits=36)),
                ('unit_size', models.BigIntegerField()),
                ('quantity', models.BigIntegerField()),
                ('exact', models.CharField(max_length=120)),
                ('amount', models.BigIntegerField()),
                ('start', models.DateTimeField()),
                ('end', models.DateTimeField()),
                ('note', models.CharField(blank=True, max_length=300)),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='lines', to='billing.invoice')),
            ],
        ),
        migrations.CreateModel(
            name='NumberSeries',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('series', models.CharField(max_length=8)),
                ('year', models.PositiveSmallIntegerField()),
                ('last', models.BigIntegerField(default=0)),
                ('entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='billing.entity')),
            ],
        ),
        migrations.CreateModel(
            name='Customer',
            fields=[
                ('id', compliance.fields.IdField('cus', serialize=False)),
                ('legal_name', models.CharField(max_length=200)),
                ('street', models.CharField(max_length=200)),
                ('extra', models.CharField(blank=True, max_length=200)),
                ('postcode', models.CharField(blank=True, max_length=20)),
                ('city', models.CharField(max_length=100)),
                ('region', models.CharField(blank=True, max_length=32)),
                ('country', models.CharField(max_length=2)),
                ('vat_id', models.CharField(blank=True, max_length=20)),
                ('registration', models.CharField(blank=True, max_length=100)),
                ('kind', models.CharField(choices=[('business', 'Business'), ('legal_person', 'Legal Person')], default='business', max_length=16)),
                ('contact', models.CharField(blank=True, max_length=100)),
                ('email', models.CharField(blank=True, max_length=254)),
                ('electronic_address', models.CharField(blank=True, max_length=100)),
                ('electronic_scheme', models.CharField(blank=True, max_length=8)),
                ('buyer_reference', models.CharField(blank=True, max_length=100)),
                ('proof', models.JSONField(default=dict)),
                ('name_accepted_by', models.CharField(blank=True, max_length=64)),
                ('mode', models.CharField(choices=[('postpaid', 'Postpaid'), ('prepaid', 'Prepaid')], default='postpaid', max_length=16)),
                ('collection', models.CharField(choices=[('transfer', 'Transfer'), ('debit', 'Debit'), ('stripe', 'Stripe')], default='transfer', max_length=16)),
                ('credit_limit', models.BigIntegerField(null=True)),
                ('created_at', models.DateTimeField()),
                ('updated_at', models.DateTimeField()),
                ('account', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='customer', to='billing.account')),
                ('entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='customers', to='billing.entity')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('country__regex', '^[A-Z]{2}$')), name='customer_country'), models.CheckConstraint(condition=models.Q(('credit_limit', None), ('credit_limit__gte', 0), _connector='OR'), name='customer_limit')],
            },
        ),
        migrations.AddIndex(
            model_name='invoice',
            index=models.Index(fields=['account', '-period_start'], name='invoice_account'),
        ),
        migrations.AddIndex(
            model_name='invoice',
            index=models.Index(condition=models.Q(('state', 'draft'), _negated=True), fields=['entity', 'issued_on'], name='invoice_issued'),
        ),
        migrations.AddIndex(
            model_name='invoice',
            index=models.Index(condition=models.Q(('state', 'final')), fields=['account', 'due_on'], name='invoice_open'),
        ),
        migrations.AddIndex(
            model_name='invoice',
            index=models.Index(condition=models.Q(('state', 'draft')), fields=['period_start'], name='invoice_draft'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(fields=('entity', 'series', 'year', 'number'), name='invoice_number_once'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'invoice'), models.Q(('state', 'credited'), _negated=True)), fields=('account', 'period_start'), name='invoice_one_a_month'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('source', ''), _negated=True), fields=('source',), name='invoice_source_once'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('final_at', None), ('number', None), ('state', 'draft')), models.Q(models.Q(('state', 'draft'), _negated=True), ('issued_on__isnull', False), ('number__gte', 1), ('year__isnull', False), ('final_at__isnull', False), ('held_reason', ''), models.Q(('label', ''), _negated=True), models.Q(('json_sha256', ''), _negated=True), models.Q(('xml_sha256', ''), _negated=True), models.Q(('pdf_sha256', ''), _negated=True)), _connector='OR'), name='invoice_numbered_when_final'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('due', django.db.models.expressions.CombinedExpression(models.F('gross'), '-', models.F('prepaid'))), ('gross', django.db.models.expressions.CombinedExpression(models.F('net'), '+', models.F('vat')))), name='invoice_adds_up'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'draft'), models.Q(('due__gte', 0), ('gross__gte', 0), ('settled__gte', 0), ('settled__lte', models.F('due'))), _connector='OR'), name='invoice_not_negative'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('state', 'paid'), _negated=True), ('settled', models.F('due')), _connector='OR'), name='invoice_paid_whole'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('corrects__isnull', False), ('kind', 'credit_note')), models.Q(models.Q(('kind', 'credit_note'), _negated=True), ('corrects__isnull', True)), _connector='OR'), name='invoice_credit_corrects'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('period_end__gt', models.F('period_start'))), name='invoice_period'),
        ),
        migrations.AddIndex(
            model_name='invoicefile',
            index=models.Index(fields=['keep_until'], name='invoicefile_until'),
        ),
        migrations.AddConstraint(
            model_name='invoicefile',
            constraint=models.UniqueConstraint(fields=('invoice', 'form'), name='invoicefile_once'),
        ),
        migrations.AddConstraint(
            model_name='invoiceline',
            constraint=models.UniqueConstraint(fields=('invoice', 'position'), name='invoiceline_position'),
        ),
        migrations.AddConstraint(
            model_name='invoiceline',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'egress'), _negated=True), models.Q(('amount', 0), ('unit_amount', 0)), _connector='OR'), name='invoiceline_egress_free'),
        ),
        migrations.AddConstraint(
            model_name='numberseries',
            constraint=models.UniqueConstraint(fields=('entity', 'series', 'year'), name='numberseries_once'),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
