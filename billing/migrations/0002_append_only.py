"""Usage in monthly partitions, prices and ledger that only grow, and a ledger that balances.

Two traps decide the shape of the ledger's triggers. Balance can be checked only at commit, when
all entries are there; and a balanced *addition* to an old transaction would pass that check, so
an entry must come from the very database transaction that posted (the full 64-bit id, and its
start, since a restored cluster counts transaction ids anew).
"""

from django.db import migrations, models
from django.db.models import Q

FORWARD = """
CREATE TABLE billing_usageevent (
    id varchar(80) NOT NULL CONSTRAINT usageevent_named CHECK (id <> ''),
    at timestamptz NOT NULL,
    account_id varchar(31) NOT NULL,
    project_id varchar(31) NOT NULL,
    key_id varchar(31) NOT NULL,
    endpoint_id varchar(31) NOT NULL,
    replica_id varchar(31) NOT NULL,
    request_id varchar(64) NOT NULL,
    region varchar(32) NOT NULL,
    device_kind varchar(64) NOT NULL,
    meter varchar(32) NOT NULL CONSTRAINT usageevent_never_egress
        CHECK (meter IN ('device_seconds', 'input_tokens', 'cached_tokens', 'output_tokens')),
    basis varchar(16) NOT NULL CONSTRAINT usageevent_basis
        CHECK (basis IN ('charge', 'attribution')),
    quantity bigint NOT NULL CONSTRAINT usageevent_positive CHECK (quantity > 0),
    flags jsonb NOT NULL CONSTRAINT usageevent_flags CHECK (jsonb_typeof(flags) = 'array'),
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX billing_usageevent_account ON billing_usageevent (account_id, at);
CREATE INDEX billing_usageevent_endpoint ON billing_usageevent (endpoint_id, at);
-- For runs over all accounts: events come nearly in the order of their time, so this is tiny.
CREATE INDEX billing_usageevent_at ON billing_usageevent USING brin (at);
CREATE INDEX billing_ledgertransaction_kind ON billing_ledgertransaction (kind, effective_at);
SELECT stoa_make_append_only('billing_usageevent');
SELECT stoa_ensure_partition('billing_usageevent', (now() + n * interval '1 month')::date)
FROM generate_series(-1, 1) n;

SELECT stoa_make_append_only('billing_price');
SELECT stoa_make_append_only('billing_ledgeraccount');
SELECT stoa_make_append_only('billing_ledgertransaction');
SELECT stoa_make_append_only('billing_ledgerentry');

ALTER TABLE billing_ledgeraccount
    ADD CONSTRAINT ledgeraccount_scale CHECK (scale <= 9),
    ADD CONSTRAINT ledgeraccount_currency CHECK (currency ~ '^[A-Z]{3}$');

CREATE FUNCTION billing_open_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.xid := pg_current_xact_id()::text::bigint;
    NEW.posted_at := transaction_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER open_transaction BEFORE INSERT ON billing_ledgertransaction
    FOR EACH ROW EXECUTE FUNCTION billing_open_transaction();
ALTER TABLE billing_ledgertransaction ENABLE ALWAYS TRIGGER open_transaction;

CREATE FUNCTION billing_refuse_late_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM billing_ledgertransaction t
    WHERE t.id = NEW.transaction_id
      AND t.xid = pg_current_xact_id()::text::bigint
      AND t.posted_at = transaction_timestamp();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'ledger transaction % is sealed', NEW.transaction_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_late_entry BEFORE INSERT ON billing_ledgerentry
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_late_entry();
ALTER TABLE billing_ledgerentry ENABLE ALWAYS TRIGGER refuse_late_entry;

CREATE FUNCTION billing_check_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM billing_ledgerentry e JOIN billing_ledgeraccount a ON a.id = e.account_id
    WHERE e.transaction_id = NEW.transaction_id
    GROUP BY a.currency, a.scale HAVING sum(e.amount) <> 0;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger transaction % does not balance', NEW.transaction_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER balanced AFTER INSERT ON billing_ledgerentry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_check_entry();
ALTER TABLE billing_ledgerentry ENABLE ALWAYS TRIGGER balanced;

CREATE FUNCTION billing_check_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM billing_ledgerentry WHERE transaction_id = NEW.id) < 2 THEN
        RAISE EXCEPTION 'ledger transaction % has no two sides', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.reverses_id IS NOT NULL AND EXISTS (
        SELECT FROM billing_ledgerentry WHERE transaction_id IN (NEW.id, NEW.reverses_id)
        GROUP BY account_id HAVING sum(amount) <> 0
    ) THEN
        RAISE EXCEPTION 'ledger transaction % is no mirror of what it reverses', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER complete AFTER INSERT ON billing_ledgertransaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_check_transaction();
ALTER TABLE billing_ledgertransaction ENABLE ALWAYS TRIGGER complete;

-- What a gateway counted stands; booking marks it, upkeep removes what is booked.
CREATE FUNCTION billing_guard_inbox() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER guard_inbox BEFORE UPDATE OR DELETE ON billing_usageinbox
    FOR EACH ROW EXECUTE FUNCTION billing_guard_inbox();
ALTER TABLE billing_usageinbox ENABLE ALWAYS TRIGGER guard_inbox;
"""

