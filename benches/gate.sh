#!/usr/bin/env bash
# The regression gate: counts what each hot operation does, without a clock, and compares with benches/gate.txt.
#
#   benches/gate.sh                  prints the figures
#   benches/gate.sh --check          fails where one rose: instructions and sizes by more than 2 %, the others at all
#   benches/gate.sh --update REASON  writes them to benches/gate.txt, and the reason to the log at its end
#
# Needs valgrind, strace, objdump and setarch. GATE_OPERATIONS="put pin" counts these alone (not with --update).
set -euo pipefail
cd "$(dirname "$0")/.."
recorded=benches/gate.txt
mode="${1-}"
case "$mode" in
'' | --check) ;;
--update)
    if [ -z "${2-}" ] || [ -n "${GATE_OPERATIONS-}" ]; then
        echo "gate: --update needs a REASON, and counts every operation" >&2
        exit 2
    fi
    ;;
*)
    echo "usage: benches/gate.sh [--check | --update REASON]" >&2
    exit 2
    ;;
esac
for tool in valgrind strace objdump setarch; do
    if ! command -v "$tool" >/dev/null; then
        echo "gate: $tool is missing (apt-get install valgrind strace binutils util-linux)" >&2
        exit 1
    fi
done

# In one unit a crate: how functions are shared out among several, and so what is inlined, depends on
# the directory that the repository lies in.
export CARGO_PROFILE_BENCH_CODEGEN_UNITS=1
gate="$(cargo bench --no-run --quiet --locked -p pagestrata-benches --bench gate --message-format=json |
    sed -n 's/.*"executable":"\([^"]*gate-[^"]*\)".*/\1/p' | tail -n 1)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
read -ra operations <<<"${GATE_OPERATIONS-$("$gate" | tr '\n' ' ')}"

