"""Usage is numbered as it comes, and an invoice keeps up to which number it knew."""

from django.db import migrations, models

FORWARD = """
CREATE SEQUENCE billing_usageevent_number;
ALTER TABLE billing_usageevent
    ADD COLUMN number bigint NOT NULL DEFAULT nextval('billing_usageevent_number');
ALTER SEQUENCE billing_usageevent_number OWNED BY billing_usageevent.number;

-- Before the first row of it is numbered: `billing.meters.cutoff` says why.
CREATE FUNCTION billing_share_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('billing_usagehour', 0));
    RETURN NULL;
END $$;
CREATE TRIGGER share_usage BEFORE INSERT ON billing_usageevent
    FOR EACH STATEMENT EXECUTE FUNCTION billing_share_usage();
"""
BACKWARD = """
DROP TRIGGER share_usage ON billing_usageevent;
DROP FUNCTION billing_share_usage();
ALTER TABLE billing_usageevent DROP COLUMN number;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_money")]
    operations = [
        migrations.AddField("invoice", "usage_upto", models.BigIntegerField(null=True)),
        migrations.AddField("usageevent", "number", models.BigIntegerField(editable=False)),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
