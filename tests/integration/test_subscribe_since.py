"""Replays of single rooms: `subscribe` with `since` on a socket that already receives events."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import (
    EVENTS,
    BackgroundPublisher,
    ask,
    labels,
    number,
    position,
    read_until,
    received_labels,
    since,
    unsubscribe,
)
from tests.support.harness import BOTH_WAYS, GTHREAD, Kind, Server
from tests.support.raw_client import Json

LONG = {"CARTOWS_HISTORY_SIZE": 20_000}
B2 = ["t2", "comment.added", "notice", "app.refreshed"]
#: Messages for every client belong to no room: whether a room's replay holds them is left open.
FOR_ALL = {"notice", "app.refreshed", "fence"}


@pytest.fixture(params=BOTH_WAYS, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param, config=LONG)


def now(peer: Peer) -> str:
    """Return the position."""
    return str(peer.ask({"type": "ping"})["id"])


def subscribe_since(peer: Peer, id: str, **rooms: object) -> tuple[list[Json], Json]:
    """Return what is replayed, and the answer."""
    *replayed, answer = ask(peer, "subscribe", {**rooms, "since": id})
    assert answer["type"] == "subscribed", answer
    data = answer["data"]
    assert data["recovered"] is True, answer
    assert data["replayed"] == len(replayed)
    return replayed, answer


def test_subscribing_with_since_replays_the_rooms_events(server: Server) -> None:
    """The usual case: a page loads a board over HTTP, and subscribes to its events from then on."""
    start = now(server.connect())
    server.call(*EVENTS)
    server.received()
    peer = server.connect("/ws?board_id=elsewhere")
    replayed, answer = subscribe_since(peer, start, board_id="b2", project_id="p2")
    assert [label for label in labels(replayed) if label not in FOR_ALL] == ["t2", "p2", "comment.added"]
    assert answer["data"] == {
        "board_id": ["elsewhere", "b2"],
        "project_id": ["p2"],
        "recovered": True,
        "replayed": len(replayed),
    }
    assert number(answer) >= max(map(number, replayed))
    assert received_labels(server, peer) == [["t2", "p2", "comment.added", "notice", "app.refreshed"]]


def test_the_replay_of_a_room_without_events_is_empty(server: Server) -> None:
    peer = server.connect()
    replayed, answer = subscribe_since(peer, now(peer), board_id="b2")
    assert (replayed, answer["id"]) == ([], now(peer))
    assert received_labels(server, peer) == [B2]


def test_what_a_filter_delivered_before_is_not_replayed(server: Server) -> None:
    peer = server.connect("/ws?board_id=b1")
    start = now(peer)
    assert received_labels(server, peer) == [["t1", "comment.added", "notice", "whisper", "app.refreshed"]]
    replayed, answer = subscribe_since(peer, start, board_id=["b1", "b2"], project_id="p1")
    assert labels(replayed) == ["t2", "b3"]
    assert number(answer) > max(map(number, replayed))
    assert received_labels(server, peer) == [["t1", "t2", "b3", "comment.added", "notice", "whisper", "app.refreshed"]]


def test_a_client_that_received_everything_gets_no_replay(server: Server) -> None:
    peer = server.connect()
    start = now(peer)
    received_labels(server, peer)
    assert subscribe_since(peer, start, board_id="b2")[0] == []
    assert received_labels(server, peer) == [B2]


def test_what_was_published_before_the_connection_is_replayed(server: Server) -> None:
    """Receiving everything from then on does not count as having received it."""
    start = now(server.connect())
    server.call(*EVENTS)
    server.received()
    peer = server.connect()
    assert received_labels(server, peer)[0]
    replayed, _ = subscribe_since(peer, start, board_id="b2")
    assert [label for label in labels(replayed) if label not in FOR_ALL] == ["t2", "comment.added"]


def test_what_a_resume_replayed_is_not_replayed_again(server: Server) -> None:
    start = now(server.connect())
    server.call(*EVENTS)
    server.received()
    peer = server.connect(since(start, board_id="b1"))
    assert labels(peer.receive() for _ in range(peer.hello["data"]["replayed"])) == [
        "t1",
        "comment.added",
        "notice",
        "whisper",
        "app.refreshed",
        "fence",
    ]
    assert labels(subscribe_since(peer, start, board_id="b2")[0]) == ["t2"]


def test_subscribing_again_with_since_replays_what_was_missed(server: Server) -> None:
    peer = server.connect("/ws?board_id=b1&board_id=elsewhere")
    start = now(peer)
    received_labels(server, peer)
    unsubscribe(peer, board_id="b1")
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]
    replayed, _ = subscribe_since(peer, start, board_id="b1")
    assert labels(replayed) == ["t1", "comment.added", "whisper"]
    assert subscribe_since(peer, start, board_id="b1")[0] == []


def test_an_expired_replay_is_reported_and_the_room_is_subscribed(serve: Serve) -> None:
    server = serve(config={"CARTOWS_HISTORY_SIZE": 5})
    peer = server.connect("/ws?board_id=b1")
    start = now(peer)
    received_labels(server, peer)
    (answer,) = ask(peer, "subscribe", {"board_id": "b2", "since": start})
    assert answer["data"] == {"board_id": ["b1", "b2"], "recovered": False, "replayed": 0} or answer["data"] == {
        "board_id": ["b1", "b2"],
        "recovered": False,
    }
    assert received_labels(server, peer) == [["t1", "t2", "comment.added", "notice", "whisper", "app.refreshed"]]


def test_a_refused_subscribe_replays_nothing(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?board_id=b1")
    start = now(peer)
    server.call(*EVENTS)
    server.received(peer)
    (answer,) = ask(peer, "subscribe", {"board_id": "b2", "colour": "red", "since": start})
    assert answer["type"] == "error"
    assert received_labels(server, peer) == [["t1", "comment.added", "notice", "whisper", "app.refreshed"]]


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_long_room_replay_amid_live_events_of_both_rooms(serve: Serve, kind: Kind) -> None:
    """Each event once, each room in order; and a client that resumes from an id after `subscribed` has no gap."""
    server = serve(kind=kind, config=LONG)
    watcher, peer = server.connect(max_queue=None), server.connect("/ws?board_id=b1", max_queue=None)
    found = [peer.hello]
    start = now(peer)

    def publish() -> None:
        server.flood(10, board="b1")
        server.flood(10, board="b2")
        server.publish("broadcast", "both", filters={"board_id": ["b1", "b2"]})

    for _ in range(40):
        publish()
        found += read_until(peer, "both")
    with BackgroundPublisher(publish):
        for board in ("b2", "b3"):
            found += ask(peer, "subscribe", {"board_id": board, "since": start})
            assert found[-1]["data"]["recovered"] is True
            # until it is live again
            found += [peer.receive() for _ in range(20)]
    server.publish("broadcast_message", {"$message": ["end"]})
    everything = read_until(watcher, "end")
    found += read_until(peer, "end")
    answers = [index for index, message in enumerate(found) if message["type"] == "subscribed"]
    events = [message for message in found[1:] if message["type"] != "subscribed"]
    assert sorted(events, key=number) == everything
    for board in ("b1", "b2"):
        ids = [number(message) for message in events if message.get("data", {}).get("board_id") == board]
        assert ids == sorted(ids), board
    # After the last event there is no end to wait for.
    for cut in range(answers[0], len(found) - 1, 1 + (len(found) - answers[0]) // 10):
        seen = [message for message in found[1 : cut + 1] if message["type"] != "subscribed"]
        with server.upgraded(since(position(found[: cut + 1]), board_id="b1") + "&board_id=b2") as raw:
            seen += read_until(raw, "end")
        assert sorted(seen, key=number) == everything, found[cut]
