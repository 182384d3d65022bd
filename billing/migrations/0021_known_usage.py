"""What is known of some ids: one look-up by the key for each, whatever the planner believes.

Of a month's partition that is still empty as the statement is planned it believes that reading all
of it is cheapest; and the statement itself fills it.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION billing_known_usage(p_ids text[], p_since timestamptz, p_until timestamptz)
RETURNS SETOF billing_usageevent LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT e.* FROM unnest(p_ids) AS given(id) CROSS JOIN LATERAL (
        SELECT * FROM billing_usageevent u
        WHERE u.id = given.id AND u.at >= p_since AND u.at < p_until OFFSET 0
    ) AS e
$$;
"""
BACKWARD = "DROP FUNCTION billing_known_usage(text[], timestamptz, timestamptz)"


class Migration(migrations.Migration):
    dependencies = [("billing", "0020_month_runs")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
