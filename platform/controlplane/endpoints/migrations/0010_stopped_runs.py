"""Runs that were stopped: told to gateways at once, and found in their view for a day."""

from django.db import migrations

FORWARD = """
-- The last word about each run. A resumed one stays in it: it is newer than the stop before it.
CREATE VIEW gateway.stopped_runs AS
SELECT DISTINCT ON (s.project_id, s.run) s.project_id, s.run, s.id,
       extract(epoch FROM s.at)::float8 AS at, s.stopped, o.region_code AS region
FROM billing_runstop s
JOIN tenancy_project p ON p.id = s.project_id
JOIN tenancy_organization o ON o.id = p.organization_id
WHERE s.at > now() - interval '24 hours'
ORDER BY s.project_id, s.run, s.id DESC;

CREATE FUNCTION gateway.run_stopped() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('stoa_runs', concat_ws(' ', NEW.project_id, NEW.run, NEW.id,
        extract(epoch FROM NEW.at)::float8, NEW.stopped));
    RETURN NULL;
END $$;
CREATE TRIGGER run_stopped AFTER INSERT ON billing_runstop
    FOR EACH ROW EXECUTE FUNCTION gateway.run_stopped();
"""

BACKWARD = """
DROP TRIGGER run_stopped ON billing_runstop;
DROP FUNCTION gateway.run_stopped();
DROP VIEW gateway.stopped_runs;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0009_gateway_changes"), ("billing", "0006_run_stops")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
