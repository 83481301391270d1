#!/usr/bin/env bash
# Makes a capture with PostgreSQL 15: a cold base backup, the log of some workloads, and what PostgreSQL itself recovers from them. Run as root, with
# Debian's `postgresql-15` and `python3`; the server runs as `postgres`.
#   make.sh WORKDIR [--full-page-writes on|off] [--consistency MANAGERS] [--lsns N] WORKLOAD.sql...
# WORKDIR has to be new. Workloads are input of psql, run one after the other in one database; `PGHOST` is set for what they start themselves.
# It leaves there:
#   capture.env                 A_checkpoint: where decoding starts; B_shutdown_checkpoint: where the last record starts
#   base/, wal/                 what decoding reads
#   capture@X.manifest.tsv      PostgreSQL recovered to X: as ingest/sample/README.md says of the sample's; N of them (5), spread over the log, the last at its end
#   records.txt                 how many records of each kind there are
# The tests read all captures in the directory PAGESTRATA_MADE_CAPTURES.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="$1" && shift
full_page_writes=on consistency='' lsns=5 workloads=()
while [ $# -gt 0 ]; do
    case "$1" in
        --full-page-writes) full_page_writes="$2" && shift ;;
        --consistency) consistency="$2" && shift ;;
        --lsns) lsns="$2" && shift ;;
        -*) echo "unknown option $1" >&2 && exit 2 ;;
        *) workloads+=("$(realpath "$1")") ;;
    esac
    shift
done
[ ${#workloads[@]} -gt 0 ] || { echo "no workload" >&2 && exit 2; }
[ ! -e "$work/data" ] || { echo "$work has a capture already" >&2 && exit 2; }
mkdir -p "$work" && work="$(cd "$work" && pwd)"
. "$here/cluster.sh"

init_cluster
cat >> data/postgresql.conf <<CONF
full_page_writes = $full_page_writes
wal_consistency_checking = '$consistency'
CONF
[ -z "$consistency" ] || echo "wal_compression = lz4" >> data/postgresql.conf # An image of each page after each change of it.
start data && stop data
copy_cold
start data
sql "checkpoint" # Recovery writes pages at a restartpoint, which needs a checkpoint record of its own.
after="$(sql "select pg_current_wal_insert_lsn()")"
for workload in "${workloads[@]}"; do
    psql_stdin < "$workload" > "$(basename "$workload" .sql).out" || { echo "$workload failed" >&2 && exit 1; }
done
stop data

start_lsn="$(base_lsn)"
waldump() { as "pg_waldump -p data/pg_wal -s $start_lsn $*" 2>/dev/null || true; } # It fails at the end of the log.
waldump | sed -n 's/.*, lsn: \([^,]*\), prev .*/\1/p' | sed 's|/0*|/|' > starts.txt # As the server writes Lsns, without leading zeros.
waldump --stats=record > records.txt
last="$(tail -n 1 starts.txt)"
spread "$after" "$lsns" < starts.txt > lsns.txt # Those behind the checkpoint.
while read -r lsn; do recover "$lsn" "capture@${lsn/\//_}.manifest.tsv" < /dev/null; done < lsns.txt
rm -rf recovered
pack "$work"
{
    echo "name=$(basename "$work")"
    echo "A_checkpoint=$start_lsn"
    echo "B_shutdown_checkpoint=$last"
    echo "segsize_mb=1"
    echo "full_page_writes=$full_page_writes"
    echo "consistency=$consistency"
} > capture.env
cat records.txt
du -sh wal
