"""How the VAT of each top-up is treated: once that is decided, the row never changes."""

import django.db.models.deletion
from django.db import migrations, models


FORWARD = """
CREATE FUNCTION billing_guard_topup() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.decided_at IS NULL
       AND (NEW.id, NEW.grant_id, NEW.received_on, NEW.due_on)
         = (OLD.id, OLD.grant_id, OLD.received_on, OLD.due_on) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of the decision on % is refused', TG_OP, OLD.grant_id
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_topup BEFORE UPDATE OR DELETE ON billing_topupdecision
    FOR EACH ROW EXECUTE FUNCTION billing_guard_topup();
ALTER TABLE billing_topupdecision ENABLE ALWAYS TRIGGER guard_topup;
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_topupdecision
    FOR EACH STATEMENT EXECUTE FUNCTION stoa_refuse_change();
ALTER TABLE billing_topupdecision ENABLE ALWAYS TRIGGER append_only_truncate;
"""

BACKWARD = """
DROP TRIGGER append_only_truncate ON billing_topupdecision;
DROP TRIGGER guard_topup ON billing_topupdecision;
DROP FUNCTION billing_guard_topup();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0023_owned_cost'),
    ]

    operations = [
        migrations.CreateModel(
            name='TopUpDecision',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('received_on', models.DateField()),
                ('due_on', models.DateField()),
                ('treatment', models.CharField(blank=True, choices=[('advance_invoice', 'Advance Invoice'), ('multi_purpose_credit', 'Multi Purpose Credit')], max_length=32)),
                ('because', models.CharField(blank=True, max_length=500)),
                ('decision', models.JSONField(default=dict)),
                ('held_reason', models.CharField(blank=True, max_length=64)),
                ('tried_at', models.DateTimeField(null=True)),
                ('decided_at', models.DateTimeField(null=True)),
                ('grant', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='top_up', to='billing.creditgrant')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('decided_at', None)), fields=['due_on'], name='topupdecision_open')],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('decided_at', None), ('treatment', '')), models.Q(('decided_at__isnull', False), ('held_reason', ''), models.Q(('treatment', ''), _negated=True)), _connector='OR'), name='topupdecision_decided')],
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
