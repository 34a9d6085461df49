"""Werkzeug: the server of ``flask run`` and ``app.run``, which is for development."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .base import SocketServer, StartResponse, Worker, find_on_stack

__all__ = ["Werkzeug"]

_HEADERS = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", "0")]


class Werkzeug(SocketServer):
    """Implement ``Server`` for Werkzeug."""

    socket_key = "werkzeug.socket"

    def serves(self) -> bool:
        """See Server.serves."""
        return "WERKZEUG_SERVER_FD" in os.environ or bool(_servers())

    def end_response(self, start_response: StartResponse, *, taken: bool) -> Iterable[bytes]:
        """Return an empty response, which Werkzeug writes to a socket that takes nothing any more, and logs as a 200."""
        # A copy: middleware may add its own.
        start_response("200 OK", list(_HEADERS))
        return ()

    def workers(self) -> int | None:
        """See Server.workers."""
        return 1 if _servers() else None

    def find_worker(self) -> Worker | None:
        """Return None: the process ends at SIGTERM and waits for no request."""
        return None


def _servers() -> list[Any]:
    return find_on_stack("werkzeug.serving", "BaseWSGIServer")
