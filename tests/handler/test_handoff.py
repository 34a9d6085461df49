"""The hand-off: the handshake on a stand-in, the choice of the mode, and how a response ends in each of them."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import pytest
from flask import Request, Response
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from cartows.client.transport import PlainTransport
from cartows.handler.checks import Refusal
from cartows.handler.handoff import HandOff, HandshakeSocket, UpgradeResponse, dead_end, is_tls, shake_hands, with_headers
from cartows.hub import Hub
from cartows.options import Options
from cartows.servers.base import SocketServer, Worker

REPLY = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

# A process has one, from its first WebSocket on: it is not what a test here leaves behind.
dead_end()


class FakeServer(SocketServer):
    """A server that takes sockets, or does not."""

    socket_key = "fake.socket"

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes

    def serves(self) -> bool:
        return True

    def can_take(self, sock: Any) -> bool:
        return self.takes

    def early_bytes(self, environ: Mapping[str, Any], sock: Any) -> bytes:
        return b""

    def workers(self) -> int | None:
        return 1

    def threads(self) -> int | None:
        return 1

    def find_worker(self) -> Worker | None:
        return None


def upgrade(offered: str | None = None) -> Request:
    environ = EnvironBuilder(path="/ws").get_environ() | {"fake.socket": "the socket"}
    if offered is not None:
        environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = offered
    return Request(environ)


def accepting(request: Request, reply: bytes = REPLY) -> Callable[[], None]:
    """Return a view that does what flask-sock and simple-websocket do with the stand-in."""

    def view() -> None:
        stand_in = request.environ["fake.socket"]
        assert isinstance(stand_in, HandshakeSocket)
        assert (stand_in.send(reply), stand_in.recv(4096)) == (len(reply), b"")
        stand_in.accepted = True
        stand_in.send(b"a close frame")
        stand_in.close()

    return view


# The dead end -----------------------------------------------------------------------------------------------------


def test_the_dead_end_is_one_per_process_at_end_of_file_and_takes_nothing() -> None:
    assert dead_end() is dead_end()
    assert dead_end().recv(1) == b""
    with pytest.raises(OSError):
        dead_end().send(b"x")
    assert HandshakeSocket().fileno() == dead_end().fileno()


# Exit handlers run in reverse order, so that the first one to be registered sees what is left.
LEFT_AT_EXIT = """
import atexit
kept = []
atexit.register(lambda: print([sock.fileno() for sock in kept]))
from cartows.handler.handoff import dead_end
kept.append(dead_end())
"""


def test_no_socket_is_left_open_at_the_end_of_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_AT_EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[-1]\n"


def test_a_plain_socket_is_no_tls() -> None:
    with socket.socket() as sock:
        assert not is_tls(sock)


# The handshake ----------------------------------------------------------------------------------------------------


def test_the_reply_is_what_the_stand_in_was_sent_and_the_socket_is_back_afterwards() -> None:
    request = upgrade()
    assert shake_hands(request, FakeServer(), accepting(request), None) == REPLY
    assert request.environ["fake.socket"] == "the socket"


@pytest.mark.parametrize(
    ("offered", "preferred", "named"),
    [
        (None, "cartows", None),
        ("chat", None, None),
        ("chat, cartows", None, b"cartows"),
        ("cartows, v2", "v2", b"v2"),
        ("cartows", "v2", b"cartows"),
        ("cartowsx", "cartows", None),
    ],
)
def test_a_subprotocol_is_named_only_where_the_client_offers_it(
    offered: str | None, preferred: str | None, named: bytes | None
) -> None:
    request = upgrade(offered)
    reply = shake_hands(request, FakeServer(), accepting(request), preferred)
    assert isinstance(reply, bytes)
    head = [] if named is None else [b"Sec-WebSocket-Protocol: " + named]
    assert reply.split(b"\r\n") == [*REPLY.split(b"\r\n")[:-2], *head, b"", b""]


def test_a_subprotocol_that_the_reply_names_already_stays() -> None:
    request = upgrade("cartows")
    reply = REPLY.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
    assert shake_hands(request, FakeServer(), accepting(request, reply), "cartows") == reply


def test_a_handshake_that_fails_is_refused_and_the_socket_is_back_afterwards() -> None:
    def no_handshake() -> None:
        raise RuntimeError("bad header")

    def no_thread() -> None:
        request.environ["fake.socket"].send(REPLY)
        raise RuntimeError("can't start new thread")

    def failure_of_the_app() -> None:
        request.environ["fake.socket"].send(REPLY)
        raise KeyError("the app's own")

    for view, status, code in ((no_handshake, 400, "BAD_HANDSHAKE"), (no_thread, 503, "NO_THREAD")):
        request = upgrade()
        refusal = shake_hands(request, FakeServer(), view, None)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (status, code)
        assert request.environ["fake.socket"] == "the socket"
    request = upgrade()
    with pytest.raises(KeyError):
        shake_hands(request, FakeServer(), failure_of_the_app, None)
    assert request.environ["fake.socket"] == "the socket"


# The response -----------------------------------------------------------------------------------------------------


class FakeClient:
    """A client that notes what is done with it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.connection = self

    def read_pump(self) -> None:
        self.calls.append("read")

    def abort(self) -> None:
        self.calls.append("abort")


