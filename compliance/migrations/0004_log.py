"""The Merkle logs over audit events: what waits for an index, leaves, nodes and signed heads.

Triggers queue each event's leaf in the transaction that writes it, and take it off the queue where
its leaf is written: the running role may do neither itself. Events of before are queued by
`stoa_backfill_log`, a piece at a time.
"""

import compliance.fields
from django.db import migrations, models

FORWARD = """
-- Triggers run with the rights of whoever writes: these lend theirs, since nobody else may queue.
CREATE FUNCTION stoa_queue_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
BEGIN
    INSERT INTO compliance_logpending (event_id, owner, leaf_hash, recorded_at, queued_at)
    VALUES (NEW.id, NEW.log_id, sha256('\\x00'::bytea || NEW.body), NEW.recorded_at,
            clock_timestamp());
    RETURN NULL;
END $$;

CREATE FUNCTION stoa_queue_checkpoint() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
BEGIN
    INSERT INTO compliance_logpending (event_id, owner, leaf_hash, recorded_at, queued_at)
    VALUES (NEW.id, 'meta', sha256('\\x00'::bytea || NEW.blind), NEW.signed_at, clock_timestamp());
    RETURN NULL;
END $$;

-- A leaf is what waited, unaltered, or it is none.
CREATE FUNCTION stoa_leaf_was_queued() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
DECLARE
    wanted bigint;
    taken bigint;
BEGIN
    SELECT count(*) INTO wanted FROM added;
    DELETE FROM compliance_logpending p USING added a
    WHERE p.event_id = a.event_id AND p.leaf_hash = a.leaf_hash;
    GET DIAGNOSTICS taken = ROW_COUNT;
    IF taken <> wanted THEN
        RAISE EXCEPTION '% of % leaves were not queued as they are', wanted - taken, wanted
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER queue_leaf AFTER INSERT ON compliance_auditevent
FOR EACH ROW EXECUTE FUNCTION stoa_queue_event();
ALTER TABLE compliance_auditevent ENABLE ALWAYS TRIGGER queue_leaf;
CREATE TRIGGER queue_leaf AFTER INSERT ON compliance_logcheckpoint
FOR EACH ROW WHEN (NEW.owner <> 'meta') EXECUTE FUNCTION stoa_queue_checkpoint();
ALTER TABLE compliance_logcheckpoint ENABLE ALWAYS TRIGGER queue_leaf;
CREATE TRIGGER take_off_queue AFTER INSERT ON compliance_logleaf
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION stoa_leaf_was_queued();
ALTER TABLE compliance_logleaf ENABLE ALWAYS TRIGGER take_off_queue;

SELECT stoa_make_append_only(t) FROM unnest(ARRAY[
    'compliance_logleaf', 'compliance_lognode', 'compliance_logcheckpoint', 'compliance_loganchor'
]::regclass[]) t;

-- How far the events of before this migration have been queued; no row: there are none (left).
CREATE TABLE compliance_logbackfill (after_id varchar(31) NOT NULL);
INSERT INTO compliance_logbackfill SELECT '' WHERE EXISTS (SELECT FROM compliance_auditevent);

-- Queues up to `most` events that were there before; how many it looked at. Nothing is left at 0.
CREATE FUNCTION stoa_backfill_log(most integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
DECLARE
    since varchar;
    looked integer;
    newest varchar;
BEGIN
    SELECT after_id INTO since FROM compliance_logbackfill FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    WITH batch AS MATERIALIZED (
        SELECT id, log_id, recorded_at, body FROM compliance_auditevent
        WHERE id > since ORDER BY id LIMIT most
    ), queued AS (
        INSERT INTO compliance_logpending (event_id, owner, leaf_hash, recorded_at, queued_at)
        SELECT id, log_id, sha256('\\x00'::bytea || body), recorded_at, clock_timestamp()
        FROM batch b
        WHERE NOT EXISTS (SELECT FROM compliance_logleaf l WHERE l.event_id = b.id)
        ON CONFLICT DO NOTHING
    ) SELECT count(*), max(id) INTO looked, newest FROM batch;
    IF looked < most THEN
        DELETE FROM compliance_logbackfill;
    ELSE
        UPDATE compliance_logbackfill SET after_id = newest;
    END IF;
    RETURN looked;
END $$;
REVOKE ALL ON FUNCTION stoa_backfill_log(integer) FROM PUBLIC;
"""

