#!/usr/bin/env bash
# Makes the capture of this folder anew with PostgreSQL 15: see README.md. Run as root; the server runs as `postgres`.
#   make.sh WORKDIR
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="$1"
. "$here/../../captures/cluster.sh"
init_cluster
start data
sql "create table account(id int primary key, branch int, balance int, filler char(60)) with (fillfactor = 80);
     insert into account select i, i % 7, 0, '' from generate_series(1, 4000) i;
     create table history(id serial, account int, delta int, at timestamptz default now());
     create table gone(a int, b text); insert into gone select i, repeat('x', 200) from generate_series(1, 2000) i;
     create index gone_a on gone(a);
     create table cut(a int, b text); insert into cut select i, repeat('x', 200) from generate_series(1, 1000) i;
     create table emptied(a int, b text); insert into emptied select i, repeat('x', 200) from generate_series(1, 500) i;
     vacuum; select pg_replication_origin_create('elsewhere');"
stop data
copy_cold

start data
cat > load.sql <<'LOAD'
\set id random(1, 4000)
\set delta random(-500, 500)
begin;
update account set balance = balance + :delta where id = :id;
savepoint s;
insert into history(account, delta) values (:id, :delta);
release s;
end;
LOAD
round() { # compression, transactions
    sql "alter system set wal_compression = $1; select pg_reload_conf(); checkpoint;" >/dev/null
    as "pgbench -n -h $work -f load.sql -c 2 -t $2 --random-seed=15 postgres" >/dev/null 2>&1
}
round off 150
sql "select pg_current_wal_insert_lsn()" > after # Recovery stops behind a checkpoint only.
round pglz 400; round lz4 400; round zstd 400
as "psql -qAtX -h $work postgres" >/dev/null <<'EVENTS'
delete from gone where a > 500; vacuum gone;
delete from cut where a > 300; vacuum cut;
delete from emptied; vacuum emptied;
begin; create table brief(a int); insert into brief values (1); abort;
create table brief(a int primary key); insert into brief select generate_series(1, 500); select pg_switch_wal();
begin; drop table brief; prepare transaction 'two'; commit prepared 'two';
create unlogged table unlogged(a int primary key); insert into unlogged values (1);
select pg_replication_origin_session_setup('elsewhere'); insert into history(account, delta) values (1, 1);
create temp table passing(a int); insert into passing values (1);
truncate history; insert into history(account, delta) select i, i from generate_series(1, 300) i;
drop table gone; create database other strategy file_copy; drop database other;
select pg_logical_emit_message(false, 'long', repeat('pagestrata ', 3000));
EVENTS
sql "alter system reset wal_compression; select pg_reload_conf()" >/dev/null
sql "select pg_current_wal_insert_lsn()" > middle
as "pgbench -n -h $work -f load.sql -c 2 -t 300 --random-seed=16 postgres" >/dev/null 2>&1
stop data
as "pg_controldata -D data" > controldata.final

start_lsn="$(base_lsn)"
python3 "$here/oracle.py" wal data/pg_wal "$start_lsn" > oracle.jsonl
python3 "$here/oracle.py" compare oracle.jsonl <(as "pg_waldump -b -p data/pg_wal -s $start_lsn" 2>/dev/null)
python3 "$here/oracle.py" images oracle.jsonl data/pg_wal > versions.txt
middle="$(python3 "$here/oracle.py" end-before oracle.jsonl "$(cat middle)")"
python3 "$here/oracle.py" starts oracle.jsonl | spread "$(cat after)" 9 > lsns.txt
last="$(tail -n 1 lsns.txt)"
for lsn in "$middle" $(cat lsns.txt); do recover "$lsn" "@${lsn/\//_}.manifest.tsv"; done

rm -rf pack && pack pack
{ echo "name=sample"; echo "A_checkpoint=$start_lsn"; echo "B_shutdown_checkpoint=$last"; echo "segsize_mb=1"; echo "middle=$middle"; } > sample.env
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C pack -cf - base wal | zstd -q -19 --zstd=wlog=23 -f -o "$here/sample.tar.zst"
rm -f "$here"/sample@*
for file in oracle.jsonl versions.txt; do zstd -q -19 --zstd=wlog=23 -f "$file" -o "$here/sample.$file.zst"; done
for file in @*; do zstd -q -19 --zstd=wlog=23 -f "$file" -o "$here/sample$file.zst"; done
cp sample.env "$here/"
ls -la "$here"
