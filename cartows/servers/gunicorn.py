"""gunicorn: its sync and gthread workers.

gunicorn calls no hook of an application on SIGTERM, so a worker that stops is noticed by its ``alive``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

from .base import SocketServer, StartResponse, Worker, find_on_stack

__all__ = ["Gunicorn"]


class Gunicorn(SocketServer):
    """Implement ``Server`` for gunicorn."""

    socket_key = "gunicorn.socket"

    def serves(self) -> bool:
        """See Server.serves."""
        return os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn") or bool(_owners())

    def end_response(self, start_response: StartResponse, *, taken: bool) -> Iterable[bytes]:
        """Raise what gunicorn takes for the end of a connection: it sends nothing more and logs at debug level."""
        if taken:
            raise StopIteration
        # A StopIteration would only end the iteration, and gunicorn would send the headers of an empty response.
        raise BrokenPipeError(errno.EPIPE, "the WebSocket connection is over")

    def workers(self) -> int | None:
        """See Server.workers."""
        for owner in _owners():
            workers = getattr(getattr(owner, "cfg", None), "workers", None)
            if isinstance(workers, int):
                return workers
        return None

    def find_worker(self) -> Worker | None:
        """See Server.find_worker."""
        found = find_on_stack("gunicorn.workers.base", "Worker")
        return found[0] if found else None


def _owners() -> list[Any]:
    return find_on_stack("gunicorn.workers.base", "Worker") + find_on_stack("gunicorn.arbiter", "Arbiter")
