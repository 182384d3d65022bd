"""The gateway's view of the house, and the rule that serving intervals never overlap.

The gateway's role sees schema `gateway` and nothing else: three views, one sequence, and two
tables that it may insert into (grants: compliance.grants). Any committed change below those
views raises the directory's generation and notifies `stoa_directory`; a gateway then reads the
views anew.
"""

from django.db import migrations

FORWARD = """
CREATE EXTENSION IF NOT EXISTS btree_gist;
ALTER TABLE endpoints_servinginterval ADD CONSTRAINT servinginterval_no_overlap
    EXCLUDE USING gist (replica_id WITH =, tstzrange(started_at, ended_at) WITH &&);

CREATE SCHEMA gateway;
CREATE SEQUENCE gateway.directory_generation;

CREATE VIEW gateway.keys AS
SELECT k.id AS key_id, k.hash, k.project_id, p.organization_id, o.region_code AS region,
       k.scopes, k.allowed_models, k.expires_at
FROM tenancy_apikey k
JOIN tenancy_project p ON p.id = k.project_id
JOIN tenancy_organization o ON o.id = p.organization_id
WHERE k.revoked_at IS NULL;

CREATE VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;

CREATE VIEW gateway.replicas AS
SELECT r.id AS replica_id, r.endpoint_id, r.address,
       (r.engine_report ->> 'max_model_len')::int AS max_model_len
FROM endpoints_replica r
WHERE r.state = 'ready';

CREATE FUNCTION gateway.directory_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM nextval('gateway.directory_generation');
    PERFORM pg_notify('stoa_directory', '');
    RETURN NULL;
END $$;

CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE ON tenancy_apikey
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR DELETE OR UPDATE OF
        name, model, adapters, stopped_at, deleted_at, project_id ON endpoints_endpoint
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
CREATE TRIGGER directory_changed AFTER DELETE OR UPDATE OF state, address ON endpoints_replica
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();

-- A waiting request wakes its endpoint at once; the sweep would find it within two seconds.
CREATE FUNCTION gateway.activity_seen() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF NEW.waiting > 0 THEN
        PERFORM pg_notify('stoa_wake', NEW.endpoint_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER activity_seen AFTER INSERT ON endpoints_activity
    FOR EACH ROW EXECUTE FUNCTION gateway.activity_seen();
"""

BACKWARD = """
DROP SCHEMA gateway CASCADE;
ALTER TABLE endpoints_servinginterval DROP CONSTRAINT servinginterval_no_overlap;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0001_initial"), ("tenancy", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
