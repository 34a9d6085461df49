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
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx, which comes with npm, is not there to bring a TypeScript compiler")
    # Away from the checkout, where npx would look for a package.json and leave things behind.
    command = [npx, "--yes", "--package", TYPESCRIPT, "tsc", *OPTIONS.split(), str(PAGE)]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
