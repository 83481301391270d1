#!/usr/bin/env bash
# Makes benches/flame/{ingest,versions,flush}.svg. Needs perf, and inferno (cargo install inferno) on the PATH.
#
# No hardware counters are needed: the CPU clock is sampled. Frame pointers make the stacks; the C library's memmove has none, so
# it may stand beside its caller instead of on it.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}/frame-pointers"
RUSTFLAGS="-C force-frame-pointers=yes" CARGO_TARGET_DIR="$target" \
    cargo build --release --quiet -p pagestrata-benches --bin profile
data="$(mktemp)"
trap 'rm -f "$data"' EXIT

for work in ${*:-ingest versions flush}; do
    # The first seconds fill and back memory, which is not what is looked at.
    perf record --quiet -e cpu-clock -F 999 --call-graph fp -D 3000 -o "$data" "$target/release/profile" "$work" 13
    threads=()
    if [ "$work" = flush ]; then threads=(--comm pagestrata-flus); fi
    title="$work, commit $(git rev-parse --short HEAD)"
    perf script -i "$data" "${threads[@]}" 2>/dev/null | inferno-collapse-perf --all 2>/dev/null \
        | inferno-flamegraph --title "$title" --minwidth 0.2 > "benches/flame/$work.svg"
    echo "$title"
    perf report -i "$data" "${threads[@]}" --percentage relative --no-children --stdio -g none --sort comm,symbol --percent-limit 1 2>/dev/null \
        | grep -v '^#' | grep -v '^$' | sed 's/ - *- *$//' | head -12
done
