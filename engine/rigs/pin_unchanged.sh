#!/usr/bin/env bash
# Checks that pinning an unchanged layer map does no atomic read-modify-write: its machine code must
# have no such instruction.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --quiet --release --locked -p pagestrata --example pin_unchanged
code=$(objdump -d --no-show-raw-insn --demangle target/release/examples/pin_unchanged |
    awk '/^[0-9a-f]+ <.*pin_unchanged::pin_unchanged/ {on=1} /^$/ {on=0} on')
count=$(printf '%s\n' "$code" | grep -cE '^ +[0-9a-f]+:' || true)
printf '%s\n' "$code"
if [ "$count" -lt 3 ]; then
    echo "the function was not found in the disassembly" >&2
    exit 1
fi
if printf '%s\n' "$code" | grep -E '\block\b|xchg.*\('; then
    echo "pinning an unchanged map has an atomic read-modify-write" >&2
    exit 1
fi
echo "pin of an unchanged map: $count instructions, no atomic read-modify-write"
