"""The response to an upgrade request: it connects the client when the server asks for it.

Threads: the request's own; in attached mode it becomes the client's reader thread.
Locks: none.
Blocks: an attached response's iteration, for as long as the client stays.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flask import Response

from ..client.client import Client
from .checks import Refusal

__all__ = ["UpgradeResponse"]


class UpgradeResponse(Response):
    """Connect the client at the last moment: when the app is done with the request and the server asks for the response."""

    def __init__(
        self,
        connect: Callable[[], tuple[Client, bool] | Refusal],
        refuse: Callable[[Refusal], Response],
        attach: Callable[[Client], None],
        ending: Response,
    ) -> None:
        super().__init__()
        self._connect, self._refuse, self._attach, self._ending = connect, refuse, attach, ending

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Run as WSGI, still within the request's context."""
        connected = self._connect()
        if isinstance(connected, Refusal):
            return self._refuse(connected)(environ, start_response)
        # What the app has left to be done with its response is done now, not when the client goes.
        self.close()
        client, handed_off = connected
        if handed_off:
            return self._ending(environ, start_response)
        self._attach(client)
        return _AttachedBody(client, partial(self._end, environ, start_response))

    def _end(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if "werkzeug.socket" in environ:
            return iter(self._ending(environ, start_response))
        # What gunicorn takes for a peer that has gone: it writes nothing more and logs nothing.
        raise BrokenPipeError(errno.EPIPE, "the WebSocket connection is over")


class _AttachedBody:
    """Be the body of an attached client's response: iterated after Flask has given the app context back, it is the reader."""

    def __init__(self, client: Client, end: Callable[[], Iterator[bytes]]) -> None:
        self._client = client
        self._end = end
        self._rest: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._rest is None:
            self._rest = iter(())
            self._client.read_pump()
            self._rest = self._end()
        return next(self._rest)

    def close(self) -> None:
        """Leave nothing behind when the server never came to read."""
        if self._rest is None:
            self._client.connection.abort()
            self._client.read_pump()
