"""Run the unit tests of the browser client on Node's test runner: ``python -m tests.browser.node``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import playwright

HERE = Path(__file__).parent

# The first whose test runner is finished.
OLDEST = 20


def find() -> str | None:
    """Return a Node that is new enough: the one on the PATH, else the one that Playwright brings for itself."""
    for path in (shutil.which("node"), str(Path(playwright.__file__).parent / "driver" / "node")):
        if path is not None and (version := _version(path)) is not None and version >= OLDEST:
            return path
    return None


def _version(path: str) -> int | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.match(r"v(\d+)\.", said)
    return int(found[1]) if found else None


def main() -> int:
    # Named one by one: what a folder's name means to `node --test` is another thing in each version.
    tests = sorted(map(str, (HERE / "client").glob("*.test.mjs")))
    if not tests:
        print(f"no tests in {HERE / 'client'}", file=sys.stderr)
        return 1
    node = find()
    if node is None:
        print(
            f"These tests need Node {OLDEST} or later on the PATH: `apt-get install nodejs`, or https://nodejs.org",
            file=sys.stderr,
        )
        return 1
    return subprocess.run([node, "--test", "--test-reporter=spec", *tests], check=False, timeout=600).returncode


if __name__ == "__main__":
    sys.exit(main())
