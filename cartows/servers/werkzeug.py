"""Werkzeug: the server of ``flask run`` and ``app.run``, which is for development."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from .base import SocketServer, Worker, find_on_stack

__all__ = ["Werkzeug"]

# More than the buffer of a request can hold.
_MAX_EARLY = 1 << 20


class Werkzeug(SocketServer):
    """Implement ``Server`` for Werkzeug."""

    socket_key = "werkzeug.socket"

    def serves(self) -> bool:
        """See Server.serves."""
        return "WERKZEUG_SERVER_FD" in os.environ or bool(_servers())

    def early_bytes(self, environ: Mapping[str, Any], sock: Any) -> bytes:
        """See Server.early_bytes; the request is read through a buffer."""
        reader = environ.get("wsgi.input")
        if not isinstance(reader, io.BufferedReader):
            return b""
        # An empty buffer is filled from the socket, which must not wait.
        timeout = sock.gettimeout()
        sock.setblocking(False)
        try:
            return reader.read1(_MAX_EARLY)
        except OSError:
            return b""
        finally:
            sock.settimeout(timeout)

    def workers(self) -> int | None:
        """See Server.workers."""
        return 1 if _servers() else None

    def threads(self) -> int | None:
        """Return None: it starts a thread for each request."""
        return None

    def find_worker(self) -> Worker | None:
        """Return None: the process ends at SIGTERM and waits for no request."""
        return None


def _servers() -> list[Any]:
    return find_on_stack("werkzeug.serving", "BaseWSGIServer")
