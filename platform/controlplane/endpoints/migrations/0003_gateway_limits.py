"""The gateway sees limits: of keys, of projects and of organizations."""

from django.db import migrations

FORWARD = """
CREATE OR REPLACE VIEW gateway.keys AS
SELECT k.id AS key_id, k.hash, k.project_id, p.organization_id, o.region_code AS region,
       k.scopes, k.allowed_models, k.expires_at, k.networks, k.priority,
       k.requests_per_minute, k.input_tokens_per_minute, k.output_tokens_per_minute, k.concurrency
FROM tenancy_apikey k
JOIN tenancy_project p ON p.id = k.project_id
JOIN tenancy_organization o ON o.id = p.organization_id
WHERE k.revoked_at IS NULL;

CREATE VIEW gateway.projects AS
SELECT p.id AS project_id, p.organization_id, o.region_code AS region,
       p.requests_per_minute, p.input_tokens_per_minute, p.output_tokens_per_minute, p.concurrency
FROM tenancy_project p
JOIN tenancy_organization o ON o.id = p.organization_id;

CREATE VIEW gateway.organizations AS
SELECT id AS organization_id, region_code AS region,
       requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, concurrency
FROM tenancy_organization;

CREATE TRIGGER directory_changed AFTER INSERT OR DELETE OR UPDATE OF organization_id,
        requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, concurrency
    ON tenancy_project FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR DELETE OR UPDATE OF region_code,
        requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, concurrency
    ON tenancy_organization FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = """
DROP TRIGGER directory_changed ON tenancy_organization;
DROP TRIGGER directory_changed ON tenancy_project;
DROP VIEW gateway.organizations, gateway.projects, gateway.keys;
CREATE VIEW gateway.keys AS
SELECT k.id AS key_id, k.hash, k.project_id, p.organization_id, o.region_code AS region,
       k.scopes, k.allowed_models, k.expires_at
FROM tenancy_apikey k
JOIN tenancy_project p ON p.id = k.project_id
JOIN tenancy_organization o ON o.id = p.organization_id
WHERE k.revoked_at IS NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0002_gateway"), ("tenancy", "0002_limits")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
