"""The gateway finds a key by any of its secrets; each ends by itself, and all with the key."""

from django.db import migrations

COLUMNS = """
       k.project_id, p.organization_id, o.region_code AS region, k.scopes, k.allowed_models,
       k.networks, k.priority,
       k.requests_per_minute, k.input_tokens_per_minute, k.output_tokens_per_minute, k.concurrency
"""
FROM = """
FROM tenancy_apikey k
JOIN tenancy_project p ON p.id = k.project_id
JOIN tenancy_organization o ON o.id = p.organization_id
"""

# A secret that has ended is shown for a day more: who still uses it learns that it expired.
FORWARD = f"""
DROP VIEW gateway.keys;
CREATE VIEW gateway.keys AS
SELECT k.id AS key_id, s.id AS secret_id, s.hash, least(k.expires_at, s.expires_at) AS expires_at,
{COLUMNS} {FROM}
JOIN tenancy_apikeysecret s ON s.key_id = k.id
WHERE k.revoked_at IS NULL
  AND (s.expires_at IS NULL OR s.expires_at > now() - interval '1 day');

CREATE TRIGGER directory_changed AFTER INSERT OR DELETE OR UPDATE OF hash, expires_at, key_id
    ON tenancy_apikeysecret FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = f"""
DROP TRIGGER directory_changed ON tenancy_apikeysecret;
DROP VIEW gateway.keys;
CREATE VIEW gateway.keys AS
SELECT k.id AS key_id, k.hash, k.expires_at,
{COLUMNS} {FROM}
WHERE k.revoked_at IS NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0003_gateway_limits"), ("tenancy", "0003_secrets")]
    run_before = [("tenancy", "0004_apikey_without_hash")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
