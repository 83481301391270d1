#!/usr/bin/env bash
# Runs fuzz targets one after the other and prints a line of figures for each.
#
#   fuzz/run.sh SECONDS [TARGET...]     every target, or the named ones, for SECONDS each
#
# Each run starts from fuzz/seeds alone, so that the figures of two runs can be compared. With
# CONTINUE=1 it starts from fuzz/corpus too. New inputs go to fuzz/corpus either way.
# Needs a nightly toolchain; installs cargo-fuzz if it is missing. CARGO_TARGET_DIR is respected.
# Ends with 0 if no target found anything, with 1 if one did or did not build, with 2 on wrong usage.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: fuzz/run.sh SECONDS [TARGET...]" >&2
    exit 2
}
[[ "${1-}" =~ ^[1-9][0-9]*$ ]] || usage
seconds=$1
shift

toolchain=$(rustup toolchain list | awk '/^nightly/ { print $1; exit }')
if [ -z "$toolchain" ]; then
    echo "fuzz: no nightly toolchain; install one: rustup toolchain install nightly" >&2
    exit 2
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz

mapfile -t known < <(cargo fuzz list)
targets=("$@")
[ $# -gt 0 ] || targets=("${known[@]}")
for target in "${targets[@]}"; do
    if [[ " ${known[*]} " != *" $target "* ]]; then
        echo "fuzz: no target $target; there are: ${known[*]}" >&2
        exit 2
    fi
done

target_dir=$(realpath -m "${CARGO_TARGET_DIR:-fuzz/target}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Prints the last number that follows $1 in the output of the run.
last() {
    grep -aoE "$1 *[0-9]+" "$work/output" | tail -n 1 | grep -oE '[0-9]+$' || echo '-'
}

# Runs one target and prints its line. Returns 1 if it found something.
run_target() {
    local target=$1 code=0 found artefacts
    local corpus=fuzz/corpus/$target fresh=$work/corpus/$target
    mkdir -p "$corpus" "$fresh" "fuzz/artifacts/$target"
    [ -z "${CONTINUE-}" ] || cp -n "$corpus"/* "$fresh/" 2>/dev/null || true
    ASAN_OPTIONS=detect_odr_violation=0 "$work/programs/$target" "$fresh" "fuzz/seeds/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -timeout=30 \
        -print_final_stats=1 >"$work/output" 2>&1 || code=$?
    artefacts=$(sed -n 's/.*Test unit written to //p' "$work/output" | grep -v slow-unit || true)
    found=$(grep -c . <<<"$artefacts" || true)
    printf '%-16s %11s %8s %8s %8s %8s\n' "$target" "$(last number_of_executed_units:)" \
        "$(last average_exec_per_sec:)" "$(last cov:)" "$(find "$fresh" -type f | wc -l)" "$found"
    find "$fresh" -type f -exec cp -n -t "$corpus" {} +
    rm -rf "$fresh"
    [ "$code" != 0 ] || [ "$found" != 0 ] || return 0
    cp "$work/output" "$corpus.log"
    echo "fuzz: $target ended with $code; its output: $corpus.log" >&2
    for artefact in $artefacts; do
        echo "fuzz: input: $artefact" >&2
        echo "fuzz: run it again: cargo +$toolchain fuzz run $target $artefact" >&2
    done
    return 1
}

# The programs are copied: an edit or a build during a long run does not change what runs.
host=$(rustc "+$toolchain" -vV | sed -n 's/^host: //p')
mkdir "$work/programs"
for target in "${targets[@]}"; do
    cargo "+$toolchain" fuzz build --target-dir "$target_dir" "$target"
    cp "$target_dir/$host/release/$target" "$work/programs/"
done
echo "$(git describe --always --dirty), $(rustc "+$toolchain" --version), $seconds s each"
printf '%-16s %11s %8s %8s %8s %8s\n' target executions exec/s cov corpus crashes
failed=0
for target in "${targets[@]}"; do
    run_target "$target" || failed=1
done
exit "$failed"
