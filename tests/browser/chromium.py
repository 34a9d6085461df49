"""Find the Chromium for these tests; as a program, install one if needed: ``python -m tests.browser.chromium``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Its names in Debian and Ubuntu, and Google's.
NAMES = ("chromium", "chromium-browser", "google-chrome")

# A minimal Debian has no fonts either.
PACKAGES = ("chromium", "fonts-dejavu-core")

REMEDY = (
    "These tests need Chromium or Chrome: "
    f"`apt-get install {' '.join(PACKAGES)}` on Debian; elsewhere put one of {', '.join(NAMES)} on the PATH, "
    "or name its path: CHROMIUM=/path/to/chromium"
)


def find() -> str | None:
    """Return the path of a Chromium that starts: only that of ``$CHROMIUM`` if it is set, else one on the PATH."""
    named = os.environ.get("CHROMIUM")
    for name in [named] if named else NAMES:
        path = shutil.which(name)
        # Ubuntu's chromium-browser may be a script that only prints how to install the real one.
        if path is not None and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def install() -> None:
    """Install it where that needs no interaction: as root, with apt-get."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print("Installing", *PACKAGES, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"apt-get {command[0]} failed:", done.stdout, done.stderr, file=sys.stderr)


def main() -> int:
    if find() is None and not os.environ.get("CHROMIUM"):
        install()
    if find() is None:
        print(REMEDY, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
