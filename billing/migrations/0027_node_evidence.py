"""Whose a batch of records is, and evidence whose time is over: removed by its date, never before.

Until now nothing of it could be removed. The running role still may not delete; it may call a
function of the tables' owner, and that keeps thirteen months whoever asks.
"""

import django.contrib.postgres.indexes
from django.db import migrations, models

FORWARD = """
CREATE FUNCTION billing_keep_evidence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.received_at < now() - interval '13 months' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% on % is refused: rows are only added, and kept for thirteen months',
        TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

DROP TRIGGER append_only_rows ON billing_nodebatch;
CREATE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON billing_nodebatch
    FOR EACH ROW EXECUTE FUNCTION billing_keep_evidence();
ALTER TABLE billing_nodebatch ENABLE ALWAYS TRIGGER append_only_rows;
DROP TRIGGER append_only_rows ON billing_noderecord;
CREATE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON billing_noderecord
    FOR EACH ROW EXECUTE FUNCTION billing_keep_evidence();
ALTER TABLE billing_noderecord ENABLE ALWAYS TRIGGER append_only_rows;

-- Records before the batches that they came in; at most so many rows. Returns how many went.
CREATE FUNCTION billing_expire_evidence(before timestamptz, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    over timestamptz := LEAST(before, now() - interval '13 months');
    gone bigint;
BEGIN
    DELETE FROM billing_noderecord WHERE id IN (
        SELECT id FROM billing_noderecord WHERE received_at < over LIMIT most);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone = 0 THEN
        DELETE FROM billing_nodebatch WHERE id IN (
            SELECT id FROM billing_nodebatch WHERE received_at < over LIMIT most);
        GET DIAGNOSTICS gone = ROW_COUNT;
    END IF;
    RETURN gone;
END $$;
REVOKE ALL ON FUNCTION billing_expire_evidence(timestamptz, integer) FROM PUBLIC;
"""
BACKWARD = """
DROP FUNCTION billing_expire_evidence(timestamptz, integer);
DROP TRIGGER append_only_rows ON billing_nodebatch;
CREATE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON billing_nodebatch
    FOR EACH ROW EXECUTE FUNCTION stoa_refuse_change();
ALTER TABLE billing_nodebatch ENABLE ALWAYS TRIGGER append_only_rows;
DROP TRIGGER append_only_rows ON billing_noderecord;
CREATE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON billing_noderecord
    FOR EACH ROW EXECUTE FUNCTION stoa_refuse_change();
ALTER TABLE billing_noderecord ENABLE ALWAYS TRIGGER append_only_rows;
DROP FUNCTION billing_keep_evidence();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0026_datev")]

    operations = [
        migrations.AddField(
            model_name="nodebatch",
            name="account_id",
            field=models.CharField(blank=True, db_default="", max_length=31),
        ),
        migrations.AddIndex(
            model_name="nodebatch",
            index=models.Index(fields=["account_id", "received_at"], name="nodebatch_account"),
        ),
        migrations.AddIndex(
            model_name="nodebatch",
            index=django.contrib.postgres.indexes.BrinIndex(
                fields=["received_at"], name="nodebatch_received"
            ),
        ),
        migrations.AddIndex(
            model_name="noderecord",
            index=django.contrib.postgres.indexes.BrinIndex(
                fields=["received_at"], name="noderecord_received"
            ),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
