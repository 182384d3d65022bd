"""A key's secrets get rows of their own; each key begins with the one that it has."""

import compliance.fields
import django.db.models.deletion
from django.db import migrations, models

FORWARD = """
INSERT INTO tenancy_apikeysecret (id, key_id, prefix, hash, created_at)
SELECT 'sec' || substr(id, 4), id, prefix, hash, created_at FROM tenancy_apikey;

-- The gateway's role may insert into tenancy_secretuse and do nothing else with it.
CREATE FUNCTION stoa_secret_used() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    used timestamptz := least(NEW.used_at, clock_timestamp());
BEGIN
    UPDATE public.tenancy_apikeysecret SET last_used_at = used
    WHERE id = NEW.secret_id AND (last_used_at IS NULL OR last_used_at < used);
    RETURN NULL;
END $$;
CREATE TRIGGER secret_used BEFORE INSERT ON tenancy_secretuse
    FOR EACH ROW EXECUTE FUNCTION stoa_secret_used();
"""

BACKWARD = """
DROP TRIGGER secret_used ON tenancy_secretuse;
DROP FUNCTION stoa_secret_used();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('tenancy', '0002_limits'),
    ]

    operations = [
        migrations.CreateModel(
            name='SecretUse',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('secret_id', models.CharField(max_length=32)),
                ('gateway_id', models.CharField(max_length=64)),
                ('used_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='ApiKeySecret',
            fields=[
                ('id', compliance.fields.IdField('sec', serialize=False)),
                ('prefix', models.CharField(max_length=24, unique=True)),
                ('hash', models.BinaryField(max_length=32, unique=True)),
                ('created_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField(null=True)),
                ('last_used_at', models.DateTimeField(null=True)),
                ('key', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='secrets', to='tenancy.apikey')),
            ],
            options={
                'ordering': ('-id',),
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
