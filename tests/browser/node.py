"""Run the unit tests of the browser client on Node's test runner: ``python -m tests.browser.node``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import playwright

HERE = Path(__file__).parent

# The first version with a stable test runner.
MIN_VERSION = 20


def find() -> str | None:
    """Return a Node that is new enough: the one on the PATH, else the one that Playwright includes."""
    for path in (shutil.which("node"), str(Path(playwright.__file__).parent / "driver" / "node")):
        if path is not None and (version := _version(path)) is not None and version >= MIN_VERSION:
            return path
    return None


def _version(path: str) -> int | None:
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.match(r"v(\d+)\.", output)
    return int(found[1]) if found else None


def main() -> int:
    # Named one by one, since versions of `node --test` differ in how they read the name of a folder.
    tests = sorted(map(str, (HERE / "client").glob("*.test.mjs")))
    if not tests:
        print(f"no tests in {HERE / 'client'}", file=sys.stderr)
        return 1
    node = find()
    if node is None:
        print(
            f"These tests need Node {MIN_VERSION} or later on the PATH: `apt-get install nodejs`, or https://nodejs.org",
            file=sys.stderr,
        )
        return 1
    return subprocess.run([node, "--test", "--test-reporter=spec", *tests], check=False, timeout=600).returncode


if __name__ == "__main__":
    sys.exit(main())
