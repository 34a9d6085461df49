"""The socket of simple-websocket (``cartows.client.simple_websocket``) before its connection has a client.

What it does with one is tested on real servers, in ``tests/integration/test_flask_sock.py``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from cartows.client.connection import Owner
from cartows.client.simple_websocket import RouteConnection
from cartows.options import Options
from cartows.websocket.close_codes import CloseCode

BURST = 3
PONGS = b"\x8a\x00" * (2 * BURST + 1)


@pytest.fixture
def connection() -> Iterator[RouteConnection]:
    ours, peer = socket.socketpair()
    with ours, peer:
        ws = SimpleNamespace(
            sock=ours, input_buffer=[], max_message_size=None, connected=True, thread=threading.current_thread()
        )
        connection = RouteConnection(ws, Options(rate_limit=0.001, rate_burst=BURST))
        yield connection
        connection.release()


class Closing:
    """As much of an owner as the closing of a connection needs."""

    within: float | None = None

    def closing_begun(self, within: float) -> None:
        self.within = within


def test_a_flood_before_there_is_a_client_closes_nothing_that_no_thread_would_abort(connection: RouteConnection) -> None:
    connection._socket.send(PONGS)
    assert not connection.closing
    owner = Closing()
    connection.owner = cast(Owner, owner)
    connection._socket.send(PONGS)
    assert connection.close_code == CloseCode.TOO_MANY_MESSAGES
    assert owner.within is not None
