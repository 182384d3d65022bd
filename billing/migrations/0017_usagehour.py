"""Sums of usage by the hour, and which hours of whom may owe more than the ledger says.

The database keeps both, in the transaction that adds the usage and by the rows that were really
added: so neither order, repetition, lateness nor a crash can tell them apart from a sum over all
usage. A row of sums lies within one price: an hour in which a price starts is cut there.

Who adds usage holds a lock that others share; who publishes a price holds it alone until it is
committed. So either the usage sees the price, or the price sees the usage and cuts it anew.
"""

from django.db import migrations

_LOCK = "hashtextextended('billing_usagehour', 0)"
_HOUR = "date_bin('1 hour', {}, '2000-01-01T00:00:00Z')"
_KEY = (
    "account_id, bucket, project_id, endpoint_id, key_id, agent, meter, basis, device_kind, share,"
    " region"
)
_SUMS = f"""
    SELECT account_id,
        CASE WHEN cuts IS NULL THEN {_HOUR.format("at")} ELSE billing_bucket(at, cuts) END,
        project_id, endpoint_id, key_id, agent, meter, basis, device_kind, share, region,
        sum(quantity), count(*)
"""

FORWARD = f"""
CREATE TABLE billing_usagehour (
    account_id varchar(31) COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    project_id varchar(31) COLLATE "C" NOT NULL,
    endpoint_id varchar(31) COLLATE "C" NOT NULL,
    key_id varchar(31) COLLATE "C" NOT NULL,
    agent varchar(31) COLLATE "C" NOT NULL,
    meter varchar(32) COLLATE "C" NOT NULL,
    basis varchar(16) COLLATE "C" NOT NULL,
    device_kind varchar(64) COLLATE "C" NOT NULL,
    share smallint NOT NULL,
    region varchar(32) COLLATE "C" NOT NULL,
    quantity bigint NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY ({_KEY})
) WITH (fillfactor = 80);
CREATE INDEX billing_usagehour_bucket ON billing_usagehour USING brin (bucket);

-- Hours of accounts whose usage has changed since the ledger was told of it.
CREATE TABLE billing_usagedue (
    hour timestamptz NOT NULL,
    account_id varchar(31) COLLATE "C" NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (hour, account_id)
) WITH (fillfactor = 80);

-- More of a meter at once than there is in the world: a counter gone wrong, and never a bill. (Of
-- rows that are there nobody can say so any more: they are not looked at.)
ALTER TABLE billing_usageevent
    ADD CONSTRAINT usageevent_bounded CHECK (quantity <= 1000000000000) NOT VALID;
CREATE INDEX billing_usageevent_run ON billing_usageevent (account_id, at) WHERE run <> '';

-- Where prices begin or end within an hour that begins from `p_start` on, and before `p_end`.
CREATE FUNCTION billing_price_cuts(p_start timestamptz, p_end timestamptz) RETURNS timestamptz[]
LANGUAGE sql STABLE AS $$
    SELECT array_agg(DISTINCT turn ORDER BY turn)
    FROM billing_price p, unnest(ARRAY[p.valid_from, p.valid_to]) turn
    WHERE turn > {_HOUR.format("p_start")} AND turn <= p_end
      AND turn <> {_HOUR.format("turn")}
$$;

-- The start of the hour, or of the newest price within it.
CREATE FUNCTION billing_bucket(p_at timestamptz, p_cuts timestamptz[]) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest({_HOUR.format("p_at")},
                    (SELECT max(cut) FROM unnest(p_cuts) cut WHERE cut <= p_at))
$$;

CREATE FUNCTION billing_roll_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    cuts timestamptz[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared({_LOCK});
    -- In the order of their keys, so that two writers of the same sums cannot lock crosswise.
    SELECT billing_price_cuts(min(at), max(at)) INTO cuts FROM fresh;
    INSERT INTO billing_usagehour AS h ({_KEY}, quantity, events)
    {_SUMS} FROM fresh
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ON CONFLICT ({_KEY}) DO UPDATE
    SET quantity = h.quantity + excluded.quantity, events = h.events + excluded.events;
    -- An update even of what is marked already: it waits for who is about to take the mark away.
    INSERT INTO billing_usagedue (hour, account_id)
    SELECT DISTINCT {_HOUR.format("at")}, account_id FROM fresh WHERE basis <> 'attribution'
    ORDER BY 1, 2
    ON CONFLICT (hour, account_id) DO UPDATE SET changed_at = excluded.changed_at;
    RETURN NULL;
END $$;
CREATE TRIGGER roll_up AFTER INSERT ON billing_usageevent
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION billing_roll_up();

CREATE FUNCTION billing_mark_due(p_start timestamptz, p_end timestamptz) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO billing_usagedue (hour, account_id)
    SELECT DISTINCT {_HOUR.format("bucket")}, account_id FROM billing_usagehour
    WHERE bucket >= p_start AND bucket < p_end AND basis <> 'attribution'
    ORDER BY 1, 2
    ON CONFLICT (hour, account_id) DO UPDATE SET changed_at = excluded.changed_at
$$;

-- The sums of whole hours anew, of all usage in them.
CREATE FUNCTION billing_rebuild_usagehour(p_start timestamptz, p_end timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    cuts timestamptz[];
BEGIN
    PERFORM pg_advisory_xact_lock({_LOCK});
    PERFORM billing_mark_due(p_start, p_end);
    DELETE FROM billing_usagehour WHERE bucket >= p_start AND bucket < p_end;
    cuts := billing_price_cuts(p_start, p_end);
    INSERT INTO billing_usagehour ({_KEY}, quantity, events)
    {_SUMS} FROM billing_usageevent WHERE at >= p_start AND at < p_end
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11;
    PERFORM billing_mark_due(p_start, p_end);
END $$;

-- Usage may be priced by it, or no more: cut there, and let the ledger be told.
CREATE FUNCTION billing_cut_usage() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    turn timestamptz;
    hour timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock({_LOCK});
    FOR turn, hour IN
        SELECT DISTINCT t, {_HOUR.format("t")}
        FROM fresh p, unnest(ARRAY[p.valid_from, p.valid_to]) t WHERE isfinite(t)
    LOOP
        IF turn <> hour AND EXISTS (
            SELECT FROM billing_usagehour
            WHERE bucket >= hour AND bucket < hour + interval '1 hour'
        ) THEN
            PERFORM billing_rebuild_usagehour(hour, hour + interval '1 hour');
        END IF;
        PERFORM billing_mark_due(hour, 'infinity');
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER cut_usage AFTER INSERT ON billing_price
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION billing_cut_usage();

-- What a gateway counted stands (as before; by columns, which is ten times faster).
CREATE OR REPLACE FUNCTION billing_guard_inbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.booked_at IS NOT NULL THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.booked_at IS NULL THEN
        OLD.booked_at := NEW.booked_at;
        OLD.problem := NEW.problem;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% of request % is refused', TG_OP, OLD.request_id
        USING ERRCODE = 'restrict_violation';
END $$;

-- Nobody adds usage between the sums of what is there and the trigger's first.
LOCK TABLE billing_usageevent IN SHARE ROW EXCLUSIVE MODE;
SELECT billing_rebuild_usagehour(
    (SELECT {_HOUR.format("min(at)")} FROM billing_usageevent), 'infinity')
WHERE EXISTS (SELECT FROM billing_usageevent);
"""

BACKWARD = """
CREATE OR REPLACE FUNCTION billing_guard_inbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.booked_at IS NOT NULL THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.booked_at IS NULL
       AND to_jsonb(NEW) - '{booked_at,problem}'::text[]
         = to_jsonb(OLD) - '{booked_at,problem}'::text[] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of request % is refused', TG_OP, OLD.request_id
        USING ERRCODE = 'restrict_violation';
END $$;
DROP TRIGGER cut_usage ON billing_price;
DROP FUNCTION billing_cut_usage();
DROP TRIGGER roll_up ON billing_usageevent;
DROP FUNCTION billing_roll_up();
DROP FUNCTION billing_rebuild_usagehour(timestamptz, timestamptz);
DROP FUNCTION billing_mark_due(timestamptz, timestamptz);
DROP FUNCTION billing_bucket(timestamptz, timestamptz[]);
DROP FUNCTION billing_price_cuts(timestamptz, timestamptz);
DROP INDEX billing_usageevent_run;
ALTER TABLE billing_usageevent DROP CONSTRAINT usageevent_bounded;
DROP TABLE billing_usagedue;
DROP TABLE billing_usagehour;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0016_cutoff")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
