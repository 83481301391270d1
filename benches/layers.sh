#!/usr/bin/env bash
# Counts the instructions of a read of the newest version through stacks of delta layers, and from them
# what one more layer costs: one that does not hold the page, and one that adds a delta. With --check it
# fails where a bound is passed. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    echo "layers.sh counts instructions with valgrind: install it first (apt-get install valgrind)" >&2
    exit 1
fi
cargo build --release --quiet --locked -p pagestrata-benches --bin visits
visits="${CARGO_TARGET_DIR:-target}/release/visits"
out="$(mktemp)"
trap 'rm -f "$out"' EXIT
reads=1000

# Instructions of one read through so many layers, of which so many hold the page.
instructions() {
    valgrind --quiet --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no \
        --toggle-collect='visits::read_counted' "$visits" "$1" "$2" 3000 "$reads" >/dev/null
    awk -v reads="$reads" '/^(summary|totals):/ { printf "%d", $2 / reads; exit }' "$out"
}

declare -A count
printf '%8s %12s %12s %12s\n' layers 'held by none' one half
for layers in 1 10 100; do
    for held in none one half; do
        count[$layers-$held]="$(instructions "$layers" "$held")"
    done
    printf '%8s %12s %12s %12s\n' "$layers" "${count[$layers-none]}" "${count[$layers-one]}" \
        "${count[$layers-half]}"
done
# From 10 layers without the page to 100, and of 100 from none that holds it to 50.
absent=$(((count[100-none] - count[10-none]) / 90))
delta=$(((count[100-half] - count[100-none]) / 50 + absent))
echo "a layer without the page: $absent instructions; one that adds a delta: $delta"

if [ "${1-}" = --check ]; then
    # Zero would mean that nothing was counted.
    for bound in "$absent 400" "$delta 1800" "${count[1-none]} 3500"; do
        read -r found most <<<"$bound"
        if [ "$found" -lt 1 ] || [ "$found" -gt "$most" ]; then
            echo "expected 1 to $most instructions, found $found" >&2
            exit 1
        fi
    done
fi
