#!/usr/bin/env bash
# Makes benches/flame/{ingest,versions,flush}.svg, or those of the works that are named (profile
# --help lists them). Needs perf, and inferno on the PATH; says what to install where one is
# missing.
#
# No hardware counters are needed: the CPU clock is sampled. Frame pointers make the stacks; the C
# library's memmove has none, so it may stand beside its caller instead of on it.
# A graph replaces the one before only if it has samples in it; otherwise the one before stays and
# this fails.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=0
need() { # PROGRAM HOW-TO-INSTALL
    command -v "$1" > /dev/null && return
    echo "flame.sh: $1 is not on the PATH; install it: $2" >&2
    missing=1
}
need perf "apt-get install linux-perf (Debian), or linux-tools for the running kernel (Ubuntu)"
need inferno-collapse-perf "cargo install inferno"
need inferno-flamegraph "cargo install inferno"
[ "$missing" = 0 ] || exit 2

target="${CARGO_TARGET_DIR:-target}/frame-pointers"
RUSTFLAGS="-C force-frame-pointers=yes" CARGO_TARGET_DIR="$target" \
    cargo build --release --quiet -p pagestrata-benches --bin profile
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
data="$scratch/perf.data"

fail() {
    echo "flame.sh: $1; benches/flame/$work.svg is as it was" >&2
    exit 1
}

for work in ${*:-ingest versions flush}; do
    # The first seconds fill and back memory, which is not what is looked at.
    perf record --quiet -e cpu-clock -F 999 --call-graph fp -D 3000 -o "$data" \
        "$target/release/profile" "$work" 13 || fail "perf record failed"
    threads=()
    if [ "$work" = flush ]; then threads=(--comm pagestrata-flus); fi
    title="$work, commit $(git rev-parse --short HEAD)"
    perf script -i "$data" "${threads[@]}" > "$scratch/script" 2> "$scratch/errors" \
        || fail "perf script failed: $(tail -n 1 "$scratch/errors")"
    inferno-collapse-perf --all < "$scratch/script" > "$scratch/folded" 2> "$scratch/errors" \
        || fail "inferno-collapse-perf failed: $(tail -n 1 "$scratch/errors")"
    [ -s "$scratch/folded" ] || fail "perf has no samples of $work"
    inferno-flamegraph --title "$title" --minwidth 0.2 < "$scratch/folded" > "$scratch/graph.svg" \
        || fail "inferno-flamegraph failed"
    grep -q '<rect' "$scratch/graph.svg" || fail "the graph of $work is empty"
    # Renamed where it goes, so that nobody sees half of it.
    mkdir -p benches/flame
    cp "$scratch/graph.svg" "benches/flame/.$work.svg.new"
    mv "benches/flame/.$work.svg.new" "benches/flame/$work.svg"
    echo "$title"
    perf report -i "$data" "${threads[@]}" --percentage relative --no-children --stdio -g none \
        --sort comm,symbol --percent-limit 1 2>/dev/null \
        | grep -v '^#' | grep -v '^$' | sed 's/ - *- *$//' | head -12 || true
done
