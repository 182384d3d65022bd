"""Who is sent a log, and how leaves that no kept head covers get a place in a log's successor."""

import compliance.fields
from django.db import migrations, models


FORWARD = """
-- Only of a closed log: what its kept heads do not cover waits again, for its successor.
CREATE FUNCTION stoa_requeue_leaves(closed varchar, since bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    queued bigint;
BEGIN
    INSERT INTO compliance_logpending (event_id, owner, leaf_hash, recorded_at, queued_at)
    SELECT f.event_id, l.owner, f.leaf_hash, f.recorded_at, clock_timestamp()
    FROM compliance_logleaf f JOIN compliance_log l ON l.id = f.log_id
    WHERE l.id = closed AND l.closed_at IS NOT NULL AND f.index >= since
      AND NOT EXISTS (SELECT FROM compliance_logleaf n JOIN compliance_log m ON m.id = n.log_id
                      WHERE n.event_id = f.event_id AND m.owner = l.owner AND m.number > l.number)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS queued = ROW_COUNT;
    RETURN queued;
END $$;
REVOKE ALL ON FUNCTION stoa_requeue_leaves(varchar, bigint) FROM PUBLIC;
"""
BACKWARD = "DROP FUNCTION stoa_requeue_leaves(varchar, bigint);"


class Migration(migrations.Migration):

    dependencies = [
        ('compliance', '0004_log'),
    ]

    operations = [
        migrations.CreateModel(
            name='LogSubscription',
            fields=[
                ('id', compliance.fields.IdField('sub', serialize=False)),
                ('owner', models.CharField(max_length=31)),
                ('region', models.CharField(blank=True, max_length=32)),
                ('kind', models.CharField(max_length=16)),
                ('via', models.CharField(max_length=16)),
                ('host', models.CharField(max_length=253)),
                ('form', models.CharField(max_length=16)),
                ('sealed', models.BinaryField()),
                ('log_id', models.CharField(blank=True, max_length=31)),
                ('next_index', models.BigIntegerField(default=0)),
                ('created_at', models.DateTimeField()),
                ('sent_at', models.DateTimeField(null=True)),
                ('next_try_at', models.DateTimeField()),
                ('failures', models.PositiveIntegerField(default=0)),
                ('failure', models.CharField(blank=True, max_length=200)),
                ('ended_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.AlterField(
            model_name='logleaf',
            name='event_id',
            field=models.CharField(max_length=31),
        ),
        migrations.AddConstraint(
            model_name='logleaf',
            constraint=models.UniqueConstraint(fields=('event_id', 'log_id'), name='logleaf_event_once'),
        ),
        migrations.AddIndex(
            model_name='logsubscription',
            index=models.Index(condition=models.Q(('ended_at', None)), fields=['next_try_at'], name='logsubscription_due'),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
