"""HTTP answers before the upgrade: each refusal has its status and a JSON body with the reason."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, EVERYWHERE, GTHREAD, Server
from tests.support.raw_client import Response


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


def check_refusal(response: Response, status: int) -> None:
    assert response.status == status, response
    assert response.headers.get_content_type() == "application/json"
    assert set(response.json) == {"code", "message"}
    assert all(value and isinstance(value, str) for value in response.json.values())


def ask(server: Server, headers: Mapping[str, str | None] | None = None, path: str = "/ws", **options: str) -> Response:
    # Closed as soon as it is answered: a server may wait for that, a sync worker with its only thread.
    with server.raw() as raw:
        raw.send(raw.handshake(path, headers, **options))
        return raw.response()


def test_an_upgrade_is_answered_as_rfc_6455_requires(server: Server) -> None:
    raw = server.raw()
    response = raw.open("/ws", {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert response.status == 101
    assert response.headers["Upgrade"].lower() == "websocket"
    assert response.headers["Connection"].lower() == "upgrade"
    accept = base64.b64encode(hashlib.sha1(b"dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    assert response.headers["Sec-WebSocket-Accept"] == accept.decode()
    assert "Sec-WebSocket-Protocol" not in response.headers
    assert raw.receive()["type"] == "connected"


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "WebSocket", "Connection": "keep-alive, Upgrade"},  # Firefox
        {"Connection": "upgrade,close"},
        {"Sec-WebSocket-Protocol": "graphql-ws, chat"},
        {"X-Long": "x" * 4000},
        {"Content-Length": "0"},
    ],
    ids=str,
)
def test_requests_of_proper_clients_and_proxies_are_upgraded(serve: Serve, headers: dict[str, str | None]) -> None:
    server = serve(kind=GTHREAD)
    raw = server.upgraded(headers=headers)
    raw.send_json({"type": "ping"})
    assert raw.receive()["type"] == "pong"


def test_a_plain_request_is_refused(server: Server) -> None:
    check_refusal(server.get("/ws"), 400)


NO_UPGRADE: list[dict[str, str | None]] = [
    {"Upgrade": None},
    {"Connection": None},
    {"Connection": "keep-alive"},
    {"Upgrade": "h2c"},
    {"Upgrade": "websockets"},
    {"Sec-WebSocket-Key": None},
    {"Sec-WebSocket-Key": ""},
    {"Sec-WebSocket-Key": "short"},
    {"Sec-WebSocket-Key": "!" * 24},
    {"Sec-WebSocket-Key": base64.b64encode(b"x" * 15).decode()},
    {"Sec-WebSocket-Key": base64.b64encode(b"x" * 17).decode()},
]


def test_a_request_that_is_not_a_websocket_one_is_refused(server: Server) -> None:
    for headers in NO_UPGRADE:
        check_refusal(ask(server, headers), 400)


def test_a_request_of_http_1_0_is_refused(server: Server) -> None:
    check_refusal(ask(server, version="HTTP/1.0"), 400)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    for headers in ({"Content-Length": "0"}, {"Content-Length": "0", "Upgrade": None, "Connection": "close"}):
        response = ask(server, headers, method=method)
        assert response.status == 405, response
        assert "GET" in response.headers["Allow"]


def test_a_post_with_a_body_is_refused(server: Server) -> None:
    assert server.post("/ws", {"type": "ping"}).status == 405


def test_a_handshake_with_a_body_is_refused(server: Server) -> None:
    for headers in ({"Content-Length": "4"}, {"Transfer-Encoding": "chunked"}):
        check_refusal(ask(server, headers), 400)


@pytest.mark.parametrize("version", ["8", "0", "14", "abc", "13x", "-13"])
def test_another_version_is_refused_with_the_supported_one(server: Server, version: str) -> None:
    response = ask(server, {"Sec-WebSocket-Version": version})
    check_refusal(response, 426)
    assert response.headers["Sec-WebSocket-Version"] == "13"


def test_a_request_without_a_version_is_refused(server: Server) -> None:
    response = ask(server, {"Sec-WebSocket-Version": None})
    check_refusal(response, response.status if response.status in (400, 426) else 426)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1", "http://127.0.0.1.evil.example", "null", "garbage", "file://", "://"],
)
def test_another_origin_is_refused(server: Server, origin: str) -> None:
    check_refusal(ask(server, {"Origin": origin}), 403)


def test_the_same_origin_and_no_origin_are_admitted(server: Server) -> None:
    scheme = "http" if server.tls is None else "https"
    for headers in ({"Origin": f"{scheme}://127.0.0.1:{server.port}"}, {"Origin": None}):
        server.upgraded(headers=headers)
    # A browser omits the default port on both sides.
    server.upgraded(headers={"Host": "app.example", "Origin": f"{scheme}://app.example"})
    server.upgraded(headers={"Host": "APP.example", "Origin": f"{scheme}://app.EXAMPLE"})


def test_the_origins_of_the_config_are_admitted_and_no_others(serve: Serve) -> None:
    server = serve(config={"CARTOWS_ALLOWED_ORIGINS": ["https://app.example", "https://other.example:8443"]})
    server.upgraded(headers={"Origin": "https://app.example"})
    server.upgraded(headers={"Origin": "https://other.example:8443"})
    server.upgraded(headers={"Origin": None})
    for origin in ("https://app.example:444", "http://app.example", "https://other.example", "https://x.app.example"):
        check_refusal(ask(server, {"Origin": origin}), 403)


def test_every_origin_can_be_admitted(serve: Serve) -> None:
    server = serve(config={"CARTOWS_ALLOWED_ORIGINS": "*"})
    for origin in ("https://evil.example", "null"):
        server.upgraded(headers={"Origin": origin})


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_full_server_answers_503_until_a_client_leaves(serve: Serve, kind: object) -> None:
    server = serve(kind=kind, config={"CARTOWS_MAX_CLIENTS": 3})
    raws = [server.upgraded() for _ in range(3)]
    for _ in range(5):
        response = ask(server)
        check_refusal(response, 503)
        assert int(response.headers["Retry-After"]) >= 1
    raws[1].close()
    server.await_clients(2)
    server.upgraded()
    check_refusal(ask(server), 503)


def test_too_many_filters_are_refused(server: Server) -> None:
    rooms = "&".join(f"board_id=b{number}" for number in range(100))
    server.upgraded(f"/ws?{rooms}")
    check_refusal(ask(server, path=f"/ws?{rooms}&project_id=p1"), 403)


HUGE: list[tuple[dict[str, str | None], str]] = [
    ({"Cookie": "x" * 200_000}, "/ws"),
    ({f"X-Header-{number}": "x" for number in range(500)}, "/ws"),
    ({}, "/ws?board_id=" + "x" * 200_000),
    ({"X" * 100_000: "x"}, "/ws"),
]


@pytest.mark.parametrize(("headers", "path"), HUGE, ids=["header", "headers", "query", "name"])
def test_a_huge_request_is_refused_and_leaves_no_resources(server: Server, headers: dict[str, str | None], path: str) -> None:
    """The servers have limits and answers of their own for them; they may also close the connection first."""
    witness = server.connect()
    with server.raw() as raw, contextlib.suppress(OSError, EOFError):
        raw.send(raw.handshake(path, headers))
        assert 400 <= raw.response().status < 500
    assert server.received(witness) == [[]]
    server.await_clients(1)


def test_a_refused_client_may_ask_again_on_the_same_connection(serve: Serve) -> None:
    raw = serve(kind=GTHREAD).raw()
    raw.send(raw.handshake("/ws", {"Sec-WebSocket-Version": "8", "Connection": "keep-alive, Upgrade"}))
    check_refusal(raw.response(), 426)
    raw.send(raw.handshake("/ws"))
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"


def test_the_path_can_be_set(serve: Serve) -> None:
    server = serve(config={"CARTOWS_PATH": "/events"})
    server.upgraded("/events")
    assert server.get("/ws").status == 404
