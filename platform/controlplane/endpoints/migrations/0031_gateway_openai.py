"""Gateways are told which endpoints speak OpenAI's API, and which are images with one of their own."""

from django.db import migrations

_VIEW = """
CREATE %s VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters,
       e.device_kind,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s::float8)
        FROM jsonb_array_elements_text(e.start_seconds) s) AS start_s,
       e.queue_limit, e.queue_s,
       e.shared_at IS NOT NULL AND e.unshared_at IS NULL AS shared, e.ttft_target_s%s
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;
"""
FORWARD = (
    _VIEW % ("OR REPLACE", ", COALESCE((e.image ->> 'openai')::boolean, true) AS openai")
    + """
CREATE TRIGGER image_changed AFTER UPDATE OF image ON endpoints_endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""
)
BACKWARD = (
    "DROP TRIGGER image_changed ON endpoints_endpoint; DROP VIEW gateway.endpoints;"
    + _VIEW % ("", "")
)


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0030_engine_versions")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
