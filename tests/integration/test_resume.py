"""Resume: after a broken connection every missed event is replayed, once and in order, or `recovered` is false."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.event_helpers import (
    EVENTS,
    EVERYTHING,
    BackgroundPublisher,
    ask,
    check_not_recovered,
    labels,
    latest_id,
    position,
    read_until,
    received_labels,
    resume,
    since,
    subscribe,
)
from tests.support.harness import BOTH_WAYS, EVERYWHERE, FLASK, GTHREAD, HOST, Kind, Server
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_events_missed_while_away_are_replayed_once_and_in_order(server: Server, ending: str) -> None:
    watcher, raw = server.connect(max_queue=None), server.upgraded()
    server.call(*EVENTS)
    seen = [raw.receive() for _ in EVERYTHING]
    assert labels(seen) == EVERYTHING
    raw.reset() if ending == "reset" else raw.close()
    server.await_clients(1)
    assert server.flood(5, 3000) == 5
    server.call(*EVENTS)
    peer, missed = resume(server, position(seen))
    server.call(*EVENTS)
    live, everything = server.received(peer, watcher)
    assert labels(live) == EVERYTHING
    assert [*seen, *missed, *live] == everything


def test_a_client_that_missed_nothing_is_recovered_without_a_replay(server: Server) -> None:
    peer = server.connect()
    assert "recovered" not in peer.hello["data"] and "replayed" not in peer.hello["data"]
    server.publish("broadcast", "app.refreshed")
    id = position([peer.receive()])
    for _ in range(3):
        peer.close()
        peer, missed = resume(server, id)
        assert missed == []
        assert peer.hello["id"] == id
    assert received_labels(server, peer) == [EVERYTHING]


@pytest.mark.parametrize(
    "filters",
    [{}, {"board_id": "b1"}, {"project_id": "p1"}, {"project_id": "p2", "board_id": "b1"}, {"board_id": "unknown"}],
    ids=lambda filters: "+".join(f"{key}={value}" for key, value in filters.items()) or "everything",
)
def test_a_replay_holds_what_the_client_would_have_received(serve: Serve, filters: dict[str, str]) -> None:
    server = serve(kind=GTHREAD)
    start = latest_id(server)
    live = server.connect(since(start, **filters), max_queue=None)
    for _ in range(3):
        server.call(*EVENTS)
    (expected,) = server.received(live)
    peer, missed = resume(server, start, **filters)
    assert [message for message in missed if message["type"] != "fence"] == expected
    assert server.received(peer) == [[]]


def test_an_own_route_resumes_and_has_rooms_too(serve: Serve) -> None:
    server = serve("own_route")
    peer = server.connect("/live?board_id=b1")
    (begun,) = ask(peer, "subscribe", {"board_id": "b2"})
    peer.close()
    server.call(*EVENTS)
    back = server.connect(since(begun["id"], board_id="b1").replace("/ws", "/live"))
    assert back.hello["data"]["recovered"] is True
    assert labels(server.received(back)[0]) == ["t1", "comment.added", "notice", "whisper", "app.refreshed"]


# What cannot be recovered ---------------------------------------------------------------------------------------------


def test_the_history_is_bounded_by_count(serve: Serve) -> None:
    server = serve(config={"CARTOWS_HISTORY_SIZE": 10})
    watcher = server.connect()
    server.flood(12)
    ids = [watcher.receive()["id"] for _ in range(12)]
    assert [message["id"] for message in resume(server, ids[1])[1]] == ids[2:]
    peer = server.connect(since(ids[0]))
    check_not_recovered(peer.hello)
    assert peer.hello["id"] == ids[-1]
    assert received_labels(server, peer) == [EVERYTHING]


def test_the_history_is_bounded_by_bytes(serve: Serve) -> None:
    server = serve(config={"CARTOWS_HISTORY_BYTES": 20_000})
    watcher = server.connect()
    server.flood(40, 1000)
    ids = [watcher.receive()["id"] for _ in range(40)]
    assert len(resume(server, ids[-11])[1]) == 10
    check_not_recovered(server.connect(since(ids[-21])).hello)
    check_not_recovered(server.connect(since(ids[0])).hello)


def test_the_history_is_bounded_by_age(serve: Serve) -> None:
    server = serve(config={"CARTOWS_HISTORY_TTL": 0.5})
    old, end = latest_id(server), latest_id(server)

    def is_expired() -> bool:
        with RawClient(HOST, server.port) as raw:
            assert raw.open(since(old)).status == 101
            return raw.receive()["data"]["recovered"] is False

    wait_until(is_expired, "the event to expire")
    peer, missed = resume(server, end)
    assert missed == [], "nothing was published since"
    assert received_labels(server, peer) == [EVERYTHING]


def test_ids_of_another_run_of_the_server_are_not_recovered(serve: Serve) -> None:
    first, second = serve(kind=FLASK), serve(kind=GTHREAD)
    id = latest_id(first)
    for _ in range(3):
        latest_id(second)
    peer = second.connect(since(id))
    check_not_recovered(peer.hello)
    assert received_labels(second, peer) == [EVERYTHING]
    resume(second, str(peer.hello["id"]))


def malformed(id: str) -> list[str]:
    epoch, _, count = id.rpartition(".")
    numbers = [
        "",
        "-1",
        f"-{count}",
        "-0",
        "+1",
        " 1",
        "1 ",
        "1_0",
        "٣",
        "१",
        "1e1",
        "1.0",
        "0x1",
        "NaN",
        "null",
        "1\x00",
        "\n1",
    ]
    return [
        "",
        ".",
        "..",
        "no-dot",
        count,
        f".{count}",
        f"{epoch}",
        f"{epoch}{count}",
        f"{epoch} .{count}",
        f"{epoch}.{int(count) + 1}",
        f"{epoch}.{10**17}",
        f"{epoch}.{2**63}",
        f"{epoch}.{2**64}",
        f"{epoch}.{'9' * 3000}",
        f"{epoch.upper()}x.{count}",
        f"\x00{id}",
        f"{id}\x00",
        "x" * 3000,
        "%",
        "☃.1",
        "00000000.1",
        "undefined",
        '{"id":1}',
        *[f"{epoch}.{each}" for each in numbers],
    ]


def test_malformed_ids_are_not_recovered_and_the_connection_works(server: Server) -> None:
    latest_id(server)
    id = latest_id(server)
    for bad in malformed(id):
        with RawClient(HOST, server.port, server.tls.client if server.tls else None) as raw:
            assert raw.open(since(bad)).status == 101, bad
            hello = raw.receive()
            try:
                check_not_recovered(hello)
                assert hello["id"] == id
            except (AssertionError, KeyError) as error:
                raise AssertionError(f"since={bad!r} was answered {hello}") from error
            raw.send_json({"type": "ping"})
            assert raw.receive()["type"] == "pong"


def test_malformed_ids_in_a_subscribe_are_not_recovered_and_the_room_is_subscribed(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    server.publish("broadcast_message", {"$message": ["notice"]})
    for bad in [*malformed(position([peer.receive()])), "x" * 10_000]:
        data = subscribe(peer, board_id="b1", since=bad)
        assert (data["board_id"], data["recovered"], data.get("replayed", 0)) == (["b1"], False, 0), bad
    for wrong in (7, True, [], {}, ["x.1"]):
        data = subscribe(peer, board_id="b1", since=wrong)
        assert data.get("code") == "INVALID_MESSAGE" or data.get("recovered") is False, (wrong, data)
    assert received_labels(server, peer)[0][0] == "t1"


# The position ---------------------------------------------------------------------------------------------------------


def test_the_position_keeps_a_quiet_client_resumable(serve: Serve) -> None:
    """With a history of eight, a client with only the id of its last event would have to reload."""
    server = serve(config={"CARTOWS_HISTORY_SIZE": 8})
    peer = server.connect("/ws?board_id=quiet")
    ask_for: dict[str, Any] = {
        "pong": lambda: peer.ask({"type": "ping"}),
        "subscribed": lambda: ask(peer, "subscribe", {"board_id": "b9"})[-1],
        "unsubscribed": lambda: ask(peer, "unsubscribe", {"board_id": "b9"})[-1],
        "connected": lambda: server.connect("/ws?board_id=quiet").hello,
    }
    for kind, ask_now in ask_for.items():
        id = latest_id(server)
        for _ in range(9):
            id = latest_id(server)
        answer = ask_now()
        assert (answer["type"], answer["id"]) == (kind, id)
        server.publish("broadcast_task_deleted", "missed", "quiet")
        peer.receive()
        _, missed = resume(server, answer["id"], board_id="quiet")
        assert labels(missed) == ["missed"]


@pytest.mark.parametrize("config", [{}, {"SWITCH_INTERVAL": 1e-6}], ids=["", "switching"])
@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_the_id_of_any_last_message_is_a_position_to_resume_from(serve: Serve, kind: Kind, config: dict[str, Any]) -> None:
    """A client that pings and changes its rooms while events flow resumes from any id it saw, without gap or repeat."""
    server = serve(kind=kind, config={**config, "CARTOWS_HISTORY_SIZE": 20_000})
    peer = server.connect("/ws?board_id=b1", max_queue=None)
    watcher = server.connect("/ws?board_id=b1", max_queue=None)
    seen = [peer.hello]
    with BackgroundPublisher(lambda: server.flood(5)):
        for _ in range(15):
            peer.send({"type": "ping"})
            seen += read_until(peer, "pong")
            seen += ask(peer, "subscribe", {"board_id": "b2"})
            seen += ask(peer, "unsubscribe", {"board_id": "b2"})
    server.publish("broadcast_message", {"$message": ["end"]})
    everything = read_until(watcher, "end")
    for cut in range(0, len(seen), len(seen) // 20):
        before = [message for message in seen[: cut + 1] if message["type"] == "task.created"]
        with server.upgraded(since(position(seen[: cut + 1]), board_id="b1")) as raw:
            after = read_until(raw, "end")
        assert [*before, *after] == everything, seen[cut]
