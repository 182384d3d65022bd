"""The schedule of retention, its runs, holds, and records of processing."""

import compliance.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('compliance', '0009_data_keys'),
    ]

    operations = [
        migrations.CreateModel(
            name='Hold',
            fields=[
                ('id', compliance.fields.IdField('hld', serialize=False)),
                ('log', models.CharField(max_length=31)),
                ('subject_kind', models.CharField(max_length=16)),
                ('subject_id', models.CharField(max_length=31)),
                ('reason', models.CharField(max_length=500)),
                ('placed_at', models.DateTimeField()),
                ('placed_by', models.CharField(max_length=64)),
                ('lifted_at', models.DateTimeField(null=True)),
                ('lifted_by', models.CharField(blank=True, max_length=64)),
            ],
            options={
                'ordering': ('-id',),
                'indexes': [models.Index(condition=models.Q(('lifted_at', None)), fields=['subject_kind', 'subject_id'], name='hold_standing')],
            },
        ),
        migrations.CreateModel(
            name='ProcessingContact',
            fields=[
                ('id', compliance.fields.IdField('pct', serialize=False)),
                ('scope', models.CharField(max_length=31)),
                ('part', models.CharField(max_length=24)),
                ('name', models.CharField(max_length=200)),
                ('address', models.CharField(blank=True, max_length=400)),
                ('email', models.CharField(blank=True, max_length=254)),
                ('phone', models.CharField(blank=True, max_length=40)),
                ('changed_at', models.DateTimeField()),
                ('changed_by', models.CharField(max_length=64)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('scope', 'part'), name='processingcontact_once')],
            },
        ),
        migrations.CreateModel(
            name='ProcessingVersion',
            fields=[
                ('id', compliance.fields.IdField('prv', serialize=False)),
                ('scope', models.CharField(max_length=31)),
                ('number', models.PositiveIntegerField()),
                ('sha256', models.CharField(max_length=64)),
                ('document', models.BinaryField()),
                ('at', models.DateTimeField()),
                ('event_id', models.CharField(max_length=31)),
            ],
            options={
                'ordering': ('-id',),
                'constraints': [models.UniqueConstraint(fields=('scope', 'number'), name='processingversion_once')],
            },
        ),
        migrations.CreateModel(
            name='RetentionRule',
            fields=[
                ('id', compliance.fields.IdField('rtn', serialize=False)),
                ('code', models.CharField(max_length=48)),
                ('category', models.CharField(max_length=32)),
                ('basis', models.CharField(max_length=32)),
                ('amount', models.PositiveIntegerField(null=True)),
                ('unit', models.CharField(blank=True, max_length=8)),
                ('calendar_year', models.BooleanField(default=False)),
                ('starts', models.CharField(max_length=80)),
                ('action', models.CharField(max_length=16)),
                ('jurisdiction', models.CharField(max_length=64)),
                ('source', models.CharField(max_length=100)),
                ('ground', models.CharField(blank=True, max_length=400)),
                ('effective_from', models.DateTimeField()),
                ('effective_to', models.DateTimeField(null=True)),
                ('created_at', models.DateTimeField()),
                ('created_by', models.CharField(blank=True, max_length=64)),
            ],
            options={
                'ordering': ('code', 'effective_from'),
                'constraints': [models.UniqueConstraint(condition=models.Q(('effective_to', None)), fields=('code',), name='retentionrule_one_open'), models.CheckConstraint(condition=models.Q(('effective_to', None), ('effective_to__gte', models.F('effective_from')), _connector='OR'), name='retentionrule_ends')],
            },
        ),
        migrations.CreateModel(
            name='RetentionRun',
            fields=[
                ('id', compliance.fields.IdField('rrn', serialize=False)),
                ('code', models.CharField(max_length=48)),
                ('rule_id', models.CharField(blank=True, max_length=31)),
                ('log', models.CharField(blank=True, max_length=31)),
                ('at', models.DateTimeField()),
                ('since', models.DateTimeField(null=True)),
                ('before', models.DateTimeField(null=True)),
                ('done', models.BigIntegerField(default=0)),
                ('held', models.BigIntegerField(default=0)),
                ('failed', models.BigIntegerField(default=0)),
                ('complete', models.BooleanField(default=False)),
                ('event_id', models.CharField(blank=True, max_length=31)),
            ],
            options={
                'ordering': ('-id',),
                'indexes': [models.Index(fields=['code', '-at'], name='retentionrun_newest'), models.Index(fields=['log', 'before'], name='retentionrun_of_log')],
            },
        ),
        migrations.RunSQL(
            "SELECT stoa_make_append_only('compliance_retentionrun');"
            "SELECT stoa_make_append_only('compliance_processingversion');",
            migrations.RunSQL.noop,
        ),
    ]
