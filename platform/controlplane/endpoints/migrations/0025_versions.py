"""Versions of an endpoint's spec, the rollouts between them, and what gateways see of each.

Gateways read a view of their own of the rollouts that are under way, so that the views of
endpoints and replicas stay as they are.
"""

from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import compliance.fields
from compliance import ids
from controlplane.endpoints.states import Reason

_FIELDS = (
    *("source", "secret", "model", "revision", "engine", "engine_args", "capabilities"),
    *("device_kind", "device_count", "node_count"),
)
_REASONS = [(reason.value, reason.value) for reason in Reason]


def first_versions(apps: Any, schema_editor: Any) -> None:
    """Each endpoint that is there runs its first version, whatever its number."""
    version = apps.get_model("endpoints", "EndpointVersion")
    replica = apps.get_model("endpoints", "Replica")
    for endpoint in apps.get_model("endpoints", "Endpoint").objects.order_by("id"):
        ran = replica.objects.filter(endpoint=endpoint).values_list("generation", flat=True)
        for number in sorted({endpoint.generation, *ran}):
            version.objects.create(
                id=ids.new("ver"),
                endpoint=endpoint,
                number=number,
                spec={name: getattr(endpoint, name) for name in _FIELDS},
                created_at=endpoint.created_at,
                created_by="",
            )


FORWARD = """
ALTER TABLE endpoints_replica ADD CONSTRAINT replica_version
    FOREIGN KEY (endpoint_id, generation) REFERENCES endpoints_endpointversion (endpoint_id, number)
    DEFERRABLE INITIALLY DEFERRED;

CREATE FUNCTION endpoints_version_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (to_jsonb(OLD) - 'note') = (to_jsonb(NEW) - 'note') THEN
        RETURN NEW;  -- a note is a person's words, and may be erased
    END IF;
    RAISE EXCEPTION 'a version of an endpoint is immutable' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER version_kept BEFORE UPDATE OR DELETE ON endpoints_endpointversion
    FOR EACH ROW EXECUTE FUNCTION endpoints_version_kept();

CREATE VIEW gateway.rollouts AS
SELECT o.id AS rollout_id, o.endpoint_id, e.region_code AS region, o.from_number, o.to_number,
       o.share,
       COALESCE((SELECT array_agg(r.id ORDER BY r.id) FROM endpoints_replica r
                 WHERE r.endpoint_id = o.endpoint_id AND r.generation = o.to_number
                   AND r.state = 'ready'), '{}') AS replica_ids
FROM endpoints_rollout o
JOIN endpoints_endpoint e ON e.id = o.endpoint_id
WHERE o.state = 'progressing';
CREATE TRIGGER rollout_changed AFTER INSERT OR DELETE OR UPDATE OF state, share ON endpoints_rollout
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = """
DROP VIEW gateway.rollouts;
DROP TRIGGER rollout_changed ON endpoints_rollout;
DROP TRIGGER version_kept ON endpoints_endpointversion;
DROP FUNCTION endpoints_version_kept();
ALTER TABLE endpoints_replica DROP CONSTRAINT replica_version;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', "0024_gangs"),
    ]

    operations = [
        migrations.CreateModel(
            name='EndpointVersion',
            fields=[
                ('id', compliance.fields.IdField('ver', serialize=False)),
                ('number', models.PositiveIntegerField()),
                ('spec', models.JSONField()),
                ('created_at', models.DateTimeField()),
                ('created_by', models.CharField(max_length=64)),
                ('note', models.CharField(blank=True, max_length=200)),
                ('endpoint', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='versions', to='endpoints.endpoint')),
            ],
            options={
                'ordering': ('-number',),
            },
        ),
        migrations.AddField(
            model_name='replica',
            name='version',
            field=models.ForeignObject(from_fields=('endpoint', 'generation'), on_delete=django.db.models.deletion.PROTECT, related_name='replicas', to='endpoints.endpointversion', to_fields=('endpoint', 'number')),
        ),
        migrations.CreateModel(
            name='Rollout',
            fields=[
                ('id', compliance.fields.IdField('rol', serialize=False)),
                ('from_number', models.PositiveIntegerField()),
                ('to_number', models.PositiveIntegerField()),
                ('plan', models.JSONField()),
                ('state', models.CharField(default='progressing', max_length=16)),
                ('reason', models.CharField(max_length=32)),
                ('detail', models.CharField(blank=True, max_length=300)),
                ('share', models.FloatField(null=True)),
                ('step', models.PositiveSmallIntegerField(default=0)),
                ('step_at', models.DateTimeField(null=True)),
                ('proved_at', models.DateTimeField(null=True)),
                ('replaced_at', models.DateTimeField(null=True)),
                ('progress_at', models.DateTimeField()),
                ('most_ready', models.PositiveSmallIntegerField(default=0)),
                ('failures', models.PositiveSmallIntegerField(default=0)),
                ('retry_at', models.DateTimeField(null=True)),
                ('looks', models.PositiveSmallIntegerField(default=0)),
                ('health', models.JSONField(default=dict)),
                ('note', models.CharField(blank=True, max_length=200)),
                ('started_at', models.DateTimeField()),
                ('started_by', models.CharField(max_length=64)),
                ('ended_at', models.DateTimeField(null=True)),
                ('endpoint', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='rollouts', to='endpoints.endpoint')),
            ],
            options={
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='VersionHealth',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('rollout_id', models.CharField(max_length=31)),
                ('version', models.PositiveIntegerField()),
                ('gateway_id', models.CharField(max_length=64)),
                ('requests', models.PositiveIntegerField()),
                ('errors', models.PositiveIntegerField()),
                ('first', models.JSONField()),
                ('total', models.JSONField()),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'indexes': [models.Index(fields=['rollout_id'], name='versionhealth_rollout')],
            },
        ),
        migrations.AddConstraint(
            model_name='endpointversion',
            constraint=models.UniqueConstraint(fields=('endpoint', 'number'), name='version_number'),
        ),
        migrations.AddConstraint(
            model_name='rollout',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'progressing')), fields=('endpoint',), name='rollout_one_open'),
        ),
        migrations.AddConstraint(
            model_name='rollout',
            constraint=models.CheckConstraint(condition=models.Q(('from_number', models.F('to_number')), _negated=True), name='rollout_leads_elsewhere'),
        ),
        migrations.AlterField(
            model_name='replica',
            name='reason',
            field=models.CharField(choices=_REASONS, max_length=32),
        ),
        migrations.AlterField(
            model_name='transition',
            name='reason',
            field=models.CharField(choices=_REASONS, max_length=32),
        ),
        migrations.AlterField(
            model_name="start",
            name="reason",
            field=models.CharField(choices=_REASONS, max_length=32),
        ),
        migrations.RunPython(first_versions, migrations.RunPython.noop),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
