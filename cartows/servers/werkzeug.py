"""Werkzeug: the server of ``flask run`` and ``app.run``, which is for development."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from .base import SocketServer, Worker, find_on_stack

__all__ = ["Werkzeug"]

# More than the buffer of a request can hold.
_MAX_EARLY = 1 << 20

# The environment variable in which Werkzeug names the descriptor of its socket.
_FD = "WERKZEUG_SERVER_FD"


class Werkzeug(SocketServer):
    """Implement ``Server`` for Werkzeug."""

    socket_key = "werkzeug.socket"

    def serves(self) -> bool:
        """See Server.serves."""
        inherited, inherited_fd = _inherited
        if any(server not in inherited for server in _servers()):
            return True
        # A thread of the app's own: Werkzeug names its socket in the environment, which every child inherits.
        fd = os.environ.get(_FD, "")
        return fd != inherited_fd and _is_listening(fd) and not _only_watches()

    def cannot_serve(self, environ: Mapping[str, Any]) -> str | None:
        """Return why ``app.run(processes=...)`` cannot serve clients, or None where that is not used."""
        if not environ.get("wsgi.multiprocess"):
            return None
        return (
            "app.run(processes=...) forks a process for each request, and no client in one of them would receive the events of "
            "another. Run the app without processes=, or under gunicorn -k gthread."
        )

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


def _is_listening(fd: str) -> bool:
    """Return whether a descriptor is a socket that accepts connections; in a new process it is closed, or another file."""
    try:
        sock = socket.socket(fileno=int(fd))
    except (OSError, ValueError):
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        # The descriptor is not ours to close.
        sock.detach()


def _only_watches() -> bool:
    """Return whether this is the reloader, which has made the socket and runs the server in a child process."""
    return "werkzeug._reloader" in sys.modules and os.environ.get("WERKZEUG_RUN_MAIN") != "true"


# The servers and the descriptor that this process has as copies of its parent's, which accepts the connections.
_inherited: tuple[list[Any], str] = ([], "")


def _note_inherited() -> None:
    global _inherited
    _inherited = _servers(), os.environ.get(_FD, "")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_inherited)
