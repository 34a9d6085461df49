"""gunicorn: its sync and gthread workers.

gunicorn calls no hook of an application on SIGTERM, so a worker that stops is noticed by its ``alive``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from types import FrameType
from typing import Any

from .base import SocketServer, Worker, find_on_stack

__all__ = ["Gunicorn"]

# The module of the master process.
_ARBITER = "gunicorn.arbiter"


class Gunicorn(SocketServer):
    """Implement ``Server`` for gunicorn."""

    socket_key = "gunicorn.socket"

    def serves(self) -> bool:
        """See Server.serves."""
        # A child that a worker has forked in a request has a copy of its stack.
        return any(getattr(worker, "pid", os.getpid()) == os.getpid() for worker in _workers())

    def starts_worker(self, forker: FrameType) -> bool:
        """See Server.starts_worker."""
        return forker.f_code.co_name == "spawn_worker" and forker.f_globals.get("__name__") == _ARBITER

    def find_socket(self, environ: Mapping[str, Any]) -> Any | None:
        """Return the socket of a request, but None over HTTP/2, where many requests share one."""
        if environ.get("SERVER_PROTOCOL", "").startswith("HTTP/2") or "gunicorn.http2.send_trailers" in environ:
            return None
        return super().find_socket(environ)

    def early_bytes(self, environ: Mapping[str, Any], sock: Any) -> bytes:
        """See Server.early_bytes; they are in the buffer of what gunicorn reads the request from."""
        unreader = getattr(getattr(environ.get("wsgi.input"), "reader", None), "unreader", None)
        buffer = getattr(unreader, "buf", None)
        if not isinstance(buffer, io.BytesIO):
            return b""
        found = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return found

    def workers(self) -> int | None:
        """See Server.workers."""
        return _setting("workers")

    def threads(self) -> int | None:
        """See Server.threads."""
        return _setting("threads")

    def find_worker(self) -> Worker | None:
        """See Server.find_worker."""
        found = _workers()
        return found[0] if found else None


def _workers() -> list[Any]:
    return find_on_stack("gunicorn.workers.base", "Worker")


def _owners() -> list[Any]:
    return _workers() + find_on_stack(_ARBITER, "Arbiter")


def _setting(name: str) -> int | None:
    for owner in _owners():
        value = getattr(getattr(owner, "cfg", None), name, None)
        if isinstance(value, int):
            return value
    return None
