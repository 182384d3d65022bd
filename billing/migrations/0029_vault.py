"""Files of invoices may be sealed in the accounting vault, once, and stay what they are beside that."""

from django.db import migrations, models

GUARD = """
CREATE OR REPLACE FUNCTION billing_guard_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM 1 FROM billing_invoice WHERE id = NEW.invoice_id AND state = 'draft';
        IF FOUND THEN
            RAISE EXCEPTION 'a draft has no files (%)', NEW.invoice_id
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' AND OLD.keep_until < (now() AT TIME ZONE 'UTC')::date THEN
        RETURN OLD;
    END IF;{more}
    RAISE EXCEPTION '% of a file of invoice % is refused: it is kept until %',
        TG_OP, OLD.invoice_id, OLD.keep_until USING ERRCODE = 'restrict_violation';
END $$;
"""
ENCLOSED = """
    IF TG_OP = 'UPDATE' AND OLD.vault_key_id = '' AND NEW.vault_key_id <> ''
       AND to_jsonb(NEW) - '{content,vault_key_id}'::text[]
         = to_jsonb(OLD) - '{content,vault_key_id}'::text[] THEN
        RETURN NEW;
    END IF;"""
# A blob of a data key says so at its beginning: "stoa:dk", then its version.
FORWARD = GUARD.replace("{more}", ENCLOSED) + r"""
ALTER TABLE billing_invoicefile DROP CONSTRAINT invoicefile_hash;
ALTER TABLE billing_invoicefile ADD CONSTRAINT invoicefile_hash CHECK (
    CASE WHEN vault_key_id = '' THEN sha256 = encode(sha256(content), 'hex')
         ELSE substr(content, 1, 8) = '\x73746f613a646b01'::bytea END);
"""
BACKWARD = GUARD.replace("{more}", "") + """
ALTER TABLE billing_invoicefile DROP CONSTRAINT invoicefile_hash;
ALTER TABLE billing_invoicefile
    ADD CONSTRAINT invoicefile_hash CHECK (sha256 = encode(sha256(content), 'hex'));
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0028_hosted_pages")]

    operations = [
        migrations.AddField(
            model_name="invoicefile",
            name="vault_key_id",
            field=models.CharField(blank=True, db_default="", default="", max_length=31),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
