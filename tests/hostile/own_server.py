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
from tests.support.harness import HOST, Plan, Server

APP = "tests.hostile.app"

#: The endpoint of the app that requires tokens.
GUARDED = "/guarded"

#: The other integration tests switch the rate limit off, since they send much at once; here it has its default. The budget for
#: what waits is that of a small container: sixty clients reach it, and it is far below what `watch` lets a worker grow by.
CONFIG = {"CARTOWS_RATE_LIMIT": Options().rate_limit, "CARTOWS_TOTAL_QUEUE_BYTES": 16 << 20}


def target_of(server: Server, *headers: tuple[str, str]) -> Target:
    return Target(HOST, server.port, server.path, headers=headers, guarded=bool(headers))


def publisher(server: Server) -> Publish:
    target = target_of(server)

    def publish(number: int) -> int:
        return target.http("POST", "/remote/publish", [["broadcast", [EVENT, {"number": number}], {}]])

    return publish


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
