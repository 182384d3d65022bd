"""How leases are granted, and how what was spent of them is settled.

Postgres is the one authority over a budget: what was spent of a window, plus what is outstanding
of its leases, never exceeds the amount and its allowance. Both functions run with their owner's
rights, since gateways see none of these tables. Locks are taken in one order everywhere: windows
by (budget, window), then their leases.
"""

from django.db import migrations

FORWARD = """
-- One holder asks for the leases of some counters. An ask: [budget, window, lease, seq, needed,
-- more]. `needed` is what the counter must be able to spend in all; with `more` it gets a cushion
-- on top, so that it need not ask for each request; without, what it has beyond is given back.
-- Asks are numbered, so that one that comes late changes nothing.
CREATE FUNCTION billing_lease(p_holder text, p_epoch text, p_hosts int, p_asks jsonb)
RETURNS TABLE (lease bigint, seq bigint, granted bigint, cap bigint, others bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    ask record;
    v_limit bigint;
    v_spent bigint;
    v_others bigint;
    v_lease billing_lease%ROWTYPE;
    v_granted bigint;
    v_cap bigint;
BEGIN
    FOR ask IN
        SELECT a ->> 0 AS budget, a ->> 1 AS window_id, (a ->> 2)::bigint AS lease,
               (a ->> 3)::bigint AS seq, (a ->> 4)::bigint AS needed, (a ->> 5)::boolean AS more
        FROM jsonb_array_elements(p_asks) a ORDER BY 1, 2, 3
    LOOP
        SELECT b.amount + b.allowance INTO v_limit FROM billing_budget b
        WHERE b.id = ask.budget AND b.deleted_at IS NULL;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO billing_budgetwindow (budget_id, "window", spent, calls)
        VALUES (ask.budget, ask.window_id, 0, 0) ON CONFLICT DO NOTHING;
        SELECT w.spent INTO v_spent FROM billing_budgetwindow w
        WHERE w.budget_id = ask.budget AND w."window" = ask.window_id FOR UPDATE;
        INSERT INTO billing_lease
            (id, budget_id, "window", holder, epoch, granted, settled, seq)
        VALUES (ask.lease, ask.budget, ask.window_id, p_holder, p_epoch, 0, 0, 0)
        ON CONFLICT DO NOTHING;
        SELECT * INTO v_lease FROM billing_lease l WHERE l.id = ask.lease FOR UPDATE;
        CONTINUE WHEN v_lease.holder <> p_holder OR v_lease.budget_id <> ask.budget
                   OR v_lease."window" <> ask.window_id OR v_lease.closed_at IS NOT NULL;
        SELECT COALESCE(sum(greatest(l.granted - l.settled, 0)), 0) INTO v_others
        FROM billing_lease l
        WHERE l.budget_id = ask.budget AND l."window" = ask.window_id
          AND l.closed_at IS NULL AND l.id <> ask.lease;
        -- The most that this counter may spend in all.
        v_cap := v_limit - (v_spent - v_lease.settled) - v_others;
        v_granted := v_lease.granted;
        IF ask.seq > v_lease.seq THEN
            -- Without `more` the holder has lowered its counter before it asked. With it, it may
            -- be spending all that it was ever granted: that is never taken away from here.
            IF ask.more THEN
                v_granted := greatest(v_lease.granted, least(v_cap,
                    ask.needed + greatest((v_cap - ask.needed) / (2 * p_hosts), 0)));
            ELSE
                v_granted := ask.needed;
            END IF;
            UPDATE billing_lease l SET granted = v_granted, seq = ask.seq WHERE l.id = ask.lease;
        END IF;
        IF v_granted < ask.needed AND v_others > 0 THEN
            -- Others hold what this one lacks: they give back what they do not use.
            PERFORM pg_notify('stoa_leases', ask.budget || ' ' || ask.window_id);
        END IF;
        lease := ask.lease; seq := ask.seq; granted := v_granted; cap := v_cap;
        others := v_others;
        RETURN NEXT;
    END LOOP;
END $$;

-- A holder's counters are gone, and everything that they spent has arrived.
CREATE FUNCTION billing_close_leases(p_holder text, p_epochs text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    UPDATE billing_lease SET closed_at = now()
    WHERE holder = p_holder AND epoch = ANY (p_epochs) AND closed_at IS NULL;
$$;

-- A request is in the inbox once, whatever is shipped twice: so it is settled once.
CREATE FUNCTION billing_settle_charges() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    INSERT INTO billing_budgetwindow AS w (budget_id, "window", spent, calls)
    SELECT b.id, c ->> 1, sum((c ->> 4)::bigint), count(*)
    FROM fresh, jsonb_array_elements(fresh.charges) c JOIN billing_budget b ON b.id = c ->> 0
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (budget_id, "window") DO UPDATE
    SET spent = w.spent + excluded.spent, calls = w.calls + excluded.calls, last_at = now();
    UPDATE billing_lease l SET settled = l.settled + s.amount
    FROM (SELECT (c ->> 2)::bigint AS id, sum((c ->> 4)::bigint) AS amount
          FROM fresh, jsonb_array_elements(fresh.charges) c GROUP BY 1) s
    WHERE l.id = s.id;
    RETURN NULL;
END $$;
CREATE TRIGGER settle_charges AFTER INSERT ON billing_usageinbox
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT
    EXECUTE FUNCTION billing_settle_charges();
"""

BACKWARD = """
DROP TRIGGER settle_charges ON billing_usageinbox;
DROP FUNCTION billing_settle_charges();
DROP FUNCTION billing_close_leases(text, text[]);
DROP FUNCTION billing_lease(text, text, int, jsonb);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_budgets")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
