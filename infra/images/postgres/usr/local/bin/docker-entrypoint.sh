#!/bin/sh
# Start PostgreSQL the way the well-known image does: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA.
# The data sits one level below the mount, because a fresh ext4 disk holds lost+found and initdb wants it empty.
set -eu
: "${PGDATA:=/var/lib/postgresql/data/pgdata}"
: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
export PGDATA
export LANG="${LANG:-C.UTF-8}"

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$(dirname "$PGDATA")" /run/postgresql
    chown postgres:postgres "$(dirname "$PGDATA")" /run/postgresql
    exec /usr/bin/setpriv --reuid=999 --regid=999 --clear-groups /bin/sh "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "postgres: POSTGRES_PASSWORD is not set; an empty database would have no password" >&2
        exit 1
    fi
    # Made beside its place and moved there when it is whole and on disk: a power cut on the way leaves nothing that
    # looks like a database.
    new="$PGDATA.new"
    rm -rf "$new"
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/pwfile
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/pwfile --auth-host=scram-sha-256 --auth-local=trust \
        --encoding=UTF8 --locale=C.UTF-8 -D "$new"
    rm -f /tmp/pwfile
    echo "host all all all scram-sha-256" >> "$new/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \"$POSTGRES_DB\";" | postgres --single -D "$new" postgres > /dev/null
    fi
    [ ! -e "$PGDATA" ] || rmdir "$PGDATA"
    sync
    mv "$new" "$PGDATA"
    sync
fi
# SIGTERM makes PostgreSQL wait for its clients to leave, SIGINT makes it end their sessions and stop cleanly.
postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@" &
child=$!
trap 'kill -INT "$child"' TERM INT
# A trapped signal ends `wait` early; wait until the server itself is gone.
status=0
while kill -0 "$child" 2> /dev/null; do
    status=0
    wait "$child" || status=$?
done
exit "$status"
