"""Signed records of nodes: each number once, no second of a replica twice, and only added."""

import compliance.fields
import django.db.models.expressions
from django.db import migrations, models


FORWARD = """
CREATE EXTENSION IF NOT EXISTS btree_gist;
ALTER TABLE billing_noderecord ADD CONSTRAINT noderecord_no_overlap EXCLUDE USING gist
    (replica_id WITH =, machine_boot WITH =, int8range(mono_start_us, mono_end_us) WITH &&);
SELECT stoa_make_append_only('billing_nodecertificate');
SELECT stoa_make_append_only('billing_nodebatch');
SELECT stoa_make_append_only('billing_noderecord');
SELECT stoa_make_append_only('billing_meteringdigest');

-- What was found stays; it is explained once, and nothing else of it changes.
CREATE FUNCTION billing_guard_finding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.explained_at IS NULL AND NEW.explained_at IS NOT NULL
       AND to_jsonb(NEW) - '{explained_at,explained_by,explanation}'::text[]
         = to_jsonb(OLD) - '{explained_at,explained_by,explanation}'::text[] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on % is refused: a finding is explained once', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_finding BEFORE UPDATE OR DELETE ON billing_meterfinding
    FOR EACH ROW EXECUTE FUNCTION billing_guard_finding();
"""
BACKWARD = """
DROP TRIGGER guard_finding ON billing_meterfinding;
DROP FUNCTION billing_guard_finding();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0021_known_usage'),
    ]

    operations = [
        migrations.CreateModel(
            name='NodeCertificate',
            fields=[
                ('sha256', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('node_id', models.CharField(max_length=31)),
                ('der', models.BinaryField()),
                ('seen_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='MeterFinding',
            fields=[
                ('id', compliance.fields.IdField('mfd', serialize=False)),
                ('key', models.CharField(max_length=200, unique=True)),
                ('kind', models.CharField(choices=[('gap', 'records are missing'), ('conflict', 'a record came again with other content'), ('overlap', 'a stretch was said twice'), ('forged', "a batch that the node's key did not sign, or that says nothing"), ('clock_jump', "the node's wall clock jumped"), ('fast_clock', 'the node counts more seconds than our clock'), ('outside', 'served before it was ready or after its stop was asked for here'), ('not_its_node', 'a node that the replica was not placed on'), ('unproved', 'served by our clock, and no node record proves it'), ('unexplained', 'usage differs from what both sides agree on'), ('platform_fault', 'a replica failed, and not by its tenant'), ('moved', 'the platform moved a replica, and both served'), ('overbilled', 'more was billed than was agreed in the end')], max_length=16)),
                ('at', models.DateTimeField()),
                ('found_at', models.DateTimeField()),
                ('node_id', models.CharField(blank=True, max_length=31)),
                ('replica_id', models.CharField(blank=True, max_length=31)),
                ('interval_id', models.CharField(blank=True, max_length=31)),
                ('account_id', models.CharField(blank=True, max_length=31)),
                ('project_id', models.CharField(blank=True, max_length=31)),
                ('endpoint_id', models.CharField(blank=True, max_length=31)),
                ('seconds', models.BigIntegerField(default=0)),
                ('detail', models.CharField(max_length=300)),
                ('blocks', models.BooleanField(default=False)),
                ('explained_at', models.DateTimeField(null=True)),
                ('explained_by', models.CharField(blank=True, max_length=64)),
                ('explanation', models.CharField(blank=True, max_length=300)),
            ],
            options={
                'indexes': [models.Index(fields=['account_id', 'at'], name='meterfinding_account'), models.Index(condition=models.Q(('blocks', True), ('explained_at', None)), fields=['account_id', 'at'], name='meterfinding_open')],
                'constraints': [models.CheckConstraint(condition=models.Q(('seconds__gte', 0)), name='meterfinding_not_negative')],
            },
        ),
        migrations.CreateModel(
            name='MeteringDigest',
            fields=[
                ('id', compliance.fields.IdField('mdg', serialize=False)),
                ('account_id', models.CharField(max_length=31)),
                ('number', models.BigIntegerField()),
                ('hour', models.DateTimeField()),
                ('events', models.BigIntegerField()),
                ('events_sha256', models.CharField(max_length=64)),
                ('previous_sha256', models.CharField(max_length=64)),
                ('sha256', models.CharField(max_length=64)),
                ('made_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['account_id', 'hour', 'number'], name='meteringdigest_hour')],
                'constraints': [models.UniqueConstraint(fields=('account_id', 'number'), name='meteringdigest_once')],
            },
        ),
        migrations.CreateModel(
            name='NodeBatch',
            fields=[
                ('id', compliance.fields.IdField('mbt', serialize=False)),
                ('node_id', models.CharField(max_length=31)),
                ('machine_boot', models.CharField(blank=True, max_length=64)),
                ('sha256', models.CharField(max_length=64, unique=True)),
                ('body', models.BinaryField()),
                ('signature', models.BinaryField()),
                ('certificate_sha256', models.CharField(max_length=64)),
                ('received_at', models.DateTimeField()),
                ('problem', models.CharField(blank=True, max_length=200)),
            ],
            options={
                'indexes': [models.Index(fields=['node_id', 'received_at'], name='nodebatch_node')],
            },
        ),
        migrations.CreateModel(
            name='NodeRecord',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('batch_id', models.CharField(max_length=31)),
                ('node_id', models.CharField(max_length=31)),
                ('machine_boot', models.CharField(max_length=64)),
                ('seq', models.BigIntegerField()),
                ('replica_id', models.CharField(max_length=31)),
                ('state', models.CharField(max_length=8)),
                ('devices', models.PositiveSmallIntegerField()),
                ('mono_start_us', models.BigIntegerField()),
                ('mono_end_us', models.BigIntegerField()),
                ('before_us', models.BigIntegerField()),
                ('wall_start', models.DateTimeField()),
                ('wall_end', models.DateTimeField()),
                ('received_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['replica_id', 'before_us'], name='noderecord_replica')],
                'constraints': [models.UniqueConstraint(fields=('node_id', 'machine_boot', 'seq'), name='noderecord_once'), models.CheckConstraint(condition=models.Q(('mono_start_us__gte', 0), ('before_us__gte', 0), ('mono_end_us__gt', models.F('mono_start_us')), ('mono_end_us__lte', django.db.models.expressions.CombinedExpression(models.F('mono_start_us'), '+', models.Value(62000000)))), name='noderecord_short')],
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
