#!/usr/bin/env bash
# Latency of a page server's warm reads beside cold ones: without cold reads, with some, and with
# some while the server does not check what is resident. Run it on an idle machine; DIR must be on a
# disk and have room for PAGES x 9 KB.
#
#   engine/rigs/cold_reads.sh [DIR] [PAGES] [RATE] [ROUNDS] [ACCESS...]
set -euo pipefail
cd "$(dirname "$0")/../.."
dir="${1:-/var/tmp/pagestrata-cold-reads}" pages="${2:-300000}" rate="${3:-8000}" rounds="${4:-3}"
shift "$(($# < 4 ? $# : 4))"
access=("${@:-mmap}")
hot=20000

cargo build --release --quiet -p pagestrata --example page_server --example page_load
bin=target/release/examples
if [ ! -d "$dir" ]; then
    "$bin/page_load" fill --store "$dir" --pages "$pages"
    sync
fi

# ask ACCESS PERCENT [SERVER OPTION...]
ask() {
    local access="$1" percent="$2"
    shift 2
    "$bin/page_load" evict --store "$dir"
    "$bin/page_server" --store "$dir" --access "$access" "$@" >/dev/null &
    local server=$!
    until (exec 3<>/dev/tcp/127.0.0.1/6401) 2>/dev/null; do sleep 0.1; done
    echo "-- $access, $percent % cold $*"
    "$bin/page_load" ask --pages "$pages" --hot "$hot" --cold-percent "$percent" --rate "$rate" --seconds 20
    kill -INT "$server"
    wait "$server"
}

for _ in $(seq "$rounds"); do
    for mode in "${access[@]}"; do
        ask "$mode" 0
        ask "$mode" 10
        ask "$mode" 10 --unchecked
    done
done
