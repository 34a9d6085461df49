"""The server that is attacked by default: gunicorn's gthread with ``app``, observed from outside."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cartows.options import Options
from tests.hostile.bystanders import EVENT, Publish
from tests.hostile.target import Target
from tests.support import process
from tests.support.harness import HOST, Plan, Server

APP = "tests.hostile.app"

#: The endpoint of the app that requires tokens.
GUARDED = "/guarded"

#: The other integration tests switch the rate limit off, since they send much at once; here it has its default.
CONFIG = {"CARTOWS_RATE_LIMIT": Options().rate_limit}

# How much more memory a worker may hold than before, once all clients have left, and at its peak; bytes.
GROWTH, PEAK_GROWTH = 24 << 20, 64 << 20


def target_of(server: Server, *headers: tuple[str, str]) -> Target:
    return Target(HOST, server.port, server.path, headers=headers, guarded=bool(headers))


def publisher(server: Server) -> Publish:
    target = target_of(server)

    def publish(number: int) -> int:
        return target.http("POST", "/remote/publish", [["broadcast", [EVENT, {"number": number}], {}]])

    return publish


class Memory:
    """The memory of a worker, compared with what it was before."""

    def __init__(self, server: Server) -> None:
        self._server = server
        server.get("/remote/process")  # which runs the garbage collector
        self._before, self._peak = self._read("VmRSS:"), self._read("VmHWM:")

    def _read(self, key: str) -> int:
        if not process.HAS_PROC:
            return 0
        lines = Path(f"/proc/{self._server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def problems(self) -> list[str]:
        """Return which limits are exceeded, once the server is idle."""
        self._server.get("/remote/process")
        growth, peak = self._read("VmRSS:") - self._before, self._read("VmHWM:") - self._peak
        found = [f"the worker holds {growth >> 20} MiB more than before"] if growth > GROWTH else []
        return found + ([f"the worker's memory grew by {peak >> 20} MiB at its peak"] if peak > PEAK_GROWTH else [])


@contextlib.contextmanager
def run_server(**config: Any) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="hostile-") as directory:
        server = Server(Plan(APP, config=json.dumps({**CONFIG, **config})), Path(directory), None)
        try:
            yield server
            server.stop()
        except BaseException:
            server.kill()
            raise
