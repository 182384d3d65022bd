"""Adapters are loaded while an engine runs: each load has an id, each replica says what it has."""

from django.db import migrations, models

FORWARD = """
UPDATE endpoints_endpoint e SET
    adapters = (SELECT jsonb_agg(jsonb_build_object('revision', '') || a || jsonb_build_object(
                    'id', 'adp_' || substr(md5(e.id || (a ->> 'name')), 1, 26)))
                FROM jsonb_array_elements(e.adapters) a),
    engine_args = jsonb_build_object('max_loras', GREATEST(4, jsonb_array_length(e.adapters)))
                  || e.engine_args
WHERE jsonb_array_length(e.adapters) > 0;

CREATE OR REPLACE VIEW gateway.replicas AS
SELECT r.id AS replica_id, r.endpoint_id, r.address,
       (r.engine_report ->> 'max_model_len')::int AS max_model_len,
       GREATEST((r.engine_report ->> 'kv_cache_tokens')::int8,
                floor((r.engine_report ->> 'max_concurrency')::float8
                      * (r.engine_report ->> 'max_model_len')::float8)::int8) AS kv_tokens,
       (r.engine_report ->> 'max_num_seqs')::int AS max_num_seqs,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM endpoints_endpoint e, jsonb_array_elements(e.adapters) a
                 WHERE e.id = r.endpoint_id
                   AND r.adapters -> (a ->> 'id') ->> 'state' = 'loaded'), '{}') AS adapters,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM endpoints_endpoint e, jsonb_array_elements(e.adapters) a
                 WHERE e.id = r.endpoint_id
                   AND r.adapters -> (a ->> 'id') ->> 'state' = 'failed'), '{}') AS failed_adapters
FROM endpoints_replica r
WHERE r.state = 'ready';

CREATE TRIGGER adapters_changed AFTER UPDATE OF adapters ON endpoints_replica
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = """
DROP TRIGGER adapters_changed ON endpoints_replica;
DROP VIEW gateway.replicas;
CREATE VIEW gateway.replicas AS
SELECT r.id AS replica_id, r.endpoint_id, r.address,
       (r.engine_report ->> 'max_model_len')::int AS max_model_len,
       GREATEST((r.engine_report ->> 'kv_cache_tokens')::int8,
                floor((r.engine_report ->> 'max_concurrency')::float8
                      * (r.engine_report ->> 'max_model_len')::float8)::int8) AS kv_tokens,
       (r.engine_report ->> 'max_num_seqs')::int AS max_num_seqs
FROM endpoints_replica r
WHERE r.state = 'ready';
UPDATE endpoints_endpoint e SET
    adapters = (SELECT jsonb_agg(a - 'id' - 'revision') FROM jsonb_array_elements(e.adapters) a)
WHERE jsonb_array_length(e.adapters) > 0;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0015_tiers")]
    operations = [
        migrations.AddField("replica", "adapters", models.JSONField(default=dict)),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
