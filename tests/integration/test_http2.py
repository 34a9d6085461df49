"""gunicorn speaks HTTP/2, where no request has a socket of its own: an upgrade is refused in words, and HTTP/1.1 goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import GTHREAD, HOST, Server

pytest.importorskip("gunicorn.http2", reason="this gunicorn speaks no HTTP/2")
pytest.importorskip("h2", reason="gunicorn needs h2 to speak HTTP/2")


def ask(server: Server, *headers: tuple[str, str], method: str = "GET") -> tuple[dict[str, str], bytes] | None:
    """Make a request over HTTP/2; returns the answer's headers and body, or None where the stream is reset."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

    # What no proper client sends is sent, too.
    configuration = H2Configuration(client_side=True, validate_outbound_headers=False, header_encoding="utf-8")
    connection = H2Connection(configuration)
    connection.initiate_connection()
    pseudo = [(":method", method), (":scheme", "http"), (":authority", f"{HOST}:{server.port}"), (":path", "/ws")]
    connection.send_headers(1, [*pseudo, *headers], end_stream=True)
    answer: dict[str, str] = {}
    body = b""
    with server.raw() as raw:
        raw.send(connection.data_to_send())
        while data := raw.socket.recv(65536):
            for event in connection.receive_data(data):
                found: Any = event
                if isinstance(event, ResponseReceived):
                    answer.update(found.headers)
                elif isinstance(event, DataReceived):
                    body += found.data
                elif isinstance(event, StreamEnded):
                    return answer, body
                elif isinstance(event, StreamReset | ConnectionTerminated):
                    return None
            raw.send(connection.data_to_send())
    return None


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(kind=GTHREAD, arguments=("--http-protocols=h2,h1", "--http2-cleartext=both"))


def test_a_request_for_the_route_over_http_2_is_refused_in_words(server: Server) -> None:
    found = ask(server)
    assert found is not None
    headers, body = found
    answer = json.loads(body)
    assert (headers[":status"], answer["code"]) == ("400", "NEW_HTTP")
    assert "HTTP/1.1" in answer["message"]
    server.upgraded().close()
    server.await_clients(0)


UPGRADE = (
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


@pytest.mark.parametrize(
    "headers", [UPGRADE, UPGRADE[2:], (("x-cartows-explain", "1"),)], ids=["upgrade", "no upgrade", "explain"]
)
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_no_request_over_http_2_takes_the_connections_socket(
    server: Server, method: str, headers: tuple[tuple[str, str], ...]
) -> None:
    protocol = ((":protocol", "websocket"),) if method == "CONNECT" else ()
    found = ask(server, *protocol, *headers, method=method)
    # h2 itself resets what RFC 9113, section 8.2.2, forbids.
    assert found is None or found[0][":status"] in ("400", "405")
    assert server.client_count() == 0
    server.upgraded().close()
    server.await_clients(0)
