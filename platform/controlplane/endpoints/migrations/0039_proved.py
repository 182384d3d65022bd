"""What node records prove of a stretch, what is given back of it, and stretches of sleep."""

import compliance.fields
import django.db.models.deletion
from django.db import migrations, models


APART = """
ALTER TABLE endpoints_asleepinterval ADD CONSTRAINT asleepinterval_no_overlap
    EXCLUDE USING gist (replica_id WITH =, tstzrange(started_at, ended_at) WITH &&);
"""
TOGETHER = "ALTER TABLE endpoints_asleepinterval DROP CONSTRAINT asleepinterval_no_overlap;"


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0038_list_prices'),
    ]

    operations = [
        migrations.CreateModel(
            name='AsleepInterval',
            fields=[
                ('id', compliance.fields.IdField('aiv', serialize=False)),
                ('started_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(null=True)),
                ('proved_us', models.BigIntegerField(default=0)),
                ('metered_s', models.IntegerField(default=0)),
            ],
        ),
        migrations.AddField(
            model_name='servinginterval',
            name='fault',
            field=models.CharField(blank=True, choices=[('scale_up', 'scale_up'), ('wake', 'wake'), ('scheduled', 'scheduled'), ('placed', 'placed'), ('node_report', 'node_report'), ('probe_passed', 'probe_passed'), ('adopted', 'adopted'), ('scale_down', 'scale_down'), ('idle', 'idle'), ('cannot_sleep', 'cannot_sleep'), ('yielded', 'yielded'), ('capped', 'capped'), ('stop_requested', 'stop_requested'), ('spec_changed', 'spec_changed'), ('rolled_back', 'rolled_back'), ('node_drain', 'node_drain'), ('stopped', 'stopped'), ('no_capacity', 'no_capacity'), ('fetch_failed', 'fetch_failed'), ('model_not_found', 'model_not_found'), ('access_denied', 'access_denied'), ('engine_exited', 'engine_exited'), ('probe_failed', 'probe_failed'), ('tool_probe_failed', 'tool_probe_failed'), ('schema_probe_failed', 'schema_probe_failed'), ('start_timeout', 'start_timeout'), ('device_dirty', 'device_dirty'), ('node_unreachable', 'node_unreachable'), ('node_lost', 'node_lost'), ('engine_missing', 'engine_missing'), ('budget_exhausted', 'budget_exhausted'), ('image_not_found', 'image_not_found'), ('containers_missing', 'containers_missing'), ('walls_missing', 'walls_missing')], db_default='', max_length=32),
        ),
        migrations.AddField(
            model_name='servinginterval',
            name='proved_us',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='servinginterval',
            name='reached_us',
            field=models.BigIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='servinginterval',
            name='reconciled_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='servinginterval',
            name='returned_s',
            field=models.IntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='servinginterval',
            name='settled_s',
            field=models.IntegerField(db_default=0),
        ),
        migrations.AddIndex(
            model_name='servinginterval',
            index=models.Index(condition=models.Q(('fault', ''), _negated=True), fields=['ended_at'], name='servinginterval_fault'),
        ),
        migrations.AddField(
            model_name='asleepinterval',
            name='replica',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='asleep', to='endpoints.replica'),
        ),
        migrations.AddIndex(
            model_name='servinginterval',
            index=models.Index(condition=models.Q(('reconciled_at', None)), fields=['ended_at'], name='servinginterval_due'),
        ),
        migrations.RunSQL(APART, TOGETHER),
    ]