class Started(NamedTuple):
    """What a server was given of a response."""

    body: Any
    status: list[str]
    headers: list[tuple[str, str]]


def respond(
    connected: Any, closed: list[str], attached: list[Any] | None = None, ended: list[str] | None = None, **set_by_app: str
) -> Started:
    """Run an UpgradeResponse as the WSGI application."""
    seen: list[Headers] = []

    def connect(headers: Headers) -> Any:
        seen.append(headers)
        return connected

    response = UpgradeResponse(
        connect,
        lambda refusal: Response(refusal.message, refusal.status),
        (attached if attached is not None else []).append,
        lambda: (ended if ended is not None else []).append("ended"),
    )
    assert response.status_code == 101
    response.headers.update({name.replace("_", "-"): value for name, value in set_by_app.items()})
    response.call_on_close(lambda: closed.append("closed"))
    status: list[str] = []
    headers: list[tuple[str, str]] = []

    def start_response(line: str, fields: list[tuple[str, str]], *_: Any) -> None:
        status.append(line)
        headers.extend(fields)

    body = response(EnvironBuilder(path="/ws").get_environ(), start_response)
    assert len(seen) == 1
    return Started(body, status, headers)


def test_a_refusal_at_the_last_moment_is_http() -> None:
    closed: list[str] = []
    started = respond(Refusal(503, "FULL", "No slot left."), closed)
    assert b"".join(started.body) == b"No slot left."
    assert (closed, started.status) == ([], ["503 SERVICE UNAVAILABLE"])


def test_a_client_that_was_handed_off_is_an_ordinary_empty_response_with_status_101() -> None:
    client, closed, attached, ended = FakeClient(), cast("list[str]", []), cast("list[Any]", []), cast("list[str]", [])
    started = respond((client, True), closed, attached, ended, X_Own="1")
    assert list(started.body) == []
    assert started.status == ["101 SWITCHING PROTOCOLS"] and ("X-Own", "1") in started.headers
    assert (client.calls, closed, attached, ended) == ([], ["closed"], [], [])


def test_an_attached_client_is_read_by_the_iteration_of_the_body() -> None:
    client, closed, attached, ended = FakeClient(), cast("list[str]", []), cast("list[Any]", []), cast("list[str]", [])
    started = respond((client, False), closed, attached, ended)
    # Middleware knows the status before the client is read, and the server can send nothing once it has gone.
    assert started.status == ["101 SWITCHING PROTOCOLS"]
    assert (client.calls, closed, attached, ended) == ([], ["closed"], [client], [])
    assert list(started.body) == []
    assert (client.calls, ended) == (["read"], ["ended"])
    started.body.close()
    assert (client.calls, ended) == (["read"], ["ended"])


