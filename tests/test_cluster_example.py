"""``examples/cluster``: what it says where its ports are taken, to those who call it by make and by hand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "examples" / "cluster" / "run.py"


@pytest.mark.parametrize(
    ("level", "remedy"), [(None, "--port 9000"), ("1", "make cluster PORT=9000")], ids=["by hand", "by make"]
)
def test_a_port_that_is_taken_is_answered_with_the_setting_for_another_one(level: str | None, remedy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MAKELEVEL"}
    if level is not None:
        environment["MAKELEVEL"] = level
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, str(PROGRAM), "--port", str(port)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Ports {port} and {port + 1}") and ended.stderr.strip().endswith(f"Others: {remedy}")
