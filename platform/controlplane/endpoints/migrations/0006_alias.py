"""Aliases, and what the gateway sees of them."""

import compliance.fields
import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


FORWARD = """
CREATE VIEW gateway.aliases AS
SELECT a.project_id, o.region_code AS region, a.name, a.targets, a.fallback_on
FROM endpoints_alias a
JOIN tenancy_project p ON p.id = a.project_id
JOIN tenancy_organization o ON o.id = p.organization_id;

CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE ON endpoints_alias
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = """
DROP TRIGGER directory_changed ON endpoints_alias;
DROP VIEW gateway.aliases;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0005_gateway_budgets'),
        ('tenancy', '0004_apikey_without_hash'),
    ]

    operations = [
        migrations.CreateModel(
            name='Alias',
            fields=[
                ('id', compliance.fields.IdField('als', serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('targets', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=128), size=None)),
                ('fallback_on', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=16), default=list, size=None)),
                ('created_at', models.DateTimeField()),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='aliases', to='tenancy.project')),
            ],
            options={
                'ordering': ('-id',),
                'constraints': [models.UniqueConstraint(fields=('project', 'name'), name='alias_name')],
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