def test_an_attached_client_whose_body_is_never_iterated_is_aborted() -> None:
    client, ended = FakeClient(), cast("list[str]", [])
    started = respond((client, False), [], ended=ended)
    started.body.close()
    assert (client.calls, ended) == (["abort", "read"], ["ended"])


def test_an_attached_client_is_aborted_where_middleware_fails_to_start_its_response() -> None:
    client, ended = FakeClient(), cast("list[str]", [])
    response = UpgradeResponse(
        lambda headers: cast(Any, (client, False)),
        lambda refusal: Response(),
        lambda client: None,
        lambda: ended.append("ended"),
    )

    def start_response(*_: Any) -> None:
        raise KeyError("middleware")

    with pytest.raises(KeyError):
        response(EnvironBuilder(path="/ws").get_environ(), start_response)
    assert (client.calls, ended) == (["abort", "read"], ["ended"])


def test_what_the_app_has_set_goes_out_with_the_handshake_and_nothing_that_describes_a_body() -> None:
    headers = Headers({"Content-Type": "text/html", "Content-Length": "0", "Connection": "close", "Sec-WebSocket-Accept": "x"})
    headers.add("Set-Cookie", "a=1; Path=/")
    headers.add("Set-Cookie", "b=2")
    headers.add("Vary", "Cookie")
    head = REPLY.removesuffix(b"\r\n")
    assert with_headers(REPLY, headers) == head + b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nVary: Cookie\r\n\r\n"
    assert with_headers(REPLY, Headers()) == REPLY


# The choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "possible", "taken", "level", "reason"),
    [
        (None, True, True, logging.INFO, "none of them holds a request thread"),
        (True, True, True, logging.INFO, "none of them holds a request thread"),
        (False, True, False, logging.INFO, "CARTOWS_HANDOFF is off"),
        (None, False, False, logging.INFO, "a socket cannot be handed off"),
        (True, False, False, logging.WARNING, "a socket cannot be handed off"),
        (False, False, False, logging.INFO, "a socket cannot be handed off"),
    ],
)
def test_the_mode_is_chosen_by_the_option_and_the_socket_and_logged_once(
    caplog: pytest.LogCaptureFixture, wanted: bool | None, possible: bool, taken: bool, level: int, reason: str
) -> None:
    handoff = HandOff(Hub(), logging.getLogger("cartows"))
    with socket.socket() as sock, caplog.at_level(logging.INFO, "cartows"):
        for _ in range(3):
            assert handoff.takes(sock, FakeServer(possible), wanted) is taken
    (record,) = caplog.records
    assert record.levelno == level
    assert reason in record.getMessage()


@pytest.mark.parametrize("taken", [True, False])
def test_a_transport_owns_a_duplicate_or_borrows_the_servers_socket(taken: bool) -> None:
    mine, peer = socket.socketpair()
    with mine, peer:
        mine.settimeout(1.0)
        transport, lock = HandOff(Hub(), logging.getLogger("cartows")).open_transport(mine, taken, Options())
        assert isinstance(lock, type(threading.Lock()))
        assert (transport.fd == mine.fileno(), transport.borrowed) == (not taken, not taken)
        # A client may be quiet for longer than the server's timeout.
        assert transport.sock.gettimeout() is None
        transport.send(b"hello")
        assert peer.recv(64) == b"hello"
        if taken:
            transport.sock.close()


@pytest.mark.parametrize("taken", [True, False])
def test_what_the_server_has_read_already_comes_first(taken: bool) -> None:
    mine, peer = socket.socketpair()
    with mine, peer:
        transport, _ = HandOff(Hub(), logging.getLogger("cartows")).open_transport(mine, taken, Options(), b"abcde")
        peer.send(b"fgh")
        assert [transport.receive(4), transport.receive(4)] == [b"abcd", b"e"]
        transport = PlainTransport(transport.sock, borrowed=not taken)
        assert transport.receive(4) == b"fgh"
        if taken:
            transport.sock.close()
