#!/usr/bin/env bash
# Plants each bug that fuzz/README.md lists, and fails unless the check that is named for it finds it.
#
#   engine/rigs/planted.sh [BUG...]      all of them take an hour on two cores
#
# The bugs of redo need PAGESTRATA_CAPTURES; `relaxed_publish` and `skip_record_checksum` need the
# nightly toolchain. Builds in $PLANTED_TARGET, or in target/planted, and leaves the output of each
# check there.
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${PLANTED_TARGET:-$PWD/target/planted}"
mkdir -p "$target"

test=(cargo test --target-dir "$target")
loom=(cargo test --release --target-dir "$target/loom")
explorer=(cargo run --release --target-dir "$target" -p pagestrata --example crash_explorer --features testing)
host="$(rustc -vV | sed -n 's/^host: //p')"

# check BUG FLAGS BUILD RUN: the build must succeed, the run must fail.
failed=()
check() {
    local bug="$1" flags="$2" build="$3" run="$4"
    local log="$target/$bug.log"
    flags="$flags --cfg planted_bug=\"$bug\""
    if ! RUSTFLAGS="$flags" bash -euo pipefail -c "$build" >"$log" 2>&1; then
        echo "$bug: does not build, see $log"
        failed+=("$bug")
    elif RUSTFLAGS="$flags" bash -euo pipefail -c "$run" >>"$log" 2>&1; then
        echo "$bug: NOT FOUND, see $log"
        failed+=("$bug")
    else
        echo "$bug: found"
    fi
}

tested() { # BUG PACKAGE TESTS
    check "$1" "" "${test[*]} -p $2 --test all --no-run" "${test[*]} -p $2 --test all -- $3"
}
modelled() { # BUG PACKAGE TESTS
    check "$1" "--cfg loom" "${loom[*]} -p $2 --lib --no-run" "${loom[*]} -p $2 --lib -- $3"
}
explored() { # BUG
    check "$1" "" "${explorer[*]/#run/build}" "${explorer[*]} -- --seconds 120 --seed 1 --threads 2"
}

one() {
    case "$1" in
    frozen_tombstones | early_reclaim | merge_loses_tombstones) tested "$1" pagestrata model:: ;;
    skip_checksum) tested "$1" pagestrata damage:: ;;
    not_retired | not_told) modelled "$1" pagestrata publish ;;
    sleeps_late) modelled "$1" pagestrata-layers handshake ;;
    unmarked_head) modelled "$1" pagestrata-layers head ;;
    acknowledged_early) modelled "$1" pagestrata-wal group ;;
    no_sync_before_rename | no_dir_sync | freed_before_manifest | log_freed_early | half_commit_kept | skip_log_checksum | \
        inputs_removed_early)
        explored "$1"
        ;;
    relaxed_publish)
        local stress="cargo +nightly run --release --target-dir $target/thread --target $host -p pagestrata --example stress"
        check "$1" "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" "${stress/ run / build }" \
            "TSAN_OPTIONS='suppressions=$PWD/engine/rigs/tsan.supp halt_on_error=1' $stress -- 60"
        ;;
    skip_record_checksum)
        check "$1" "" "cargo +nightly fuzz build --target-dir $target/fuzz pg_wal" \
            "cargo +nightly fuzz run --target-dir $target/fuzz pg_wal fuzz/seeds/pg_wal -- -max_total_time=300"
        ;;
    redo_*) tested "$1" pagestrata-postgres redo ;;
    *)
        echo "planted.sh: no bug $1" >&2
        exit 2
        ;;
    esac
}

mapfile -t all < <(sed -n 's/.*cfg(planted_bug, values(\(.*\)))'"'"'.*/\1/p' Cargo.toml | tr -d '" ' | tr , '\n')
if [ "$#" -gt 0 ]; then all=("$@"); fi
for bug in "${all[@]}"; do one "$bug"; done
echo "${#failed[@]} of ${#all[@]} not found"
[ "${#failed[@]}" -eq 0 ]
