"""What middleware and the app see of an upgrade, and what the client gets of what they set."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import EVERYWHERE, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, Kind, Server
from tests.support.raw_client import TEXT, make_frame
from tests.support.waiting import wait_until


def notes_of(server: Server, active: int = 0) -> list[str]:
    """Take the notes of the middleware, once it serves so many requests."""
    found: list[str] = []

    def look() -> bool:
        answer = server.get("/notes").json
        found.extend(answer["notes"])
        return bool(answer["active"] == active)

    wait_until(look, lambda: f"{active} active requests; notes: {found}")
    return found


def watched(serve: Serve, kind: Kind, middleware: str) -> Server:
    server = serve("watched", kind=kind, config={"MIDDLEWARE": middleware})
    notes_of(server)
    return server


@pytest.mark.parametrize("middleware", ["generator", "catch-all", "reporter", "active"])
@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_middleware_sees_an_ordinary_response_with_status_101(serve: Serve, kind: Kind, middleware: str) -> None:
    server = watched(serve, kind, middleware)
    start = len(server.log())
    raw = server.upgraded()
    # Attached, the request lasts as long as its client, and no longer.
    seen = notes_of(server, active=1 if kind.attached and middleware == "active" else 0)
    raw.send_json({"type": "ping"})
    assert raw.receive()["type"] == "pong"
    raw.send_frame(8, b"\x03\xe8")
    assert raw.ended()[1].code == 1000
    server.await_clients(0)
    seen += notes_of(server)
    started = ["started 101"] if middleware == "reporter" else []
    assert seen == ["after_request 101 text/html", *started]
    assert "StopIteration" not in server.log(start) and " 500 " not in server.log(start)


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS], ids=str)
def test_nothing_follows_the_end_of_an_attached_connection(serve: Serve, kind: Kind) -> None:
    """The server's own sending of the response comes to nothing, also where the client has vanished."""
    server = watched(serve, kind, "reporter")
    start = len(server.log())
    raw = server.upgraded()
    raw.send_frame(8, b"\x03\xe8")
    frames, closed = raw.ended()  # asserts that nothing follows
    assert (frames, closed.code) == ([], 1000)
    gone = server.upgraded()
    gone.reset()
    server.await_clients(0)
    notes_of(server)
    assert [line for line in server.log(start).splitlines() if "rror" in line] == []


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_cookies_of_the_upgrade_request_go_out_with_the_handshake(serve: Serve, kind: Kind) -> None:
    server = watched(serve, kind, "generator")
    raw = server.raw()
    response = raw.open("/ws")
    assert response.status == 101
    cookies = response.headers.get_all("Set-Cookie") or []
    assert {cookie.partition("=")[0] for cookie in cookies} == {"session", "seen"}
    assert "Content-Type" not in response.headers and response.headers.get_all("Connection") == ["Upgrade"]
    assert raw.receive()["type"] == "connected"
    raw.close()


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_a_frame_in_the_segment_of_the_handshake_is_answered(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind)
    raw = server.raw()
    ping = make_frame(TEXT, b'{"type": "ping", "ref": "early"}')
    # Not whole: the rest comes once the connection is open.
    raw.send(raw.handshake("/ws") + ping + ping[:5])
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"
    assert raw.receive()["type"] == "pong"
    raw.send(ping[5:] + ping)
    assert [raw.receive()["type"] for _ in range(2)] == ["pong", "pong"]


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_every_message_that_comes_with_the_handshake_is_answered(serve: Serve, kind: Kind) -> None:
    raw = serve(kind=kind).raw()
    refs = ["one", "two", "three"]
    pings = [make_frame(TEXT, b'{"type": "ping", "ref": "%s"}' % ref.encode()) for ref in refs]
    raw.send(raw.handshake("/ws") + b"".join(pings))
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"
    assert [raw.receive().get("ref") for _ in refs] == refs
