"""A version's spec may be emptied once its endpoint is deleted: an erasure marks it so."""

from django.db import migrations

BODY = """
CREATE OR REPLACE FUNCTION endpoints_version_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (to_jsonb(OLD) - 'note' - 'outlook') =
            (to_jsonb(NEW) - 'note' - 'outlook') THEN
        RETURN NEW;  -- words of a person, and what is predicted anew
    END IF;{more}
    RAISE EXCEPTION 'a version of an endpoint is immutable' USING ERRCODE = 'integrity_constraint_violation';
END $$;
"""
ERASED = """
    IF TG_OP = 'UPDATE' AND NEW.spec ? 'erased'
       AND (to_jsonb(OLD) - '{note,outlook,spec}'::text[]) = (to_jsonb(NEW) - '{note,outlook,spec}'::text[])
       AND EXISTS (SELECT FROM endpoints_endpoint
                   WHERE id = NEW.endpoint_id AND deleted_at IS NOT NULL) THEN
        RETURN NEW;
    END IF;"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0040_region_pin")]

    operations = [
        migrations.RunSQL(BODY.replace("{more}", ERASED), BODY.replace("{more}", "")),
    ]
