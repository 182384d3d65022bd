"""Budgets and token prices in the gateway's view of the house."""

from django.db import migrations

FORWARD = """
CREATE VIEW gateway.budgets AS
SELECT b.id AS budget_id, o.region_code AS region, b.subject, b.subject_id, b.name, b.unit,
       b.amount, b.allowance, b."window", b.time_zone, b.hard
FROM billing_budget b
JOIN tenancy_organization o ON o.id = b.organization_id
WHERE b.deleted_at IS NULL;

CREATE VIEW gateway.token_prices AS
SELECT p.id AS price_id, p.meter, p.device_kind, p.currency, p.amount, p.valid_from
FROM billing_price p
WHERE p.meter IN ('input_tokens', 'cached_tokens', 'output_tokens');

CREATE OR REPLACE VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters,
       e.device_kind
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;

CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE ON billing_budget
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT ON billing_price
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""

BACKWARD = """
DROP TRIGGER directory_changed ON billing_budget;
DROP TRIGGER directory_changed ON billing_price;
DROP VIEW gateway.budgets;
DROP VIEW gateway.endpoints;
CREATE VIEW gateway.endpoints AS
SELECT e.id AS endpoint_id, e.project_id, p.organization_id, e.region_code AS region, e.name,
       e.model, e.stopped_at IS NOT NULL AS stopped, e.created_at,
       COALESCE((SELECT array_agg(a ->> 'name' ORDER BY a ->> 'name')
                 FROM jsonb_array_elements(e.adapters) a), '{}') AS adapters
FROM endpoints_endpoint e
JOIN tenancy_project p ON p.id = e.project_id
WHERE e.deleted_at IS NULL;
DROP VIEW gateway.token_prices;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0004_gateway_secrets"), ("billing", "0004_leases")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
