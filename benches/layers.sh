#!/usr/bin/env bash
# Counts the instructions of a read of the newest version through stacks of delta layers, and from them what one more layer
# costs: one that does not hold the page, and one that adds a delta. With --check it fails where a bound is passed.
# Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet --locked -p pagestrata-benches --bin visits
visits="${CARGO_TARGET_DIR:-target}/release/visits"
out="$(mktemp)"
trap 'rm -f "$out"' EXIT
reads=1000

# Instructions of one read: layers, how many of them hold the page.
instructions() {
    valgrind --quiet --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no \
        --toggle-collect='visits::read_counted' "$visits" "$1" "$2" 3000 "$reads" >/dev/null
    awk -v reads="$reads" '/^(summary|totals):/ { printf "%d", $2 / reads; exit }' "$out"
}

printf '%8s %12s %12s %12s\n' layers 'held by none' one half
for layers in 1 10 100; do
    declare -A row
    for held in none one half; do
        row[$held]="$(instructions "$layers" "$held")"
    done
    printf '%8s %12s %12s %12s\n' "$layers" "${row[none]}" "${row[one]}" "${row[half]}"
    [ "$layers" != 10 ] || none_10="${row[none]}"
done
# From 10 layers to 100, none of which holds the page; of 100 layers, from none to 50 that do.
empty=$(((row[none] - none_10) / 90))
delta=$(((row[half] - row[none]) / 50 + empty))
echo "a layer without the page: $empty instructions; one with a delta: $delta"
