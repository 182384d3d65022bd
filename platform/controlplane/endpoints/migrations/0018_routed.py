"""A gateway says that it routes to a replica: the last phase of its start."""

from django.db import migrations

FORWARD = """
-- Of a start that ended just now, and the first word counts. A gateway that begins anew says it of
-- every replica.
CREATE FUNCTION endpoints_note_routed(replicas text[])
RETURNS TABLE (tier text, seconds float8, missed boolean) LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE public.endpoints_start AS s SET routed_at = clock_timestamp()
    WHERE s.replica_id = ANY(replicas) AND s.routed_at IS NULL AND s.ready
      AND s.ended_at > clock_timestamp() - interval '1 minute'
    RETURNING s.tier::text,
              s.total_s + extract(epoch FROM s.routed_at - s.ended_at)::float8, s.missed
$$;
"""

BACKWARD = "DROP FUNCTION endpoints_note_routed(text[]);"


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0017_starts")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
