#!/usr/bin/env bash
# Counts the instructions and allocations of WriteLease::roll on open layers of different sizes. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet -p pagestrata-benches --bin freeze
freeze="${CARGO_TARGET_DIR:-target}/release/freeze"
out="$(mktemp)"
trap 'rm -f "$out"' EXIT

printf '%12s %14s %12s\n' 'values, MiB' instructions allocations
for mib in ${*:-1 16 256}; do
    # Collects only inside roll, and inside what it calls on its own thread.
    allocations="$(valgrind --quiet --tool=callgrind --callgrind-out-file="$out" \
        --collect-atstart=no --toggle-collect='*WriteLease::roll' "$freeze" $((mib << 20)))"
    instructions="$(awk '/^(summary|totals):/ { print $2; exit }' "$out")"
    printf '%12s %14s %12s\n' "$mib" "$instructions" "$allocations"
done
