#!/bin/sh
# Runs once, on an empty database: the four roles (workers/local/embedded.py makes the same).
set -eu
psql -v ON_ERROR_STOP=1 -U postgres -d stoa \
  -v owner="$STOA_OWNER_PASSWORD" -v app="$STOA_APP_PASSWORD" -v gateway="$STOA_GATEWAY_PASSWORD" \
  -v backup="$STOA_BACKUP_PASSWORD" <<'SQL'
CREATE ROLE stoa_owner LOGIN PASSWORD :'owner';
CREATE ROLE stoa_app LOGIN PASSWORD :'app';
CREATE ROLE stoa_gateway LOGIN PASSWORD :'gateway';
CREATE ROLE stoa_backup LOGIN PASSWORD :'backup';
GRANT pg_read_all_data TO stoa_backup;
GRANT CONNECT ON DATABASE stoa TO stoa_backup;
ALTER DATABASE stoa OWNER TO stoa_owner;
CREATE EXTENSION IF NOT EXISTS btree_gist;
SQL
