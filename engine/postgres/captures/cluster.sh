# A cluster of PostgreSQL 15 whose log is captured, and its recovery by PostgreSQL itself: functions for ingest/sample/make.sh and captures/make.sh, which source
# this. They are run as root; the server runs as `postgres`. `work` is the directory where everything is.
bin="$(pg_config --bindir)"
oracle="$(dirname "${BASH_SOURCE[0]}")/../ingest/sample/oracle.py"
as() { su postgres -c "PATH=$bin:\$PATH; export PGHOST=$work; cd $work; $*"; }
psql_stdin() { as "psql -qAtX -v ON_ERROR_STOP=1 postgres"; }
sql() { printf '%s\n' "$1" | psql_stdin; }
start() { as "pg_ctl -w -D $1 -l $1.log -o '-k $work -c listen_addresses=' start" >/dev/null; }
stop() { as "pg_ctl -w -D $1 -m fast stop" >/dev/null; }

# Makes the cluster in data/. Segments are small, so that a small log has several; nothing happens on its own.
init_cluster() {
    mkdir -p "$work" && chown postgres "$work" && cd "$work"
    as "initdb -D data -A trust --wal-segsize=1 --data-checksums --no-sync --locale=C -U postgres" >/dev/null
    cat >> data/postgresql.conf <<'CONF'
autovacuum = off
wal_level = logical
fsync = off
checkpoint_timeout = 1h
max_wal_size = 16GB
wal_keep_size = 16GB
max_prepared_transactions = 4
bgwriter_lru_maxpages = 0
CONF
}

# Cold copy of the stopped cluster to cold/.
copy_cold() {
    cp -a data cold
    as "pg_controldata -D cold" > controldata.cold
}

base_lsn() { sed -n 's/^Latest checkpoint location: *//p' "$work/controldata.cold"; }

# PostgreSQL's own recovery of cold/ to an Lsn, as the oracle of whole pages: the start of a record, from the log of data/.
# The state is "all records with end <= Lsn"; a restartpoint at shutdown writes the pages, so a checkpoint record has to
# lie between the copy and the Lsn.
#   recover LSN MANIFEST
recover() {
    rm -rf recovered && cp -a cold recovered && rm -rf recovered/pg_wal/0* && touch recovered/recovery.signal
    cat >> recovered/postgresql.conf <<CONF
restore_command = 'cp $work/data/pg_wal/%f %p'
recovery_target_lsn = '$1'
recovery_target_inclusive = off
recovery_target_action = shutdown
hot_standby = off
wal_compression = off
CONF
    chown -R postgres recovered
    su postgres -c "$bin/postgres -D $work/recovered -k $work -c listen_addresses= " >recovered.log 2>&1 || true
    grep -q "recovery stopping before WAL location (LSN) \"$1\"" recovered.log
    python3 "$oracle" manifest recovered > "$2"
}

# N of the Lsns given, in ascending order and at equal distances, the last among them; of those from AFTER on.
#   spread AFTER N
spread() {
    awk -v after="$1" -v lsns="$2" '
        function padded(lsn) { split(lsn, half, "/"); return sprintf("%8s/%8s", half[1], half[2]) }
        padded($1) >= padded(after) { starts[++count] = $1 }
        END { for (i = 1; i <= lsns; i++) print starts[int(count * i / lsns)] }' | uniq
}

# What a capture has of the copy and the log, as base/ and wal/: one database and the shared relations are enough for a page server; no pg_xact and the like.
#   pack DIRECTORY
pack() {
    mkdir -p "$1/base/base" "$1/wal"
    cp -a cold/PG_VERSION cold/global "$1/base/" && cp -a cold/base/5 "$1/base/base/"
    rm -f "$1/base/base/5/pg_internal.init"
    cp -l data/pg_wal/0* "$1/wal/"
}
