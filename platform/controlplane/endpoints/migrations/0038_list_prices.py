"""Gateways read the list's prices, with their ends; no account's own."""

from django.db import migrations

FORWARD = """
CREATE OR REPLACE VIEW gateway.token_prices AS
SELECT p.id AS price_id, p.meter, p.device_kind, p.currency, p.amount, p.valid_from, p.valid_to
FROM billing_price p
WHERE p.meter IN ('input_tokens', 'cached_tokens', 'output_tokens') AND p.account_id IS NULL;
"""
BACKWARD = """
DROP VIEW gateway.token_prices;
CREATE VIEW gateway.token_prices AS
SELECT p.id AS price_id, p.meter, p.device_kind, p.currency, p.amount, p.valid_from
FROM billing_price p
WHERE p.meter IN ('input_tokens', 'cached_tokens', 'output_tokens');
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0037_device_shares"), ("billing", "0013_catalogue")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
