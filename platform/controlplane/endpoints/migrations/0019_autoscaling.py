"""What scaling reads and remembers; and a gateway that has more than is ready is heard at once."""

import controlplane.scaling.decide
import controlplane.scaling.policy
import django.db.models.deletion
from django.db import migrations, models


_SEEN = """
CREATE OR REPLACE FUNCTION gateway.activity_seen() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF %s THEN
        PERFORM pg_notify('stoa_wake', NEW.endpoint_id);
    END IF;
    RETURN NULL;
END $$;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0018_routed'),
    ]

    operations = [
        migrations.CreateModel(
            name='Scaling',
            fields=[
                ('endpoint', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='scaling', serialize=False, to='endpoints.endpoint')),
                ('replicas', models.PositiveSmallIntegerField(default=0)),
                ('tier', models.CharField(default='off', max_length=16)),
                ('why', models.CharField(choices=[('min_replicas', 'min_replicas'), ('load', 'load'), ('keep_alive', 'keep_alive'), ('clock', 'clock'), ('capped', 'capped'), ('idle', 'idle')], default=controlplane.scaling.decide.Why['IDLE'], max_length=16)),
                ('looked_at', models.DateTimeField(null=True)),
                ('look_at', models.DateTimeField(null=True)),
                ('hinted_at', models.DateTimeField(null=True)),
                ('idle_since', models.DateTimeField(null=True)),
                ('kept_from', models.DateTimeField(null=True)),
                ('gaps', models.JSONField(null=True)),
                ('capacity', models.JSONField(default=dict)),
                ('warm', models.PositiveSmallIntegerField(default=0)),
                ('warm_day', models.CharField(blank=True, max_length=10)),
                ('warm_s', models.FloatField(default=0)),
                ('warm_euro', models.DecimalField(decimal_places=9, default=0, max_digits=20)),
            ],
        ),
        migrations.RenameField(
            model_name='endpoint',
            old_name='idle_timeout_s',
            new_name='scale_to_zero_timeout_s',
        ),
        migrations.AddField(
            model_name='activity',
            name='idle_s',
            field=models.FloatField(null=True),
        ),
        migrations.AddField(
            model_name='activity',
            name='kv_tokens',
            field=models.BigIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='activity',
            name='prefill_tps',
            field=models.FloatField(null=True),
        ),
        migrations.AddField(
            model_name='activity',
            name='pressed',
            field=models.BooleanField(db_default=False),
        ),
        migrations.AddField(
            model_name='activity',
            name='running',
            field=models.PositiveIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='activity',
            name='uncached_tokens',
            field=models.BigIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='activity',
            name='worker',
            field=models.PositiveSmallIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='bursts',
            field=models.JSONField(default=list),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='keep_alive',
            field=models.CharField(choices=[('predictable', 'predictable'), ('automatic', 'automatic')], default=controlplane.scaling.policy.KeepAlive['PREDICTABLE'], max_length=16),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='keep_warm_cap',
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name='endpoint',
            name='schedules',
            field=models.JSONField(default=list),
        ),
        migrations.AlterField(
            model_name='replica',
            name='reason',
            field=models.CharField(choices=[('scale_up', 'scale_up'), ('wake', 'wake'), ('scheduled', 'scheduled'), ('placed', 'placed'), ('node_report', 'node_report'), ('probe_passed', 'probe_passed'), ('adopted', 'adopted'), ('scale_down', 'scale_down'), ('idle', 'idle'), ('cannot_sleep', 'cannot_sleep'), ('yielded', 'yielded'), ('capped', 'capped'), ('stop_requested', 'stop_requested'), ('spec_changed', 'spec_changed'), ('node_drain', 'node_drain'), ('stopped', 'stopped'), ('no_capacity', 'no_capacity'), ('fetch_failed', 'fetch_failed'), ('model_not_found', 'model_not_found'), ('engine_exited', 'engine_exited'), ('probe_failed', 'probe_failed'), ('start_timeout', 'start_timeout'), ('node_unreachable', 'node_unreachable'), ('node_lost', 'node_lost'), ('engine_missing', 'engine_missing'), ('budget_exhausted', 'budget_exhausted'), ('walls_missing', 'walls_missing')], max_length=32),
        ),
        migrations.AlterField(
            model_name='start',
            name='reason',
            field=models.CharField(choices=[('scale_up', 'scale_up'), ('wake', 'wake'), ('scheduled', 'scheduled'), ('placed', 'placed'), ('node_report', 'node_report'), ('probe_passed', 'probe_passed'), ('adopted', 'adopted'), ('scale_down', 'scale_down'), ('idle', 'idle'), ('cannot_sleep', 'cannot_sleep'), ('yielded', 'yielded'), ('capped', 'capped'), ('stop_requested', 'stop_requested'), ('spec_changed', 'spec_changed'), ('node_drain', 'node_drain'), ('stopped', 'stopped'), ('no_capacity', 'no_capacity'), ('fetch_failed', 'fetch_failed'), ('model_not_found', 'model_not_found'), ('engine_exited', 'engine_exited'), ('probe_failed', 'probe_failed'), ('start_timeout', 'start_timeout'), ('node_unreachable', 'node_unreachable'), ('node_lost', 'node_lost'), ('engine_missing', 'engine_missing'), ('budget_exhausted', 'budget_exhausted'), ('walls_missing', 'walls_missing')], max_length=32),
        ),
        migrations.AlterField(
            model_name='transition',
            name='reason',
            field=models.CharField(choices=[('scale_up', 'scale_up'), ('wake', 'wake'), ('scheduled', 'scheduled'), ('placed', 'placed'), ('node_report', 'node_report'), ('probe_passed', 'probe_passed'), ('adopted', 'adopted'), ('scale_down', 'scale_down'), ('idle', 'idle'), ('cannot_sleep', 'cannot_sleep'), ('yielded', 'yielded'), ('capped', 'capped'), ('stop_requested', 'stop_requested'), ('spec_changed', 'spec_changed'), ('node_drain', 'node_drain'), ('stopped', 'stopped'), ('no_capacity', 'no_capacity'), ('fetch_failed', 'fetch_failed'), ('model_not_found', 'model_not_found'), ('engine_exited', 'engine_exited'), ('probe_failed', 'probe_failed'), ('start_timeout', 'start_timeout'), ('node_unreachable', 'node_unreachable'), ('node_lost', 'node_lost'), ('engine_missing', 'engine_missing'), ('budget_exhausted', 'budget_exhausted'), ('walls_missing', 'walls_missing')], max_length=32),
        ),
        migrations.AddIndex(
            model_name='activity',
            index=models.Index(condition=models.Q(('waiting__gt', 0), ('pressed', True), _connector='OR'), fields=['at'], name='activity_pressed'),
        ),
        migrations.RunSQL(_SEEN % "NEW.waiting > 0 OR NEW.pressed", _SEEN % "NEW.waiting > 0"),
    ]
