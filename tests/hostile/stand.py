"""A server of our own to attack: gunicorn's gthread with ``app``, watched from outside."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cartows.options import Options
from tests.hostile.bystanders import EVENT, Publish
from tests.hostile.wire import Target
from tests.support import process
from tests.support.harness import HOST, Plan, Server

APP = "tests.hostile.app"

#: The endpoint of the app that wants tokens.
GUARDED = "/guarded"

#: What the other acceptance tests do without, since they say a lot at once: here at its default.
CONFIG = {"CARTOWS_RATE_LIMIT": Options().rate_limit}

# How much more memory a worker may hold than before, once everybody has gone, and how much more at its worst; bytes.
GROWTH, PEAK_GROWTH = 24 << 20, 64 << 20


def target_of(server: Server, *headers: tuple[str, str]) -> Target:
    return Target(HOST, server.port, server.path, headers=headers, guarded=bool(headers))


def publisher(server: Server) -> Publish:
    target = target_of(server)

    def publish(number: int) -> int:
        return target.http("POST", "/remote/publish", [["broadcast", [EVENT, {"number": number}], {}]])

    return publish


class Memory:
    """What a worker's memory was before, and what has become of it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        server.get("/remote/process")  # which collects what is garbage
        self._before, self._peak = self._read("VmRSS:"), self._read("VmHWM:")

    def _read(self, key: str) -> int:
        if not process.HAS_PROC:
            return 0
        lines = Path(f"/proc/{self._server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def problems(self) -> list[str]:
        """Return what is too much, once the server is idle."""
        self._server.get("/remote/process")
        growth, peak = self._read("VmRSS:") - self._before, self._read("VmHWM:") - self._peak
        found = [f"the worker holds {growth >> 20} MiB more than before"] if growth > GROWTH else []
        return found + ([f"the worker's memory grew by {peak >> 20} MiB at its peak"] if peak > PEAK_GROWTH else [])


@contextlib.contextmanager
def server_of_our_own(**config: Any) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="hostile-") as directory:
        server = Server(Plan(APP, config=json.dumps({**CONFIG, **config})), Path(directory), None)
        try:
            yield server
            server.stop()
        except BaseException:
            server.kill()
            raise
