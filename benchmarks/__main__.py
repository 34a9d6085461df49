"""Run the benchmark: ``python -m benchmarks [--runs N] [--only ROW] [--quick] [--json FILE]``.

Threads: the main thread, and those that ``processes`` starts.
Blocks: for minutes; every single measurement is bounded in time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import rows_events, rows_hostile, rows_http, rows_redis
from .bench import QUICK, Scale, run
from .processes import NoCompiler, build
from .report import table

ROWS = (*rows_events.ROWS, *rows_http.ROWS, *rows_hostile.ROWS, *rows_redis.ROWS)
PACKAGES = ("flask", "flask-sock", "gunicorn", "msgspec", "simple-websocket", "wsproto")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        build()
    except NoCompiler as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"The C compiler could not build the load generator: {error}", file=sys.stderr)
        return 1
    _raise_file_limit()
    scale = QUICK if options.quick else Scale()
    about = _about()
    print(about, flush=True)
    if options.quick:
        print(f"A quick check with {scale.clients} clients: the targets apply to the full load.")
    outcomes = []
    began = time.monotonic()
    for row in ROWS:
        if row.name not in options.only if options.only else row.on_demand:
            continue
        runs = options.runs or (1 if options.quick else row.runs)
        print(f"{row.name}: {row.title} ...", file=sys.stderr, flush=True)
        outcomes.append(run(row, scale, runs))
    print("\n" + table(outcomes))
    print(f"\nAll in {time.monotonic() - began:.0f} s.")
    if options.json:
        found = {"about": about, "quick": options.quick, "rows": [outcome.as_json() for outcome in outcomes]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure cartows against its targets.")
    parser.add_argument("--runs", type=_count, metavar="N", help="runs per row (3 or 5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, once: a check that everything works")
    parser.add_argument(
        "--only", action="append", choices=[row.name for row in ROWS], metavar="ROW", help="only this row; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every run to FILE as well")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _raise_file_limit() -> None:
    """Raise the limit of open files, which every process of the benchmark inherits: one descriptor per socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _about() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {versions}; {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"load {load:.1f} before the start. Server and load generator share the machine."
    )


if __name__ == "__main__":
    sys.exit(main())
