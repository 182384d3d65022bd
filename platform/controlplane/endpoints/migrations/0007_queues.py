"""What the gateway's queues go by: what replicas hold, how long starts take, how long to wait."""

from django.db import migrations, models

FORWARD = """
CREATE OR REPLACE VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters,
       e.device_kind,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s::float8)
        FROM jsonb_array_elements_text(e.start_seconds) s) AS start_s,
       e.queue_limit, e.queue_s
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;

-- Engines print their cache in tokens and as so many requests of full length. Of models with
-- layers of several kinds, older ones print too few tokens; the other figure is always right.
CREATE OR REPLACE VIEW gateway.replicas AS
SELECT r.id AS replica_id, r.endpoint_id, r.address,
       (r.engine_report ->> 'max_model_len')::int AS max_model_len,
       GREATEST((r.engine_report ->> 'kv_cache_tokens')::int8,
                floor((r.engine_report ->> 'max_concurrency')::float8
                      * (r.engine_report ->> 'max_model_len')::float8)::int8) AS kv_tokens,
       (r.engine_report ->> 'max_num_seqs')::int AS max_num_seqs
FROM endpoints_replica r
WHERE r.state = 'ready';

CREATE TRIGGER queue_changed AFTER UPDATE OF queue_limit, queue_s ON endpoints_endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = """
DROP TRIGGER queue_changed ON endpoints_endpoint;
DROP VIEW gateway.replicas;
CREATE VIEW gateway.replicas AS
SELECT r.id AS replica_id, r.endpoint_id, r.address,
       (r.engine_report ->> 'max_model_len')::int AS max_model_len
FROM endpoints_replica r
WHERE r.state = 'ready';
DROP VIEW gateway.endpoints;
CREATE VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters,
       e.device_kind
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0006_alias")]
    operations = [
        migrations.AddField("endpoint", "queue_limit", models.PositiveIntegerField(null=True)),
        migrations.AddField("endpoint", "queue_s", models.PositiveIntegerField(null=True)),
        migrations.AddField("endpoint", "start_seconds", models.JSONField(default=list)),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
