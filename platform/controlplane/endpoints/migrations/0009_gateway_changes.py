"""What changed, so that a gateway reads that alone: with 100,000 keys, one edit is one row.

A row holds its transaction's id: a gateway asks for what its last snapshot could not see. That is
exact whatever the order in which transactions commit. Old rows go as new ones come; a gateway
that was away for longer reads everything anyway.
"""

from django.db import migrations

FORWARD = """
CREATE TABLE gateway.changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('key', 'rest', 'all')),
    subject text NOT NULL  -- of kind key: its id
);
CREATE INDEX changes_at ON gateway.changes (at);

CREATE FUNCTION gateway.note_changes(kind text, subjects text[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF cardinality(subjects) = 0 THEN
        RETURN;
    END IF;
    DELETE FROM gateway.changes WHERE id IN (
        SELECT id FROM gateway.changes WHERE at < clock_timestamp() - interval '1 hour'
        ORDER BY at LIMIT 2000 FOR UPDATE SKIP LOCKED);
    IF cardinality(subjects) > 1000 THEN
        INSERT INTO gateway.changes (kind, subject) VALUES ('all', '');
    ELSE
        INSERT INTO gateway.changes (kind, subject)
        SELECT DISTINCT note_changes.kind, s FROM unnest(subjects) s;
    END IF;
    PERFORM nextval('gateway.directory_generation');
    PERFORM pg_notify('stoa_directory', '');
END $$;

-- Everything but keys, of which there is little, unless the trigger says 'all'.
CREATE OR REPLACE FUNCTION gateway.directory_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM gateway.note_changes(coalesce(TG_ARGV[0], 'rest'), '{""}');
    RETURN NULL;
END $$;

CREATE FUNCTION gateway.keys_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM gateway.note_changes('key', ARRAY(SELECT id FROM touched));
    RETURN NULL;
END $$;

CREATE FUNCTION gateway.secrets_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM gateway.note_changes('key', ARRAY(SELECT key_id FROM touched));
    RETURN NULL;
END $$;

-- By itself, since only this fires for certain columns alone: a use of a secret is no news.
CREATE FUNCTION gateway.secret_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM gateway.note_changes('key', ARRAY[OLD.key_id, NEW.key_id]);
    RETURN NULL;
END $$;

DROP TRIGGER directory_changed ON tenancy_apikey;
DROP TRIGGER directory_changed ON tenancy_apikeysecret;
CREATE TRIGGER keys_made AFTER INSERT ON tenancy_apikey
    REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION gateway.keys_changed();
CREATE TRIGGER keys_changed AFTER UPDATE ON tenancy_apikey
    REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION gateway.keys_changed();
CREATE TRIGGER keys_deleted AFTER DELETE ON tenancy_apikey
    REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION gateway.keys_changed();
CREATE TRIGGER secrets_made AFTER INSERT ON tenancy_apikeysecret
    REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION gateway.secrets_changed();
CREATE TRIGGER secrets_deleted AFTER DELETE ON tenancy_apikeysecret
    REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION gateway.secrets_changed();
CREATE TRIGGER secret_changed AFTER UPDATE OF hash, expires_at, key_id ON tenancy_apikeysecret
    FOR EACH ROW EXECUTE FUNCTION gateway.secret_changed();
CREATE TRIGGER owner_changed AFTER UPDATE OF organization_id ON tenancy_project
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed('all');
CREATE TRIGGER region_changed AFTER UPDATE OF region_code ON tenancy_organization
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed('all');
"""

BACKWARD = """
DROP TRIGGER region_changed ON tenancy_organization;
DROP TRIGGER owner_changed ON tenancy_project;
DROP TRIGGER secret_changed ON tenancy_apikeysecret;
DROP TRIGGER secrets_deleted ON tenancy_apikeysecret;
DROP TRIGGER secrets_made ON tenancy_apikeysecret;
DROP TRIGGER keys_deleted ON tenancy_apikey;
DROP TRIGGER keys_changed ON tenancy_apikey;
DROP TRIGGER keys_made ON tenancy_apikey;
CREATE OR REPLACE FUNCTION gateway.directory_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM nextval('gateway.directory_generation');
    PERFORM pg_notify('stoa_directory', '');
    RETURN NULL;
END $$;
CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE ON tenancy_apikey
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR DELETE OR UPDATE OF hash, expires_at, key_id
    ON tenancy_apikeysecret FOR EACH STATEMENT EXECUTE FUNCTION gateway.directory_changed();
DROP FUNCTION gateway.secret_changed();
DROP FUNCTION gateway.secrets_changed();
DROP FUNCTION gateway.keys_changed();
DROP FUNCTION gateway.note_changes(text, text[]);
DROP TABLE gateway.changes;
"""


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0008_funding")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
