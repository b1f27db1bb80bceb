"""`python -m benchmarks`: renewer beside what does the same work today, side by side in one run.

Rounds are interleaved and medians shown, so that a noisy moment hits both sides. `--quick` runs everything once, small.
What each part measures, on what, and what nobody can go below: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure, table

PARTS = ("scheduler", "sessions", "messages", "operations", "start", "gateway")
"""Modules of this package, each with a `measure(quick: bool)` that yields figures as they come."""


def main() -> None:
    """Measure, and say what was seen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them unless given")
    parser.add_argument("--quick", action="store_true", help="everything once, small: shows that it works, no more")
    parser.add_argument("--json", type=Path, default=Path(".benchmarks/last.json"), help="where each value goes")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    # What runs where nothing but renewer was installed; uvloop is here for the tests.
    loop = os.environ.setdefault("RENEWER_DAEMON__EVENT_LOOP", "asyncio")
    found: list[Figure] = []
    for name in options.parts or PARTS:
        began_at = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        for figure in importlib.import_module(f"benchmarks.{name}").measure(quick=options.quick):
            found.append(figure)
            print(f"  {figure.brief()}", file=sys.stderr, flush=True)
        print(f"  ({time.monotonic() - began_at:.0f} s)", file=sys.stderr, flush=True)
    machine = f"CPython {platform.python_version()}, {os.cpu_count()} cores, {loop}"
    print(f"{machine}; medians (lowest to highest of the rounds)\n\n{table(found)}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine, "figures": [one.as_json() for one in found]}, indent=1))
    print(f"\neach round's values: {options.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
