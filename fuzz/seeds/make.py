#!/usr/bin/env python3
"""Writes the seeds: a few inputs of each kind that a target knows. The first four bytes choose the kind, the last are
how long the lists are; the rest is from a generator with a fixed seed."""

import pathlib
import random

KINDS = {"engine_model": 2, "layer_files": 1, "log_reader": 6, "manifest_reader": 3, "pg_wal": 4, "pg_redo": 3}

here = pathlib.Path(__file__).parent
for target, kinds in KINDS.items():
    (here / target).mkdir(exist_ok=True)
    numbers = random.Random(target)
    for kind in range(kinds):
        for n in range(8):
            head = ((kind << 32) // kinds + 1).to_bytes(4, "little") if kinds > 1 else b""
            body = bytes(numbers.choice((0, 1, 255, numbers.randrange(256))) for _ in range(24 << (n % 4)))
            (here / target / f"{kind}-{n}").write_bytes(head + body)
