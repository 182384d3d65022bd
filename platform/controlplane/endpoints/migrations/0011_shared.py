"""Shared endpoints: the operator's, for every organization of the region, by the token."""

from django.db import migrations, models

_VIEW = """
DROP VIEW gateway.endpoints;
CREATE VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters,
       e.device_kind,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s::float8)
        FROM jsonb_array_elements_text(e.start_seconds) s) AS start_s,
       e.queue_limit, e.queue_s%s
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;
"""
FORWARD = (
    _VIEW % ", e.shared_at IS NOT NULL AND e.unshared_at IS NULL AS shared"
    + """
CREATE TRIGGER shared_changed AFTER UPDATE OF shared_at, unshared_at ON endpoints_endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""
)
BACKWARD = "DROP TRIGGER shared_changed ON endpoints_endpoint;" + _VIEW % ""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0010_stopped_runs")]
    operations = [
        migrations.AddField("endpoint", "shared_at", models.DateTimeField(null=True)),
        migrations.AddField("endpoint", "unshared_at", models.DateTimeField(null=True)),
        migrations.AddConstraint(
            "endpoint",
            models.UniqueConstraint(
                fields=("region_code", "name"),
                condition=models.Q(
                    ("deleted_at", None), ("shared_at__isnull", False), ("unshared_at", None)
                ),
                name="endpoint_shared_name",
            ),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