BACKWARD = """
DROP FUNCTION stoa_backfill_log(integer);
DROP TABLE compliance_logbackfill;
DROP TRIGGER take_off_queue ON compliance_logleaf;
DROP TRIGGER queue_leaf ON compliance_logcheckpoint;
DROP TRIGGER queue_leaf ON compliance_auditevent;
DROP FUNCTION stoa_leaf_was_queued();
DROP FUNCTION stoa_queue_checkpoint();
DROP FUNCTION stoa_queue_event();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('compliance', '0003_tombstone'),
    ]

    operations = [
        migrations.CreateModel(
            name='LogLeaf',
            fields=[
                ('pk', models.CompositePrimaryKey('log_id', 'index', blank=True, editable=False, primary_key=True, serialize=False)),
                ('log_id', models.CharField(max_length=31)),
                ('index', models.BigIntegerField()),
                ('event_id', models.CharField(max_length=31, unique=True)),
                ('leaf_hash', models.BinaryField()),
                ('recorded_at', models.DateTimeField()),
                ('queued_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='LogNode',
            fields=[
                ('pk', models.CompositePrimaryKey('log_id', 'level', 'index', blank=True, editable=False, primary_key=True, serialize=False)),
                ('log_id', models.CharField(max_length=31)),
                ('level', models.PositiveSmallIntegerField()),
                ('index', models.BigIntegerField()),
                ('hash', models.BinaryField()),
            ],
        ),
        migrations.CreateModel(
            name='Log',
            fields=[
                ('id', compliance.fields.IdField('log', serialize=False)),
                ('owner', models.CharField(max_length=31)),
                ('number', models.PositiveIntegerField(default=1)),
                ('origin', models.CharField(max_length=300, unique=True)),
                ('size', models.BigIntegerField(default=0)),
                ('peaks', models.BinaryField(default=bytes)),
                ('opened_at', models.DateTimeField()),
                ('closed_at', models.DateTimeField(null=True)),
                ('refused', models.CharField(blank=True, max_length=32)),
            ],
            options={
                'constraints': [models.UniqueConstraint(condition=models.Q(('closed_at', None)), fields=('owner',), name='log_one_open')],
            },
        ),
        migrations.CreateModel(
            name='LogAnchor',
            fields=[
                ('id', compliance.fields.IdField('anc', serialize=False)),
                ('checkpoint_id', models.CharField(max_length=31)),
                ('owner', models.CharField(max_length=31)),
                ('kind', models.CharField(max_length=16)),
                ('place', models.CharField(max_length=300)),
                ('receipt', models.TextField(blank=True)),
                ('at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['owner', 'at'], name='loganchor_newest')],
            },
        ),
        migrations.CreateModel(
            name='LogCheckpoint',
            fields=[
                ('id', compliance.fields.IdField('chk', serialize=False)),
                ('log_id', models.CharField(max_length=31)),
                ('owner', models.CharField(max_length=31)),
                ('size', models.BigIntegerField()),
                ('root', models.BinaryField()),
                ('note', models.TextField()),
                ('signed_at', models.DateTimeField()),
                ('salt', models.BinaryField()),
                ('blind', models.BinaryField()),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('log_id', 'size'), name='logcheckpoint_once')],
            },
        ),
        migrations.CreateModel(
            name='LogPending',
            fields=[
                ('event_id', models.CharField(max_length=31, primary_key=True, serialize=False)),
                ('owner', models.CharField(max_length=31)),
                ('leaf_hash', models.BinaryField()),
                ('recorded_at', models.DateTimeField()),
                ('queued_at', models.DateTimeField()),
            ],
            options={
                'indexes': [models.Index(fields=['queued_at'], name='logpending_age')],
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
