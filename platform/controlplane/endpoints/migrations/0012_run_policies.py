"""Gateways see what a project lets its runs do."""

from django.db import migrations

_VIEW = """
CREATE VIEW gateway.projects AS
SELECT p.id AS project_id, p.organization_id, o.region_code AS region,
       p.requests_per_minute, p.input_tokens_per_minute, p.output_tokens_per_minute, p.concurrency
       {more}
FROM tenancy_project p
JOIN tenancy_organization o ON o.id = p.organization_id;
"""
FORWARD = f"""
DROP VIEW gateway.projects;
{_VIEW.format(more=", p.run_policy")}
CREATE TRIGGER policy_changed AFTER UPDATE OF run_policy ON tenancy_project
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
"""
BACKWARD = f"""
DROP TRIGGER policy_changed ON tenancy_project;
DROP VIEW gateway.projects;
{_VIEW.format(more="")}
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0011_shared"), ("tenancy", "0005_run_policy")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
