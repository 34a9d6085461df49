"""The app's own functions: they have a context, run on the client's reader thread, and cannot break a connection."""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import read_until, subscribe
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_TLS, SYNC, Kind, Server
from tests.support.raw_client import CLOSE, PING, PONG, TEXT, Frame, Json, RawClient, make_frame
from tests.support.waiting import wait_until


@pytest.fixture(params=(*BOTH_WAYS, GTHREAD_TLS, SYNC, FLASK), ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("hooks", kind=request.param)


def records(server: Server, client: str, hook: str = "") -> list[Json]:
    """Return what the hooks have recorded of a client."""
    found = server.get("/records").json["records"]
    return [record for record in found if record["client"] == client and hook in ("", record["hook"])]


def await_end(server: Server, client: str) -> Json:
    """Wait for the record of a client's end, which must be the only one, and return it."""
    wait_until(lambda: records(server, client, "disconnect"), "on_disconnect")
    server.received()
    (record,) = records(server, client, "disconnect")
    return record


def check_error(message: Json, code: str) -> None:
    assert message["type"] == "error", message
    assert (message["data"]["code"], bool(message["error"])) == (code, True), message


def open_gate(server: Server, name: str) -> None:
    assert server.post(f"/gates/{name}", None).status == 204


def test_every_hook_has_a_context_of_its_own_on_the_readers_thread(server: Server) -> None:
    peer = server.connect("/ws?as=ann")
    here = [peer.ask({"type": "where", "data": None}) for _ in range(3)]
    assert {message["type"] for message in here} == {"here"}
    assert {(message["data"]["kind"], message["data"]["type"]) for message in here} == {("Message", "where")}
    peer.close()
    assert await_end(server, peer.id)["registered"] is False
    found = records(server, peer.id)
    assert [record["hook"] for record in found] == ["connect", "where", "where", "where", "disconnect"]
    assert {record["app"] for record in found} == {"hooks"}
    assert {(record["leftover"], record["request"]) for record in found} == {(None, False)}
    threads = {record["thread"] for record in found}
    assert len(threads) == 1
    if not server.plan.kind.attached:
        assert threads.pop().startswith("cartows-reader")
    # each of these contexts has been torn down
    wait_until(
        lambda: (counts := server.get("/records").json)["begun"] == counts["ended"],
        lambda: f"contexts to end: {server.get('/records').json['begun']}",
    )


def test_on_connect_runs_before_registration_and_has_the_identity(server: Server) -> None:
    cookie = server.post("/login/ann", None).headers["Set-Cookie"].partition(";")[0]
    peer = server.connect("/ws?tag=here&as=overruled&board_id=b1", additional_headers={"Cookie": cookie})
    (record,) = records(server, peer.id)
    assert (record["user"], record["tag"], record["path"], record["registered"]) == ("ann", "here", "/ws", False)
    subscribe(peer, board_id="b2")
    assert records(server, peer.id, "connect") == [record]
    assert server.post("/send-to", {"identity": "ann", "type": "hello"}).json == {"sent": 1}
    assert peer.receive()["type"] == "hello"


def test_an_unknown_identity_is_answered_401(server: Server) -> None:
    for name in ("stranger", "false"):
        response = server.raw().open(f"/ws?as={name}")
        assert (response.status, response.json["code"], bool(response.json["message"])) == (401, "UNAUTHORIZED", True)
    server.expected_tracebacks.append("the app's authenticate fails")
    start = len(server.log())
    assert server.raw().open("/ws?as=raising").status == 500
    assert "the app's authenticate fails" in server.log(start)
    assert server.connect("/ws?as=ann").ask({"type": "ping"})["type"] == "pong"


@pytest.mark.parametrize("path", ["/own", "/by-hand"])
@pytest.mark.parametrize("query, code", [("as=stranger", 3500), ("as=raising", 1011), ("board_id=closed", 3507)])
def test_an_own_route_refuses_by_close_code(serve: Serve, path: str, query: str, code: int) -> None:
    server = serve("hooks", kind=GTHREAD)
    server.expected_tracebacks.append("the app's authenticate fails")
    server.post("/rules", {"deny": [["board_id", "closed"]]})
    raw = server.raw()
    assert raw.open(f"{path}?{query}").status == 101
    frames, closed = raw.ended()
    assert (frames, closed.code) == ([], code)


@pytest.mark.parametrize("path", ["/own", "/by-hand"])
def test_an_own_route_has_the_hooks_of_the_extension(serve: Serve, path: str) -> None:
    server = serve("hooks", kind=GTHREAD)
    peer = server.connect(f"{path}?as=ann&tag=own")
    assert peer.ask({"type": "where", "data": None})["type"] == "here"
    peer.close()
    await_end(server, peer.id)
    assert [record["hook"] for record in records(server, peer.id)] == ["connect", "where", "disconnect"]


@pytest.mark.parametrize(("answer", "code"), [("false", 3507), ("4005", 4005), ("3500", 3500), ("1008", 1008)])
def test_on_connect_may_refuse(server: Server, answer: str, code: int) -> None:
    watcher = server.connect()
    raw = server.raw()
    assert raw.open(f"/ws?answer={answer}").status == 101
    server.publish("broadcast", "app.refreshed")
    frames, closed = raw.ended()
    assert closed.code == code
    # at most a `disconnect` message: no greeting, no event
    assert [frame.json["type"] for frame in frames if frame.json["type"] != "disconnect"] == []
    assert server.client_count() == 1
    assert [message["type"] for message in server.received(watcher)[0]] == ["app.refreshed"]


@pytest.mark.parametrize("answer", ["true", "text"])
def test_any_other_result_of_on_connect_admits(serve: Serve, answer: str) -> None:
    peer = serve("hooks").connect(f"/ws?answer={answer}")
    assert peer.ask({"type": "ping"})["type"] == "pong"


@pytest.mark.parametrize("answer", ["70000", "1005", "1006", "7"])
def test_an_invalid_close_code_still_refuses(serve: Serve, answer: str) -> None:
    server = serve("hooks")
    server.expected_tracebacks.append("close code")
    raw = server.raw()
    assert raw.open(f"/ws?answer={answer}").status == 101
    _, closed = raw.ended()
    assert 1000 <= closed.code <= 4999
    server.await_clients(0)


def test_an_on_connect_that_raises_is_logged_and_admits(server: Server) -> None:
    server.expected_tracebacks.append("the app's on_connect fails")
    start = len(server.log())
    peer = server.connect("/ws?answer=raise", greeted=False)
    first, second = peer.receive(), peer.receive()
    hello, error = (first, second) if first["type"] == "connected" else (second, first)
    assert hello["type"] == "connected"
    check_error(error, "INTERNAL")
    assert "the app's on_connect fails" in server.log(start)
    assert peer.ask({"type": "echo", "data": 1})["data"] == 1


def test_a_slow_on_connect_delays_no_other_client(serve: Serve) -> None:
    server = serve("hooks", kind=GTHREAD)
    watcher = server.connect()
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(server.connect, "/ws?gate=slow&tag=slow")
        wait_until(lambda: "slow" in {record.get("tag") for record in server.get("/records").json["records"]}, "on_connect")
        server.publish("broadcast", "app.refreshed", {"n": 1})
        event = watcher.receive()
        assert event["data"] == {"n": 1}
        open_gate(server, "slow")
        peer = connecting.result()
    assert peer.hello["id"] == event["id"]
    server.publish("broadcast", "app.refreshed", {"n": 2})
    assert peer.receive()["data"] == {"n": 2}


@pytest.mark.parametrize("data", [None, 0, "é☃", [1, [2, {}]], {"deep": {"er": [None, True, 1.5]}}, "x" * 100_000])
def test_a_handler_gets_what_was_sent(serve: Serve, data: Any) -> None:
    peer = serve("hooks").connect()
    answer = peer.ask({"type": "echo", "data": data})
    assert (answer["type"], answer.get("data")) == ("echoed", data)


def test_a_handler_may_broadcast(server: Server) -> None:
    ann, bob = server.connect("/ws?as=ann"), server.connect()
    for text in ("one", "two"):
        ann.send({"type": "say", "data": {"text": text}})
    assert [[peer.receive()["data"] for _ in range(2)] for peer in (ann, bob)] == [
        [{"text": "one", "by": "ann"}, {"text": "two", "by": "ann"}]
    ] * 2


def test_a_handler_that_raises_is_answered_and_the_connection_lives_on(server: Server) -> None:
    server.expected_tracebacks.append("the app's handler fails")
    server.expected_tracebacks.append("TypeError")
    start = len(server.log())
    peer = server.connect()
    for message in ({"type": "fail"}, {"type": "say", "data": None}, {"type": "fail", "data": {}}):
        check_error(peer.ask(message), "INTERNAL")
    assert server.log(start).count("RuntimeError: the app's handler fails") == 2
    assert peer.ask({"type": "echo", "data": 1})["data"] == 1
    assert records(server, peer.id, "fail")[1]["leftover"] is None


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_handler_that_raises_system_exit_ends_its_own_connection_with_a_close_frame(serve: Serve, kind: Kind) -> None:
    server = serve("hooks", kind=kind)
    server.expected_tracebacks.append("SystemExit")
    start = len(server.log())
    other, peer = server.connect(), server.connect()
    peer.send({"type": "exit"})
    assert peer.ended()[1].code == 1011
    with server.raw() as refused:
        assert refused.open("/ws?answer=exit").status == 101
        assert refused.ended()[1].code == 1011
    assert server.log(start).count("SystemExit: the app's") == 2
    assert other.ask({"type": "echo", "data": 1})["data"] == 1


def test_types_without_a_handler_are_unknown(server: Server) -> None:
    peer = server.connect()
    for kind in ("no.such.type", "Echo", "echo ", "__class__", "connect", "task.created", "presence.state"):
        check_error(peer.ask({"type": kind}), "UNKNOWN_TYPE")
    assert sorted(server.get("/records").json["refused"]) == ["auth.refresh", "ping", "pong", "subscribe", "unsubscribe"]


def test_an_async_handler_crashes_nothing(serve: Serve) -> None:
    """It works where Flask can run it (``flask[async]``); else the client gets an error."""
    server = serve("hooks")
    server.expected_tracebacks.append("asgiref")
    server.expected_tracebacks.append("async")
    peer = server.connect()
    answer = peer.ask({"type": "later"})
    assert answer["type"] == "done later" or answer["data"]["code"] in {"INTERNAL", "UNKNOWN_TYPE"}, answer
    assert peer.ask({"type": "ping"})["type"] == "pong"


# Slow handlers --------------------------------------------------------------------------------------------------------


def test_a_slow_handler_delays_only_its_own_clients_next_message(server: Server) -> None:
    slow, other = server.connect(), server.connect()
    gate = f"delay-{slow.id}"
    slow.send({"type": "wait", "data": {"gate": gate}})
    slow.send({"type": "echo", "data": "after"})
    wait_until(lambda: records(server, slow.id, "wait"), "the handler")
    assert other.ask({"type": "echo", "data": 1})["data"] == 1
    server.publish("broadcast", "app.refreshed")
    assert [peer.receive()["type"] for peer in (slow, other)] == ["app.refreshed"] * 2
    open_gate(server, gate)
    assert [slow.receive().get("data", "waited") for _ in range(2)] == ["waited", "after"]


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_the_pong_deadline_is_suspended_while_a_handler_runs(serve: Serve, kind: Kind) -> None:
    server = serve("hooks", kind=kind, config={"CARTOWS_PONG_WAIT": 0.6, "CARTOWS_PING_PERIOD": 0.2})
    raw = server.raw()
    assert raw.open("/ws").status == 101
    client = raw.receive()["data"]["client_id"]
    raw.send_json({"type": "wait", "data": {"gate": f"pongs-{client}"}})
    pings = 0
    while pings < 5:  # 0.2 s apart
        frame = raw.frame(pings=True)
        assert frame.opcode == PING, frame
        raw.send_frame(PONG, frame.payload)
        pings += 1
    open_gate(server, f"pongs-{client}")
    assert raw.receive()["type"] == "waited"


# Sending to one -------------------------------------------------------------------------------------------------------


def send_to(server: Server, **what: Any) -> int:
    return int(server.post("/send-to", what).json["sent"])


def test_send_to_reaches_a_client_or_all_tabs_of_an_identity(server: Server) -> None:
    tabs: list[Peer] = [server.connect("/ws?as=ann") for _ in range(3)]
    bob, numbered, anonymous = server.connect("/ws?as=bob&board_id=b1"), server.connect("/ws?number=7"), server.connect()
    assert send_to(server, identity="ann", type="hello", data={"n": 1}) == 3
    assert send_to(server, client_id=tabs[1].id, type="hello", data={"n": 2}) == 1
    assert send_to(server, identity="bob", text="just text ☃") == 1
    assert send_to(server, client_id=bob.id, bytes="bytes") == 1
    assert send_to(server, identity=7, type="hello", data={"n": 3}) == 1
    assert send_to(server, client_id=anonymous.id, type="hello") == 1
    assert send_to(server, identity="carl", type="hello") == 0
    assert [tab.receive()["data"] for tab in tabs] == [{"n": 1}] * 3
    assert tabs[1].receive()["data"] == {"n": 2}
    assert (bob.frame(), bob.frame()) == ("just text ☃", b"bytes")
    assert numbered.receive()["data"] == {"n": 3}
    assert anonymous.receive()["type"] == "hello"
    assert server.received(*tabs, bob, numbered, anonymous) == [[]] * 6
    tabs[0].close()
    server.await_clients(5)
    assert send_to(server, identity="ann", type="hello") == 2


# Disconnecting --------------------------------------------------------------------------------------------------------


def close_with(payload: bytes) -> Any:
    return lambda raw: raw.send_frame(CLOSE, payload)


ENDINGS: dict[str, tuple[Any, set[int]]] = {
    "close 1000": (close_with(b"\x03\xe8so long"), {1000}),
    "close 4321": (close_with((4321).to_bytes(2, "big")), {4321}),
    "close without code": (close_with(b""), {1000, 1005}),
    "RST": (lambda raw: raw.reset(), {1006}),
    "FIN": (lambda raw: raw.finish(), {1006}),
    "the app's close": (lambda raw: raw.send_json({"type": "leave", "data": {"code": 4001}}), {4001}),
    "a protocol error": (lambda raw: raw.send(make_frame(3)), {1002}),
    "too large": (lambda raw: raw.send_frame(TEXT, b"x" * 600_000), {1009}),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_on_disconnect_is_called_once_however_the_connection_ends(serve: Serve, kind: Kind, ending: str) -> None:
    server = serve("hooks", kind=kind)
    end, codes = ENDINGS[ending]
    raw = server.raw()
    assert raw.open("/ws?as=ann").status == 101
    client = raw.receive()["data"]["client_id"]
    end(raw)
    if ending != "RST":
        raw.ended()
    record = await_end(server, client)
    assert record["code"] in codes
    assert (record["identity"], record["leftover"]) == ("ann", None)
    if ending == "the app's close":
        assert record["reason"] == "as requested"
    if ending == "close 1000":
        assert record["reason"] in ("so long", "")


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_on_disconnect_is_called_for_silent_and_for_slow_clients(serve: Serve, kind: Kind) -> None:
    config = {"CARTOWS_PONG_WAIT": 0.6, "CARTOWS_PING_PERIOD": 0.2, "CARTOWS_WRITE_WAIT": 0.3, "CARTOWS_SEND_QUEUE_SIZE": 20}
    server = serve("hooks", kind=kind, config={**config, "CARTOWS_WRITE_BUFFER": 8192})
    silent = server.raw()
    assert silent.open("/ws?board_id=none").status == 101
    client = silent.receive()["data"]["client_id"]
    assert await_end(server, client)["code"] == 3012
    slow: RawClient = server.raw(receive_buffer=4096)
    assert slow.open("/ws").status == 101
    client = slow.receive()["data"]["client_id"]
    while not records(server, client, "disconnect"):
        server.flood(10, 5000)
    assert await_end(server, client)["code"] in (3008, 3012)


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_on_disconnect_is_called_when_the_server_stops(serve: Serve, kind: Kind) -> None:
    server = serve("hooks", kind=kind, fresh=True)
    peers = [server.connect("/ws?as=ann") for _ in range(3)]
    server.signal(signal.SIGTERM)
    for peer in peers:
        assert peer.ended()[1].code == 1012
        peer.close()
    server.await_exit()
    for peer in peers:
        assert server.log().count(f"gone: {peer.id} 1012") == 1


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_restart_prints_no_traceback_where_on_disconnect_broadcasts(serve: Serve, kind: Kind) -> None:
    server = serve("hooks", kind=kind, fresh=True)
    peers = [server.connect("/ws?as=announced") for _ in range(3)]
    server.signal(signal.SIGTERM)
    for peer in peers:
        assert peer.ended()[1].code == 1012
        peer.close()
    server.await_exit()
    for peer in peers:
        assert f"announced the end of {peer.id}: " in server.log()
    # Attached clients are closed before the hub is shut down, so their broadcasts are still accepted.
    ends = re.findall(r"announced the end of \w+: The hub was shut down", server.log())
    assert kind.attached or len(ends) == 3
    assert "Traceback" not in server.log()


def test_an_on_disconnect_that_raises_is_only_logged(server: Server) -> None:
    server.expected_tracebacks.append("the app's on_disconnect fails")
    start = len(server.log())
    peer, other = server.connect("/ws?as=raise-at-end"), server.connect()
    peer.close()
    await_end(server, peer.id)
    wait_until(lambda: "the app's on_disconnect fails" in server.log(start), "the log")
    server.await_clients(1)
    other.send({"type": "echo", "data": 1})
    assert read_until(other, "echoed")[-1]["data"] == 1


def test_hooks_do_not_change_the_protocol(server: Server) -> None:
    """Pings, errors and events work as before beside the app's handlers."""
    peer = server.connect("/ws?board_id=b1")
    assert peer.ask({"type": "ping"})["type"] == "pong"
    check_error(peer.ask("no json"), "INVALID_MESSAGE")
    assert server.flood(3) == 3
    assert [peer.receive()["data"]["task"]["number"] for _ in range(3)] == [0, 1, 2]
    raw = server.upgraded()
    raw.send(b"".join(make_frame(TEXT, json.dumps({"type": "echo", "data": n}).encode()) for n in range(50)))
    assert [message["data"] for message in (raw.receive() for _ in range(50))] == list(range(50))
    raw.send_frame(PING, b"?")
    assert raw.frame() == Frame(PONG, b"?")
    raw.send_json({"type": "leave", "data": {"code": 4000}})
    assert raw.ended()[1].code == 4000
