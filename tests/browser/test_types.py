"""The types of the client, as a page in TypeScript sees them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TYPESCRIPT = "typescript@5"
PAGE = Path(__file__).parent / "types" / "page.ts"
OPTIONS = "--strict --noEmit --skipLibCheck false --target es2022 --lib es2023,dom --module esnext --moduleResolution bundler"


@pytest.mark.timeout(300)
def test_a_page_in_typescript_is_typed(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm to install a TypeScript compiler")
    # Outside of the checkout, where npm would look for a package.json and leave files.
    try:
        installed = run(npm, "install", "--no-audit", "--no-fund", "--fetch-retries=1", TYPESCRIPT, within=tmp_path)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install a TypeScript compiler in time")
    if installed.returncode != 0:
        pytest.skip(f"npm could not install a TypeScript compiler: {installed.stdout.strip()}")
    done = run(str(tmp_path / "node_modules" / ".bin" / "tsc"), *OPTIONS.split(), str(PAGE), within=tmp_path)
    assert done.returncode == 0, done.stdout


def run(*command: str, within: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=within, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=140)
