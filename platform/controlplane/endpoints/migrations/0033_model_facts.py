"""What is known of models and of starts; what was predicted of a version may be predicted anew."""

import compliance.fields
import django.db.models.deletion
from django.db import migrations, models


KEPT = """
CREATE OR REPLACE FUNCTION endpoints_version_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (to_jsonb(OLD) - %(but)s) = (to_jsonb(NEW) - %(but)s) THEN
        RETURN NEW;  -- a note is a person's words, and may be erased
    END IF;
    RAISE EXCEPTION 'a version of an endpoint is immutable' USING ERRCODE = 'integrity_constraint_violation';
END $$;
"""
FORWARD = KEPT % {"but": "'note' - 'outlook'"}
BACKWARD = KEPT % {"but": "'note'"}


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0032_gateway_revocations'),
        ('tenancy', '0008_egress'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointversion',
            name='outlook',
            field=models.JSONField(null=True),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
        migrations.CreateModel(
            name='MeasuredStart',
            fields=[
                ('replica', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='measured', serialize=False, to='endpoints.replica')),
                ('shared', models.BooleanField()),
                ('engine_version', models.CharField(max_length=64)),
                ('architecture', models.CharField(max_length=100)),
                ('device', models.CharField(max_length=64)),
                ('backend', models.CharField(blank=True, max_length=64)),
                ('ranks', models.PositiveSmallIntegerField()),
                ('arguments', models.JSONField()),
                ('printed', models.JSONField()),
                ('residual_bytes', models.FloatField()),
                ('weights_ratio', models.FloatField()),
                ('at', models.DateTimeField()),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='tenancy.organization')),
            ],
            options={
                'indexes': [models.Index(fields=['device', '-at'], name='measured_newest')],
            },
        ),
        migrations.CreateModel(
            name='ModelFacts',
            fields=[
                ('id', compliance.fields.IdField('mdf', serialize=False)),
                ('source', models.CharField(max_length=16)),
                ('model', models.CharField(max_length=300)),
                ('asked', models.CharField(blank=True, max_length=64)),
                ('revision', models.CharField(blank=True, max_length=64)),
                ('config', models.JSONField()),
                ('tensors', models.JSONField(default=dict)),
                ('seen_at', models.DateTimeField()),
                ('project', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='model_facts', to='tenancy.project')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('source', 'model', 'project', 'asked', 'revision'), name='model_facts_once', nulls_distinct=False)],
            },
        ),
    ]
