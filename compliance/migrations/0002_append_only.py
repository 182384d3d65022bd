"""Tables that only grow: the triggers, the monthly partitions, and the audit log made of them.

`stoa_make_append_only(table)` and `stoa_ensure_partition(parent, month)` serve other rooms too.
Row triggers on a partitioned parent are cloned to its partitions, statement triggers are not:
without one of its own, TRUNCATE of a partition would pass.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION stoa_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: rows are only added', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION stoa_make_append_only(target regclass) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, public AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON %s
                    FOR EACH ROW EXECUTE FUNCTION stoa_refuse_change()', target);
    EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION stoa_refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only_rows', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only_truncate', target);
END $$;

-- Lent to the running role: it may add a month to a partitioned table of this owner, no more.
CREATE FUNCTION stoa_ensure_partition(parent regclass, month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    first date := date_trunc('month', month)::date;
    child text;
BEGIN
    SELECT format('%s_%s', c.relname, to_char(first, 'YYYY_MM')) INTO child
    FROM pg_class c
    WHERE c.oid = parent AND c.relkind = 'p' AND c.relnamespace = 'public'::regnamespace
      AND pg_has_role(c.relowner, 'USAGE');
    IF child IS NULL THEN
        RAISE EXCEPTION '% is no partitioned table of the house', parent
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF to_regclass(format('public.%I', child)) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(child, 0));
    -- Not to_regclass again: it answers from a cache that waiting for the lock has not refreshed.
    IF EXISTS (SELECT FROM pg_class
               WHERE relname = child AND relnamespace = 'public'::regnamespace) THEN
        RETURN;
    END IF;
    -- ATTACH, not PARTITION OF: that one would lock writers out of the parent.
    EXECUTE format('CREATE TABLE public.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                   child, parent);
    EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON public.%I
                    FOR EACH STATEMENT EXECUTE FUNCTION stoa_refuse_change()', child);
    EXECUTE format('ALTER TABLE public.%I ENABLE ALWAYS TRIGGER append_only_truncate', child);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, child, first::timestamp AT TIME ZONE 'UTC',
                   (first + interval '1 month') AT TIME ZONE 'UTC');
END $$;
REVOKE ALL ON FUNCTION stoa_make_append_only(regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION stoa_ensure_partition(regclass, date) FROM PUBLIC;

CREATE TABLE compliance_auditevent (
    id varchar(31) NOT NULL,
    log_id varchar(31) NOT NULL,
    recorded_at timestamptz NOT NULL,
    action varchar(64) NOT NULL,
    outcome varchar(16) NOT NULL,
    actor_type varchar(16) NOT NULL,
    actor_id varchar(64) NOT NULL,
    target_type varchar(32) NOT NULL,
    target_id varchar(64) NOT NULL,
    region varchar(32) NOT NULL,
    request_id varchar(64) NOT NULL,
    body bytea NOT NULL CONSTRAINT auditevent_body_bounded CHECK (octet_length(body) <= 16384),
    PRIMARY KEY (id, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE INDEX compliance_auditevent_log ON compliance_auditevent (log_id, id);
CREATE INDEX compliance_auditevent_action ON compliance_auditevent (log_id, action);
SELECT stoa_make_append_only('compliance_auditevent');
SELECT stoa_ensure_partition('compliance_auditevent', (now() + n * interval '1 month')::date)
FROM generate_series(-1, 1) n;
"""

BACKWARD = """
DROP TABLE compliance_auditevent;
DROP FUNCTION stoa_ensure_partition(regclass, date);
DROP FUNCTION stoa_make_append_only(regclass);
DROP FUNCTION stoa_refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [("compliance", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
