#!/bin/sh
# Runs once, on an empty database: the three roles (workers/local/embedded.py makes the same).
set -eu
psql -v ON_ERROR_STOP=1 -U postgres -d stoa \
  -v owner="$STOA_OWNER_PASSWORD" -v app="$STOA_APP_PASSWORD" -v gateway="$STOA_GATEWAY_PASSWORD" <<'SQL'
CREATE ROLE stoa_owner LOGIN PASSWORD :'owner';
CREATE ROLE stoa_app LOGIN PASSWORD :'app';
CREATE ROLE stoa_gateway LOGIN PASSWORD :'gateway';
ALTER DATABASE stoa OWNER TO stoa_owner;
CREATE EXTENSION IF NOT EXISTS btree_gist;
SQL
