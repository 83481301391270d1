#!/usr/bin/env bash
# Follows a server under load whose follower is killed again and again, and which is restarted itself; then compares every page with its files. Run as
# root, with Debian's `postgresql-15` and `python3`; the server runs as `postgres`.
#   follow.sh WORKDIR PAGESTRATA [SECONDS [KILLS [RESTARTS]]]
# WORKDIR has to be new; PAGESTRATA is the program. By default 600 seconds, 20 kills and 2 restarts, of which every second one is a crash. The base is
# taken by pg_basebackup from the server as it works. Prints what the followers told of lag and rate, and the comparison, whose exit status is its own.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="$1" pagestrata="$(realpath "$2")" seconds="${3:-600}" kills="${4:-20}" restarts="${5:-2}"
[ ! -e "$work/data" ] || { echo "$work has a cluster already" >&2 && exit 2; }
mkdir -p "$work" && work="$(cd "$work" && pwd)"
. "$here/cluster.sh"

init_cluster
printf 'autovacuum = on\nautovacuum_naptime = 5\nshared_buffers = 64MB\ncheckpoint_timeout = 30s\nmax_wal_size = 1GB\n' >> data/postgresql.conf
start data
as "pgbench -q -i -s 10 postgres" 2>/dev/null
sql "select pg_create_physical_replication_slot('pages', true)" > /dev/null
cat > churn.sql <<'SQL'
begin;
create table if not exists churn(id int primary key, t text) with (fillfactor = 80);
commit;
insert into churn select i, repeat(md5(i::text), 1 + i % 9) from generate_series(1, 3000) i on conflict (id) do update set t = churn.t || 'x';
begin;
savepoint a;
update churn set t = md5(t) where id % 5 = 0;
savepoint b;
delete from churn where id % 7 = 0;
rollback to b;
delete from churn where id % 11 = 0;
commit;
create index on churn(t);
vacuum churn;
select lo_unlink(lo_from_bytea(0, repeat('large object', 1000)::bytea));
truncate churn;
copy churn from program 'seq 1 2000 | sed "s/.*/&\t&/"';
select n from generate_series(1, 5) n, lateral (select id from churn where id = n for update) locked;
drop table churn;
SQL
chown postgres churn.sql

# The load goes on when the server comes back.
ends=$(($(date +%s) + seconds))
(while [ "$(date +%s)" -lt "$ends" ]; do as "pgbench -n -c 4 -T $((ends - $(date +%s) + 1)) postgres" > /dev/null 2>&1 || sleep 0.2; done) &
pgbench=$!
(while [ "$(date +%s)" -lt "$ends" ]; do as "psql -qAtX postgres < churn.sql" > /dev/null 2>&1 || sleep 0.2; done) &
churn=$!
sleep 2
as "pg_basebackup -Ft -X none -D -" | "$pagestrata" import --store "$work/store" --base -

conninfo="host=$work user=postgres"
follow=("$pagestrata" --json follow --store "$work/store" --conninfo "$conninfo" --slot pages --flush-interval 2 --report-interval 5)
next_restart=$((seconds / (restarts + 1))) mode=fast restarted=0
began=$(date +%s)
for ((kill = 1; kill <= kills; kill++)); do
    "${follow[@]}" >> followed.jsonl 2>> follow.err &
    follower=$!
    until="$((began + seconds * kill / (kills + 1)))"
    while [ "$(date +%s)" -lt "$until" ]; do
        sleep 0.3
        if [ $restarted -lt "$restarts" ] && [ $(($(date +%s) - began)) -ge $((next_restart * (restarted + 1))) ]; then
            as "pg_ctl -w -D data -m $mode -l data.log -o '-k $work -c listen_addresses=' restart" > /dev/null
            restarted=$((restarted + 1)) mode=$([ $mode = fast ] && echo immediate || echo fast)
        fi
        kill -0 $follower 2>/dev/null || { echo "the follower ended by itself:" && tail -n 3 follow.err && exit 1; }
    done
    kill -9 $follower && wait $follower 2>/dev/null || true
done
"${follow[@]}" >> followed.jsonl 2>> follow.err &
follower=$!
wait $pgbench $churn || true
kill -9 $follower && wait $follower 2>/dev/null || true

# What a vacuum adds to a map without a word in the log, the next one fills.
sql "vacuum"
sql "checkpoint"
end="$(sql "select pg_current_wal_insert_lsn()")"
"${follow[@]}" --until "$end" > last.json
stop data
cat last.json >> followed.jsonl
python3 - followed.jsonl <<'PY'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
rates = sorted(line["bytes_per_second"] for line in lines)
lags = sorted(line["lag_bytes"] for line in lines)
middle = len(lines) // 2
print(f"{len(lines)} reports: rate median {rates[middle] / 1e6:.1f} MB/s, highest {rates[-1] / 1e6:.1f}; "
      f"lag median {lags[middle]} bytes, highest {lags[-1]}")
PY
echo "$kills kills of the follower, $restarted restarts of the server"
at="$(tail -n 1 last.json | python3 -c 'import json, sys; print(json.load(sys.stdin)["at"])')"
"$pagestrata" diff --store "$work/store" --lsn "$at" --base "$work/data"