# Every instruction with a locked bus cycle, as "object address": lock prefixes, and xchg with memory, which has it
# without one.
while read -r object; do
    objdump -d --no-show-raw-insn "$object" | awk -v object="$object" '
        /[ \t]lock / || (/[ \t]xchg / && /\(/) { sub(/:.*/, ""); gsub(/ /, ""); print object, $0 }'
done < <(printf '%s\n' "$gate"; ldd "$gate" | grep -o '/[^ ]*' | sort -u | xargs readlink -f) >"$work/locked"

if ! grep -q "^$gate " "$work/locked"; then
    echo "gate: no locked instruction was found in $gate: what does objdump print?" >&2
    exit 1
fi

# Counts one operation; the figures go to $work/OPERATION.figures.
count() {
    local operation="$1" gate="$2" work="$3" out="$3/$1"
    local run=(env -i PATH=/usr/bin:/bin TMPDIR=/tmp setarch -R)
    "${run[@]}" "$gate" "$operation" >"$out.count"
    if grep -q '^units 0$' "$out.count"; then
        awk -v op="$operation" '/^figure/ { printf "%s.%s %.2f\n", op, $2, $3 }' "$out.count" >"$out.figures"
        return
    fi
    "${run[@]}" strace -f -o "$out.trace" "$gate" "$operation" mark >/dev/null
    "${run[@]}" valgrind --quiet --tool=callgrind --dump-instr=yes --dump-line=no --compress-pos=no \
        --compress-strings=no --collect-atstart=no --toggle-collect='gate::counted' \
        --callgrind-out-file="$out.callgrind" "$gate" "$operation" >/dev/null
    for half in '' skip; do
        "${run[@]}" valgrind --tool=dhat --mode=copy --dhat-out-file=/dev/null "$gate" "$operation" $half \
            2>&1 >/dev/null | awk '/Total:/ { gsub(/,/, ""); print $3 }' >"$out.copied$half"
    done
    {
        awk -v op="$operation" -v with="$(cat "$out.copied")" -v without="$(cat "$out.copiedskip")" '
            /^units/ { units = $2 }
            /^allocations/ { allocations = $2 }
            END {
                printf "%s.allocations %.4f\n", op, allocations / units
                # Without the call a few bytes may be copied elsewhere, by what is left to do then.
                copied = with > without ? (with - without) / units : 0
                printf "%s.bytes_copied %.2f\n", op, copied
                printf "units %d\n", units
            }' "$out.count"
        awk '
            /gate\/begin/ { on = 1; next }
            /gate\/end/ { on = 0 }
            on { sub(/^[0-9]+ +/, ""); sub(/\(.*/, ""); print "call", $0 }' "$out.trace"
        # A line after calls= is the cost of the callee, which is counted where it is spent.
        awk '
            NR == FNR { locked[$1 " " $2] = 1; next }
            /^ob=/ { object = substr($0, 4); next }
            /^calls=/ { skip = 1; next }
            /^0x/ {
                if (skip) { skip = 0; next }
                instructions += $2
                if ((object " " substr($1, 3)) in locked) atomics += $2
            }
            END { printf "instructions %d\natomics %d\n", instructions, atomics }' "$work/locked" "$out.callgrind"
    } | awk -v op="$operation" '
        /^units/ { units = $2; next }
        /^call / { calls[$2]++; all++; next }
        /^instructions/ { printf "%s.instructions %.1f\n", op, $2 / units; next }
        /^atomics/ { printf "%s.atomics %.4f\n", op, $2 / units; next }
        { print }
        END {
            printf "%s.system_calls %.4f\n", op, all / units
            for (name in calls) printf "%s.system_calls.%s %.4f\n", op, name, calls[name] / units
        }' >"$out.figures"
    rm -f "$out.callgrind" "$out.trace"
}
export -f count
printf '%s\n' "${operations[@]}" |
    xargs -P 2 -I{} bash -euo pipefail -c 'count "$@"' count {} "$gate" "$work"
cat "$work"/*.figures | LC_ALL=C sort >"$work/figures"

# A counter that does not count would pass every check.
for operation in "${operations[@]}"; do
    if ! grep -q "^$operation\." "$work/figures" || grep -q "^$operation.instructions 0\.0$" "$work/figures"; then
        echo "gate: $operation was not counted" >&2
        exit 1
    fi
done

case "$mode" in
'') cat "$work/figures" ;;
--check)
    only="$(printf '%s|' "${operations[@]}")"
    awk -v only="^(${only%|})[.]" '
        function relative(name) { return name ~ /\.instructions$/ || name ~ /bytes_a_/ }
        function limit(name, was) { return relative(name) ? was * 1.02 : was + 0.00015 }
        FNR == NR { if (/^[a-z]/ && $1 ~ only) was[$1] = $2; next }
        {
            name = $1; found[name] = 1
            before = name in was ? was[name] : (name ~ /system_calls\./ ? 0 : -1)
            if (before < 0) { print "gate: " name " is not recorded: " $2 "; --update"; bad = 1 }
            else if ($2 > limit(name, before)) { print "gate: " name " rose from " before " to " $2; bad = 1 }
            else if ($2 < before * 0.98 - 0.00015) {
                print "gate: " name " fell from " before " to " $2 ": record it with --update REASON"
            }
        }
        END {
            for (name in was) if (!(name in found)) {
                if (name ~ /system_calls\./) print "gate: " name " fell from " was[name] " to 0: record it with --update REASON"
                else { print "gate: " name " was not counted"; bad = 1 }
            }
            exit bad
        }' "$recorded" "$work/figures" >&2
    echo "gate: none of $(wc -l <"$work/figures") figures rose"
    ;;
--update)
    {
        echo "# What each hot operation does, a unit (benches/gate.sh). Rising takes a reason: --update REASON."
        echo "# $(rustc -V | cut -d' ' -f1,2), $(uname -m), glibc $(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"
        cat "$work/figures"
        echo "# Log"
        if [ -f "$recorded" ]; then sed '1,/^# Log$/d' "$recorded"; fi
        echo "# $(date -u +%F) $(git rev-parse --short HEAD): $2"
    } >"$work/recorded"
    cp "$work/recorded" "$recorded"
    echo "gate: $(wc -l <"$work/figures") figures written to $recorded"
    ;;
esac
