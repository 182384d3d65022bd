"""Gateways are told which nodes' certificates were revoked, at once."""

from django.db import migrations

FORWARD = """
CREATE VIEW gateway.revocations AS
SELECT region_id AS region, subject AS node_id,
       extract(epoch FROM issued_until)::float8 AS issued_until
FROM fleet_revocation
WHERE kind = 'node' AND expired_by > now();

CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE ON fleet_revocation
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""
BACKWARD = """
DROP TRIGGER directory_changed ON fleet_revocation;
DROP VIEW gateway.revocations;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0031_gateway_openai"), ("fleet", "0007_revocations")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
