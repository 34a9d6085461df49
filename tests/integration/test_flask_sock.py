"""The route of cartows beside other flask-sock routes of the app, and its handler within them."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import (
    BOTH_WAYS,
    EVERYWHERE,
    FLASK,
    FLASK_ATTACHED,
    GTHREAD,
    GTHREAD_ATTACHED,
    GTHREAD_TLS,
    Kind,
    Server,
)
from tests.support.raw_client import CLOSE, PING, PONG, TEXT, Closed, make_frame
from tests.support.waiting import wait_until

# A flask-sock route holds its thread: one thread of a sync worker is too few for it and the remote control. With TLS in the
# worker two threads of simple-websocket use one TLS object at once, which fails now and then by itself.
PLAIN = (GTHREAD, GTHREAD_ATTACHED, FLASK, FLASK_ATTACHED)

# The error that flask-sock by itself causes in gunicorn when a route ends before its client does: simple-websocket's thread
# closes the socket while gunicorn still uses it.
CLOSED_BENEATH = "Bad file descriptor"


def beside(serve: Serve, kind: Kind, **config: object) -> Server:
    return serve("beside", kind=kind, threads=16, config=config)


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_other_flask_sock_routes_keep_their_own_class(serve: Serve, kind: Kind) -> None:
    server = beside(serve, kind)
    client = server.connect()
    # Under `flask run` flask-sock does not always close the connection after the close frame of the client.
    echo = server.connect("/before", close_timeout=1)
    assert echo.hello == {
        "class": "simple_websocket.ws.Server",
        "ping_interval": None,
        "max_message_size": None,
    }
    echo.send("as it came")
    assert echo.frame() == "as it came"
    echo.send(b"\x00bytes")
    assert echo.frame() == b"\x00bytes"
    server.publish("broadcast", "app.refreshed")
    assert client.receive()["type"] == "app.refreshed"
    assert server.client_count() == 1


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_other_flask_sock_routes_close_with_their_own_codes(serve: Serve, kind: Kind) -> None:
    server = beside(serve, kind)
    server.expected_tracebacks.append(CLOSED_BENEATH)
    raw = server.upgraded("/after/by-name", greeted=False)
    assert raw.frame().json["class"] == "simple_websocket.ws.Server"
    assert raw.frame().payload == b"by-name"
    assert raw.frame().closed == Closed(4321, "the app's reason")


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_options_of_flask_sock_do_not_apply_to_cartows(serve: Serve, kind: Kind) -> None:
    server = beside(serve, kind, SOCK_SERVER_OPTIONS={"ping_interval": 25, "max_message_size": 50})
    other = server.connect("/before", close_timeout=1)
    assert (other.hello["ping_interval"], other.hello["max_message_size"]) == (25, 50)
    client = server.connect()
    assert client.ask({"type": "ping", "note": "x" * 1000})["type"] == "pong"


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_the_ping_interval_of_flask_sock_does_not_ping_clients_of_cartows(serve: Serve, kind: Kind) -> None:
    server = beside(serve, kind, SOCK_SERVER_OPTIONS={"ping_interval": 0.2})
    client = server.upgraded()
    other = server.upgraded("/before", greeted=False)
    assert other.frame().opcode == TEXT
    for _ in range(
        3
    ):  # The other client answers, or it would be closed at the second; so would the client of cartows, which does not.
        assert other.frame(pings=True).opcode == PING
        other.send_frame(PONG)
    client.send_json({"type": "ping"})
    pings = 0
    while (frame := client.frame(pings=True)).opcode == PING:
        pings += 1
    assert frame.json["type"] == "pong"
    assert pings <= 1, "one may be of cartows, whose first ping comes at a random time"


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_an_exception_of_another_flask_sock_route_is_unchanged(serve: Serve, kind: Kind) -> None:
    server = beside(serve, kind)
    server.expected_tracebacks += ["the app's own route fails as it always did", CLOSED_BENEATH]
    start = len(server.log())
    with server.upgraded("/raising", greeted=False) as raw:
        raw.send_frame(TEXT, b"now")
        wait_until(lambda: "the app's own route fails as it always did" in server.log(start), "the app's traceback")
    assert server.connect().hello["type"] == "connected"


@pytest.fixture(params=PLAIN, ids=str)
def own(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("own_route", kind=request.param, threads=16)


def test_the_handler_in_a_flask_sock_route_logs_that_it_cannot_serve_tls_of_the_worker(serve: Serve) -> None:
    """simple-websocket's thread uses the TLS object by then, and two threads must not."""
    own = serve("own_route", kind=GTHREAD_TLS, threads=16)
    peer = own.connect("/live", greeted=False)
    messages, closed = peer.ended()
    assert messages == []
    assert closed.code == 1006
    assert any("TLS" in line for line in own.app_log())


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_the_handler_in_a_flask_sock_route_greets_filters_and_answers(serve: Serve, kind: Kind) -> None:
    own = serve("own_route", kind=kind, threads=16)
    everything, board = own.connect("/live"), own.connect("/live?board_id=b1")
    assert everything.hello["data"]["client_id"] != board.hello["data"]["client_id"]
    own.publish("broadcast_task_deleted", "t1", "b1")
    own.publish("broadcast_task_deleted", "t2", "b2")
    received = own.received(everything, board)
    assert [[message["data"]["task_id"] for message in messages] for messages in received] == [["t1", "t2"], ["t1"]]
    assert everything.ask({"type": "ping"})["type"] == "pong"
    assert everything.ask("no json")["data"]["code"] == "INVALID_MESSAGE"
    assert everything.connection.ping().wait(10)
    own.await_clients(2)


