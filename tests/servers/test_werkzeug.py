"""Werkzeug: whether it serves here, and what it has read beyond a request."""

from __future__ import annotations

import io
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from werkzeug.serving import make_server

from cartows.servers.werkzeug import Werkzeug

AT_MOST = 10.0

server = Werkzeug()


@pytest.mark.parametrize("threaded", [True, False])
def test_flasks_own_server_serves_while_it_handles_a_request(threaded: bool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        found = server.find_socket(environ) is not None, server.find_worker()
        return [f"{server.serves()} {server.workers()} {found}".encode()]

    made = make_server("127.0.0.1", 0, app, threaded=threaded)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{made.port}/", timeout=AT_MOST) as response:
            assert response.read().decode() == "True 1 (True, None)"
    finally:
        made.shutdown()
        thread.join(AT_MOST)
        made.server_close()
    assert not server.serves()
    assert server.workers() is None


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket that Werkzeug's variable in the environment names."""
    monkeypatch.delitem(sys.modules, "werkzeug._reloader", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        monkeypatch.setenv("WERKZEUG_SERVER_FD", str(sock.fileno()))
        yield sock


def test_a_thread_of_the_apps_own_serves_where_the_environment_names_a_listening_socket(listening: socket.socket) -> None:
    assert server.serves()
    assert listening.fileno() >= 0, "the test must not close the server's socket"


def test_a_descriptor_that_is_none_or_no_listening_socket_proves_nothing(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        for value in (str(other.fileno()), "9999999", "-1", "x", ""):
            monkeypatch.setenv("WERKZEUG_SERVER_FD", value)
            assert not server.serves(), value


def test_the_reloader_which_only_watches_does_not_serve(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "werkzeug._reloader", ModuleType("werkzeug._reloader"))
    monkeypatch.delenv("WERKZEUG_RUN_MAIN", raising=False)
    assert not server.serves()
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    assert server.serves()


def test_what_werkzeug_has_read_beyond_a_request_is_returned_without_waiting() -> None:
    mine, peer = socket.socketpair()
    with mine, peer, mine.makefile("rb") as reader:
        mine.settimeout(AT_MOST)
        peer.sendall(b"GET /ws HTTP/1.1\r\n\x81\x80frames")
        assert reader.readline() == b"GET /ws HTTP/1.1\r\n"
        assert server.early_bytes({"wsgi.input": reader}, mine) == b"\x81\x80frames"
        assert server.early_bytes({"wsgi.input": reader}, mine) == b""
        assert mine.gettimeout() == AT_MOST
    assert server.early_bytes({"wsgi.input": io.BytesIO(b"body")}, None) == b""
