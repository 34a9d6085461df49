"""What a type checker tells the author of an app: misspelt options and functions of a wrong signature."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_misspelt_options_and_wrong_signatures_fail_the_type_checker(tmp_path: Path) -> None:
    """``tests/types/app.py`` marks its wrong lines; --strict reports a mark on a line with which nothing is wrong."""
    pytest.importorskip("mypy", reason="mypy comes with the packages of `make lint`, which checks the same file")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "tests/types"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    checked = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
