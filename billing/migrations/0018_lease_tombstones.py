"""What ends leases leaves a tombstone: an older backup must not hold them open again.

The trigger looks at statements that set `closed_at` alone: granting and settling pay nothing.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION billing_note_closed_lease() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    INSERT INTO compliance_tombstone (id, event_id, action, target_type, target_id, facts, at)
    VALUES ('tmb_' || substr(md5(NEW.holder || ' ' || NEW.epoch), 1, 26), '', 'lease.close',
            'lease_holder', NEW.holder,
            jsonb_build_object('holder', NEW.holder, 'epoch', NEW.epoch), NEW.closed_at)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER note_closed AFTER UPDATE OF closed_at ON billing_lease FOR EACH ROW
    WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL)
    EXECUTE FUNCTION billing_note_closed_lease();
"""

BACKWARD = """
DROP TRIGGER note_closed ON billing_lease;
DROP FUNCTION billing_note_closed_lease();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0017_usagehour"), ("compliance", "0003_tombstone")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
