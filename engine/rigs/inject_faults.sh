#!/usr/bin/env bash
# Fails every system call that a small workload makes on its store, in a run of its own, with strace;
# then kills the workload at every call that changes something. Afterwards the store must hold
# everything acknowledged, and must be usable. Takes about five minutes.
#
#   engine/rigs/inject_faults.sh [CALL...]        only these calls
#
# A run may succeed, or end with 2 because the store takes no writes. A panic, a signal or a hang
# fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v strace >/dev/null || { echo "skipped: strace is not installed"; exit 0; }
cargo build --quiet --locked -p pagestrata --example fault_workload
target=${CARGO_TARGET_DIR:-target}
program=$(realpath "$target/debug/examples/fault_workload")
work=$(mktemp -d "$(realpath "$target")/faults.XXXXXX")
trap 'rm -rf "$work"' EXIT
if ! strace -qq -o /dev/null -e trace=none true 2>/dev/null; then
    echo "skipped: processes may not be traced here"
    exit 0
fi
store=$work/store

# Prints the numbers of the calls on the store, counted among all calls of this name: those of the
# loader and of the program itself are not failed.
numbers() {
    rm -rf "$store"
    strace -f -qq -y -s 4096 -o "$work/trace" -e trace="$1" "$program" "$store" >/dev/null
    grep -nF "$store" "$work/trace" | cut -d: -f1
}

fail() {
    echo "FAILED: $1 ($2)" >&2
    tail -n 5 "$work/errors" >&2
    echo "to see it: strace -f -o /dev/null -e trace=${1%% *} -e inject=${1%% *}:${1#* } $program DIR" >&2
    failures=$((failures + 1))
}

# Makes one run with an injection, and checks the store.
run() {
    local call=$1 what=$2 code=0
    rm -rf "$store"
    # In a subshell without error output: it would report each killed process.
    (timeout --signal=KILL 60 strace -f -qq -o /dev/null -e trace="$call" -e inject="$call:$what" \
        "$program" "$store" >"$work/said" 2>"$work/errors"; exit $?) 2>/dev/null || code=$?
    case "$what:$code" in
        *:0 | *:2) ;;
        signal=KILL*:137) ;;
        *) fail "$call $what" "ended with $code" && return ;;
    esac
    code=0
    timeout --signal=KILL 60 "$program" --check "$store" "$work/said" >/dev/null 2>"$work/errors" || code=$?
    [ "$code" = 0 ] || fail "$call $what" "the check ended with $code"
}

# Makes all injections into one call.
each() {
    local call=$1 count=0 all fault n
    shift
    all=$(numbers "$call") || true
    for fault in "$@"; do
        for n in $all; do
            run "$call" "$fault:when=$n"
            count=$((count + 1))
        done
    done
    total=$((total + count))
    printf '%-12s %4s calls %4s injections (%s)\n' "$call" "$(wc -w <<<"$all")" "$count" "$*"
}

failures=0
total=0
kinds=(
    "writev error=EIO error=ENOSPC signal=KILL"
    "pwrite64 error=EIO error=ENOSPC signal=KILL"
    "fdatasync error=EIO error=ENOSPC signal=KILL"
    "fsync error=EIO signal=KILL"
    "rename error=EIO error=ENOSPC signal=KILL"
    "openat error=EIO error=ENOSPC error=EMFILE"
    "unlink error=EIO signal=KILL"
    "mkdir error=EIO error=ENOSPC signal=KILL"
    "mmap error=EIO error=ENOMEM"
    "pread64 error=EIO"
    "lseek error=EIO"
    "flock error=EIO"
    "getdents64 error=EIO"
    "statx error=EIO"
)
for kind in "${kinds[@]}"; do
    read -ra words <<<"$kind"
    if [ $# -gt 0 ] && [[ " $* " != *" ${words[0]} "* ]]; then
        continue
    fi
    each "${words[@]}"
done
echo "$total injections, $failures failures"
[ "$failures" = 0 ]