def test_the_handler_in_a_flask_sock_route_leaves_no_resources(own: Server) -> None:
    for _ in range(3):
        peer = own.connect("/live")
        own.connect("/echo", greeted=False)
        raw = own.upgraded("/live")
        own.await_clients(2)
        peer.close()
        raw.reset()
        own.await_clients(0)


def test_the_handler_in_a_flask_sock_route_ends_broken_frames(own: Server) -> None:
    for data, code in ((make_frame(TEXT, b"x", masked=False), 1002), (make_frame(TEXT, b"\xff"), 1007)):
        raw = own.upgraded("/live")
        raw.send(data)
        assert raw.ended()[1].code == code


def test_the_handler_in_a_flask_sock_route_answers_a_close_frame_that_arrived_before_it(own: Server) -> None:
    for _ in range(10):
        raw = own.upgraded("/live", greeted=False)
        raw.send_frame(CLOSE, b"\x0f\xa0early")
        assert raw.ended()[1] == (4000, "early")
    own.await_clients(0)


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_the_handler_in_a_flask_sock_route_answers_a_close_frame_that_arrives_while_hooks_run(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind, threads=16)
    with server.raw() as raw:
        assert raw.open("/own?gate=door").status == 101
        raw.send_frame(CLOSE, b"\x0f\xa0early")
        server.post("/gates/door", None)
        assert raw.ended()[1] == (4000, "early")
    server.await_clients(0)


def test_the_handler_in_a_flask_sock_route_sends_large_events(own: Server) -> None:
    plain, compressed = own.connect("/live", compression=None), own.connect("/live")
    own.flood(20, 20_000)
    for messages in own.received(plain, compressed):
        assert [message["data"]["task"]["number"] for message in messages] == list(range(20))


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_refusal_in_a_flask_sock_route_comes_after_the_upgrade(serve: Serve, kind: Kind) -> None:
    """It is too late for an HTTP answer: the close code has to refuse, and is final."""
    own = serve("own_route", kind=kind, threads=16)
    good = own.connect("/picky", origin="https://good.example")
    own.publish("broadcast", "app.refreshed")
    assert good.receive()["type"] == "app.refreshed"
    raw = own.upgraded("/picky", {"Origin": "https://evil.example"}, greeted=False)
    while (frame := raw.frame()).opcode != CLOSE:
        assert frame.json["type"] == "disconnect"
    assert frame.closed.code == 3507
    own.await_clients(1)


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_a_raw_protocol_answers_strings_and_bytes(serve: Serve, kind: Kind) -> None:
    server = serve("raw_protocol", kind=kind)
    peer = server.connect(greeted=False)
    for sent, answer in (
        ("text é", "TEXT É"),
        (b"bytes", b"BYTES"),
        ("", ""),
        (b"", b""),
        ("x" * 100_000, "X" * 100_000),
    ):
        peer.send(sent)
        assert peer.frame() == answer


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_a_raw_protocol_receives_events_and_may_close(serve: Serve, kind: Kind) -> None:
    server = serve("raw_protocol", kind=kind)
    peer = server.connect(greeted=False)
    server.await_clients(1)
    server.publish("broadcast", "app.refreshed")
    assert peer.receive()["type"] == "app.refreshed"
    peer.send("leave")
    assert peer.ended()[1] == Closed(4001, "as requested")


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_a_handler_that_raises_affects_no_other_client(serve: Serve, kind: Kind) -> None:
    server = serve("raw_protocol", kind=kind)
    server.expected_tracebacks.append("the app's handler fails")
    other, peer = server.connect(greeted=False), server.connect(greeted=False)
    server.await_clients(2)
    start = len(server.log())
    peer.send("raise")
    other.send("still here")
    assert other.frame() == "STILL HERE"
    peer.close()
    server.await_clients(1)
    server.publish("broadcast", "app.refreshed")
    assert other.receive()["type"] == "app.refreshed"
    assert "the app's handler fails" in server.log(start)
