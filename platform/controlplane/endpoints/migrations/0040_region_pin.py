"""A replica stands in its organization's region or nowhere; each placement leaves a record.

Whoever writes, by whichever way: what is placed is held against the node's and the organization's
own rows. So that neither can be moved under what stands, a region is for good: of a pool, of an
organization, of an endpoint; and a node changes pools within its region alone.
"""

from django.db import migrations, models
from django.db.models.functions import Now

PIN = """
CREATE FUNCTION stoa_outside(what text, place text, pin text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is in region %, the organization''s is %', what, coalesce(place, 'none'), pin
        USING ERRCODE = 'check_violation', CONSTRAINT = 'region_pin';
END $$;

CREATE FUNCTION stoa_endpoint_in_pin() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public AS $$
DECLARE
    pin text;
    place text;
BEGIN
    SELECT o.region_code INTO pin FROM tenancy_project p
    JOIN tenancy_organization o ON o.id = p.organization_id WHERE p.id = NEW.project_id;
    SELECT region_id INTO place FROM fleet_pool WHERE id = NEW.pool_id;
    IF place IS DISTINCT FROM pin THEN
        PERFORM stoa_outside('pool ' || NEW.pool_id, place, pin);
    ELSIF NEW.region_code IS DISTINCT FROM pin THEN
        PERFORM stoa_outside('endpoint ' || NEW.id, NEW.region_code, pin);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER region_pin AFTER INSERT OR UPDATE OF project_id, pool_id, region_code
ON endpoints_endpoint FOR EACH ROW EXECUTE FUNCTION stoa_endpoint_in_pin();

CREATE FUNCTION stoa_placed_in_pin() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public AS $$
DECLARE
    wanted text;
    pin text;
    place text;
BEGIN
    IF TG_TABLE_NAME = 'endpoints_member' THEN
        SELECT endpoint_id INTO wanted FROM endpoints_replica WHERE id = NEW.replica_id;
    ELSE
        wanted := NEW.endpoint_id;
    END IF;
    SELECT o.region_code INTO pin FROM endpoints_endpoint e
    JOIN tenancy_project p ON p.id = e.project_id
    JOIN tenancy_organization o ON o.id = p.organization_id WHERE e.id = wanted;
    SELECT region_id INTO place FROM fleet_node n JOIN fleet_pool p ON p.id = n.pool_id
    WHERE n.id = NEW.node_id;
    IF place IS DISTINCT FROM pin THEN
        PERFORM stoa_outside('node ' || NEW.node_id, place, pin);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER region_pin AFTER INSERT OR UPDATE OF node_id, endpoint_id ON endpoints_replica
FOR EACH ROW WHEN (NEW.node_id IS NOT NULL) EXECUTE FUNCTION stoa_placed_in_pin();
CREATE TRIGGER region_pin AFTER INSERT OR UPDATE OF node_id, replica_id ON endpoints_member
FOR EACH ROW EXECUTE FUNCTION stoa_placed_in_pin();

CREATE FUNCTION stoa_region_stays() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public AS $$
DECLARE
    was text;
    is_now text;
BEGIN
    IF TG_TABLE_NAME = 'fleet_node' THEN
        SELECT region_id INTO was FROM fleet_pool WHERE id = OLD.pool_id;
        SELECT region_id INTO is_now FROM fleet_pool WHERE id = NEW.pool_id;
    ELSIF TG_TABLE_NAME = 'fleet_pool' THEN
        was := OLD.region_id;
        is_now := NEW.region_id;
    ELSE
        was := OLD.region_code;
        is_now := NEW.region_code;
    END IF;
    IF was IS DISTINCT FROM is_now THEN
        RAISE EXCEPTION '% % stays in region %', TG_TABLE_NAME, OLD.id, was
            USING ERRCODE = 'check_violation', CONSTRAINT = 'region_stays';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER region_stays AFTER UPDATE OF pool_id ON fleet_node
FOR EACH ROW WHEN (OLD.pool_id <> NEW.pool_id) EXECUTE FUNCTION stoa_region_stays();
CREATE TRIGGER region_stays AFTER UPDATE OF region_id ON fleet_pool
FOR EACH ROW EXECUTE FUNCTION stoa_region_stays();
CREATE TRIGGER region_stays AFTER UPDATE OF region_code ON tenancy_organization
FOR EACH ROW EXECUTE FUNCTION stoa_region_stays();
ALTER TABLE endpoints_endpoint ENABLE ALWAYS TRIGGER region_pin;
ALTER TABLE endpoints_replica ENABLE ALWAYS TRIGGER region_pin;
ALTER TABLE endpoints_member ENABLE ALWAYS TRIGGER region_pin;
ALTER TABLE fleet_node ENABLE ALWAYS TRIGGER region_stays;
ALTER TABLE fleet_pool ENABLE ALWAYS TRIGGER region_stays;
ALTER TABLE tenancy_organization ENABLE ALWAYS TRIGGER region_stays;
"""
UNPINNED = """
DROP TRIGGER region_stays ON tenancy_organization;
DROP TRIGGER region_stays ON fleet_pool;
DROP TRIGGER region_stays ON fleet_node;
DROP FUNCTION stoa_region_stays();
DROP TRIGGER region_pin ON endpoints_member;
DROP TRIGGER region_pin ON endpoints_replica;
DROP FUNCTION stoa_placed_in_pin();
DROP TRIGGER region_pin ON endpoints_endpoint;
DROP FUNCTION stoa_endpoint_in_pin();
DROP FUNCTION stoa_outside(text, text, text);
"""
# `stoa.placed_because` is what whoever places says of it, for this transaction. The function lends
# its owner's rights: nobody else writes the table.
RECORD = """
CREATE FUNCTION stoa_record_placement() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public AS $$
DECLARE
    replica text;
    at_rank integer := 0;
    why text := left(coalesce(current_setting('stoa.placed_because', true), ''), 300);
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.node_id IS NOT DISTINCT FROM NEW.node_id THEN
        RETURN NULL;
    END IF;
    IF TG_TABLE_NAME = 'endpoints_member' THEN
        replica := NEW.replica_id;
        at_rank := NEW.rank;
    ELSE
        replica := NEW.id;
    END IF;
    INSERT INTO endpoints_placementrecord (organization_id, project_id, endpoint_id, generation,
        replica_id, rank, node_id, pool_id, region, country, pin, reason, decided_at)
    SELECT o.id, p.id, e.id, r.generation, r.id, at_rank, n.id, pool.id, g.code, g.country,
           o.region_code, why, clock_timestamp()
    FROM endpoints_replica r
    JOIN endpoints_endpoint e ON e.id = r.endpoint_id
    JOIN tenancy_project p ON p.id = e.project_id
    JOIN tenancy_organization o ON o.id = p.organization_id
    JOIN fleet_node n ON n.id = NEW.node_id
    JOIN fleet_pool pool ON pool.id = n.pool_id
    JOIN fleet_region g ON g.code = pool.region_id
    WHERE r.id = replica;
    RETURN NULL;
END $$;
CREATE TRIGGER placement_record AFTER INSERT OR UPDATE OF node_id ON endpoints_replica
FOR EACH ROW WHEN (NEW.node_id IS NOT NULL) EXECUTE FUNCTION stoa_record_placement();
CREATE TRIGGER placement_record AFTER INSERT OR UPDATE OF node_id ON endpoints_member
FOR EACH ROW EXECUTE FUNCTION stoa_record_placement();
ALTER TABLE endpoints_replica ENABLE ALWAYS TRIGGER placement_record;
ALTER TABLE endpoints_member ENABLE ALWAYS TRIGGER placement_record;

INSERT INTO endpoints_placementrecord (organization_id, project_id, endpoint_id, generation,
    replica_id, rank, node_id, pool_id, region, country, pin, reason, decided_at)
SELECT o.id, p.id, e.id, r.generation, r.id, placed.rank, n.id, pool.id, g.code, g.country,
       o.region_code, 'placed before records were kept', r.created_at
FROM (
    SELECT id AS replica_id, 0 AS rank, node_id FROM endpoints_replica WHERE node_id IS NOT NULL
    UNION ALL SELECT replica_id, rank, node_id FROM endpoints_member
) placed
JOIN endpoints_replica r ON r.id = placed.replica_id
JOIN endpoints_endpoint e ON e.id = r.endpoint_id
JOIN tenancy_project p ON p.id = e.project_id
JOIN tenancy_organization o ON o.id = p.organization_id
JOIN fleet_node n ON n.id = placed.node_id
JOIN fleet_pool pool ON pool.id = n.pool_id
JOIN fleet_region g ON g.code = pool.region_id
ORDER BY r.created_at, r.id, placed.rank;

SELECT stoa_make_append_only('endpoints_placementrecord');
"""
UNRECORDED = """
DROP TRIGGER placement_record ON endpoints_member;
DROP TRIGGER placement_record ON endpoints_replica;
DROP FUNCTION stoa_record_placement();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0039_proved'),
        ('fleet', '0010_share_devices'),
        ('tenancy', '0008_egress'),
    ]

    operations = [
        migrations.CreateModel(
            name='PlacementRecord',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('organization_id', models.CharField(max_length=31)),
                ('project_id', models.CharField(max_length=31)),
                ('endpoint_id', models.CharField(max_length=31)),
                ('generation', models.PositiveIntegerField()),
                ('replica_id', models.CharField(max_length=31)),
                ('rank', models.PositiveSmallIntegerField()),
                ('node_id', models.CharField(max_length=31)),
                ('pool_id', models.CharField(max_length=31)),
                ('region', models.CharField(max_length=32)),
                ('country', models.CharField(max_length=2)),
                ('pin', models.CharField(max_length=32)),
                ('reason', models.CharField(max_length=300)),
                ('decided_at', models.DateTimeField(db_default=Now())),
            ],
            options={
                'ordering': ('id',),
                'indexes': [
                    models.Index(fields=['organization_id', 'decided_at'], name='placementrecord_of'),
                    models.Index(fields=['replica_id'], name='placementrecord_replica'),
                ],
            },
        ),
        migrations.RunSQL(PIN, UNPINNED),
        migrations.RunSQL(RECORD, UNRECORDED),
    ]