BACKWARD = """
DROP TRIGGER guard_inbox ON billing_usageinbox;
DROP FUNCTION billing_guard_inbox();
DROP TRIGGER complete ON billing_ledgertransaction;
DROP TRIGGER balanced ON billing_ledgerentry;
DROP TRIGGER refuse_late_entry ON billing_ledgerentry;
DROP TRIGGER open_transaction ON billing_ledgertransaction;
DROP FUNCTION billing_check_transaction();
DROP FUNCTION billing_check_entry();
DROP FUNCTION billing_refuse_late_entry();
DROP FUNCTION billing_open_transaction();
ALTER TABLE billing_ledgeraccount
    DROP CONSTRAINT ledgeraccount_scale, DROP CONSTRAINT ledgeraccount_currency;
DROP TRIGGER append_only_rows ON billing_price;
DROP TRIGGER append_only_truncate ON billing_price;
DROP TRIGGER append_only_rows ON billing_ledgeraccount;
DROP TRIGGER append_only_truncate ON billing_ledgeraccount;
DROP TRIGGER append_only_rows ON billing_ledgertransaction;
DROP TRIGGER append_only_truncate ON billing_ledgertransaction;
DROP TRIGGER append_only_rows ON billing_ledgerentry;
DROP TRIGGER append_only_truncate ON billing_ledgerentry;
DROP INDEX billing_ledgertransaction_kind;
DROP TABLE billing_usageevent;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), ("compliance", "0002_append_only")]
    operations = [
        migrations.AddField(
            "usageinbox",
            "problem",
            models.CharField(blank=True, db_default="", max_length=200),
        ),
        migrations.RemoveIndex("usageinbox", "usageinbox_unbooked"),
        migrations.AddIndex(
            "usageinbox",
            models.Index(
                condition=Q(("booked_at", None), ("problem", "")),
                fields=["received_at"],
                name="usageinbox_unbooked",
            ),
        ),
        migrations.AddIndex(
            "usageinbox",
            models.Index(
                condition=Q(("booked_at", None), Q(("problem", ""), _negated=True)),
                fields=["received_at"],
                name="usageinbox_problem",
            ),
        ),
        migrations.RemoveConstraint("price", "price_not_negative"),
        migrations.AddConstraint(
            "price",
            models.CheckConstraint(
                condition=Q(("amount__gte", 0), ("amount__lt", 1_000_000)),
                name="price_not_negative",
            ),
        ),
        migrations.AddConstraint(
            "price",
            models.CheckConstraint(
                condition=Q(("currency__regex", "^[A-Z]{3}$")), name="price_currency"
            ),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
