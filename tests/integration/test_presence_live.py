"""Presence in a room: clients receive the state once, then every change of it."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import ask, label, read_until, since, subscribe
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_ATTACHED, HOST, Kind, Server
from tests.support.raw_client import CLOSE, Json, RawClient
from tests.support.waiting import wait_until

#: Leaves are held back for longer than a test lasts, so every leave that a client receives was not held back.
LONG_WAIT = {"CARTOWS_PRESENCE_LEAVE_WAIT": 300}
SHORT_WAIT = {"CARTOWS_PRESENCE_LEAVE_WAIT": 3.0}
LIMITED = {**LONG_WAIT, "CARTOWS_PRESENCE_ROOM_LIMIT": 4}


@pytest.fixture(params=(*BOTH_WAYS, FLASK), ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("hooks", kind=request.param, config=LONG_WAIT)


_boards = itertools.count()


@pytest.fixture
def board() -> str:
    """Return a room of the test's own: leaves are held back, so the rooms of earlier tests still have entries."""
    return f"board{next(_boards)}"


class Room:
    """A room as a client sees it: the state it received, with every change since."""

    def __init__(self, state: Json) -> None:
        self.key, self.value = state["data"]["key"], state["data"]["value"]
        self.present: dict[str, list[Json]] = {}
        self.take(state)

    def take(self, message: Json) -> None:
        data = message["data"]
        assert (data["key"], data["value"]) == (self.key, self.value), message
        if message["type"] == "presence.state":
            self.present = data["present"]
        else:
            assert message["type"] == "presence.diff", message
            assert set(data) == {"key", "value", "count", "joins", "leaves"}
            for identity, entries in data["joins"].items():
                for entry in entries:
                    self._remove(identity, entry["ref"])
                    self.present.setdefault(identity, []).append(entry)
            for identity, entries in data["leaves"].items():
                for entry in entries:
                    assert self._remove(identity, entry["ref"]), f"{message}: there was no entry with that ref"
        assert data["count"] == len(self.present), (message, self.present)

    def _remove(self, identity: str, ref: str) -> bool:
        entries = self.present.get(identity, [])
        kept = [entry for entry in entries if entry["ref"] != ref]
        if kept:
            self.present[identity] = kept
        else:
            self.present.pop(identity, None)
        return len(kept) < len(entries)

    def metas(self) -> dict[str, list[Any]]:
        return {identity: [entry["meta"] for entry in entries] for identity, entries in sorted(self.present.items())}


def join(peer: Peer | RawClient, board: str, meta: Json | None = None) -> Room:
    """Subscribe to a board with presence; return its state."""
    (answer,) = ask(peer, "subscribe", {"board_id": board, "presence": meta or {}})
    assert answer["type"] == "subscribed", answer
    assert board in answer["data"]["board_id"]
    return Room(peer.receive())


def arrive(server: Server, identity: str, board: str, meta: Json | None = None) -> tuple[Peer, Room]:
    peer = server.connect(f"/ws?as={identity}&board_id=none", max_queue=None)
    return peer, join(peer, board, meta)


def leave(peer: Peer, board: str) -> None:
    """Unsubscribe; skip what the client received until then."""
    assert board not in ask(peer, "unsubscribe", {"board_id": board})[-1].get("data", {}).get("board_id", [])


def present(server: Server, board: str) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = server.get(f"/presence/board_id/{board}").json
    return found


def by_ref(present: dict[str, list[Json]]) -> dict[str, dict[str, Json]]:
    return {identity: {entry["ref"]: entry["meta"] for entry in entries} for identity, entries in present.items()}


def test_a_room_sends_its_state_once_and_then_every_change(board: str, server: Server) -> None:
    ann, seen_by_ann = arrive(server, "ann", board, {"colour": "red"})
    assert seen_by_ann.metas() == {"ann": [{"colour": "red"}]}
    stranger = server.connect("/ws?as=eve")
    subscribe(stranger, board_id=board)
    bob, seen_by_bob = arrive(server, "bob", board, {"colour": "blue", "at": [1, {"x": None}]})
    assert seen_by_bob.metas() == {"ann": [{"colour": "red"}], "bob": [{"colour": "blue", "at": [1, {"x": None}]}]}
    seen_by_ann.take(ann.receive())
    assert seen_by_ann.present == seen_by_bob.present == present(server, board)
    leave(bob, board)
    seen_by_ann.take(ann.receive())
    assert seen_by_ann.metas() == {"ann": [{"colour": "red"}]}
    carl, _ = arrive(server, "carl", board)
    seen_by_ann.take(ann.receive())
    assert sorted(seen_by_ann.present) == ["ann", "carl"]
    # No client receives its own join, or a change twice, and other clients receive nothing.
    assert server.received(ann, bob, carl, stranger) == [[], [], [], []]
    leave(ann, board)
    leave(carl, board)
    assert present(server, board) == {}


def test_two_tabs_are_one_identity_with_two_entries(board: str, server: Server) -> None:
    bob, room = arrive(server, "bob", board)
    first, _ = arrive(server, "ann", board, {"tab": 1})
    room.take(bob.receive())
    second, _ = arrive(server, "ann", board, {"tab": 2})
    room.take(bob.receive())
    assert room.metas() == {"ann": [{"tab": 1}, {"tab": 2}], "bob": [{}]}
    assert len(by_ref(room.present)["ann"]) == 2
    leave(second, board)
    room.take(bob.receive())
    assert room.metas() == {"ann": [{"tab": 1}], "bob": [{}]}
    leave(first, board)
    room.take(bob.receive())
    assert room.metas() == {"bob": [{}]}


def test_a_client_without_an_identity_is_shown_by_its_id(board: str, serve: Serve) -> None:
    server = serve(config=LONG_WAIT)
    first, second = server.connect(), server.connect()
    assert list(join(first, board).present) == [first.id]
    assert list(join(second, board).present) == [first.id, second.id]


def test_an_integer_identity_is_shown_as_its_string(board: str, serve: Serve) -> None:
    server = serve("hooks", config=LONG_WAIT)
    assert list(join(server.connect("/ws?number=7"), board).present) == ["7"] == list(present(server, board))


@pytest.mark.parametrize("identity", ["__proto__", "constructor", "é☃", "a.b", "$ne", "x" * 300])
def test_an_identity_may_be_any_string(board: str, serve: Serve, identity: str) -> None:
    server = serve("hooks", config=LONG_WAIT)
    watcher, room = arrive(server, "watcher", board)
    peer, state = arrive(server, identity, board)
    room.take(watcher.receive())
    assert set(room.present) == set(state.present) == {"watcher", identity} == set(present(server, board))
    leave(peer, board)
    room.take(watcher.receive())
    assert set(room.present) == {"watcher"}


def test_a_meta_is_changed_by_subscribing_again(board: str, server: Server) -> None:
    bob, room = arrive(server, "bob", board)
    ann, _ = arrive(server, "ann", board, {"typing": False})
    room.take(bob.receive())
    before = by_ref(room.present)["ann"]
    ann.send({"type": "subscribe", "data": {"board_id": board, "presence": {"typing": True}}})
    message = bob.receive()
    assert (list(message["data"]["joins"]), message["data"]["leaves"], message["data"]["count"]) == (["ann"], {}, 2)
    room.take(message)
    assert by_ref(room.present)["ann"] == {ref: {"typing": True} for ref in before}
    assert by_ref(present(server, board)) == by_ref(room.present)


def test_each_room_of_a_message_has_a_state_of_its_own(board: str, server: Server) -> None:
    other = f"{board}-too"
    ann, _ = arrive(server, "ann", board)
    peer = server.connect("/ws?as=bob")
    (answer,) = ask(peer, "subscribe", {"board_id": [board, other], "project_id": board, "presence": {"n": 1}})
    assert answer["data"] == {"board_id": [board, other], "project_id": [board]}
    rooms = {(room.key, room.value): sorted(room.present) for room in (Room(peer.receive()) for _ in range(3))}
    assert rooms == {("board_id", board): ["ann", "bob"], ("board_id", other): ["bob"], ("project_id", board): ["bob"]}
    diff = ann.receive()["data"]
    assert (diff["key"], diff["value"], list(diff["joins"]), diff["count"]) == ("board_id", board, ["bob"], 2)


def test_a_rooms_replay_comes_before_its_presence_state(board: str, server: Server) -> None:
    peer = server.connect("/ws?as=ann&board_id=none")
    id = peer.ask({"type": "ping"})["id"]
    server.publish("broadcast_task_deleted", "t1", board)
    *replayed, answer = ask(peer, "subscribe", {"board_id": board, "since": id, "presence": {}})
    assert [label(message) for message in replayed] == ["t1"]
    assert answer["data"]["replayed"] == 1
    assert list(Room(peer.receive()).present) == ["ann"]


def test_a_room_joined_without_presence_can_be_opted_into_later(board: str, serve: Serve) -> None:
    server = serve("hooks", config=LONG_WAIT)
    peer = server.connect(f"/ws?as=ann&board_id={board}")
    assert present(server, board) == {}
    assert list(join(peer, board).present) == ["ann"]


@pytest.mark.parametrize("ending", ["by the client", "by the server"])
def test_a_final_close_code_leaves_at_once(board: str, server: Server, ending: str) -> None:
    bob, room = arrive(server, "bob", board)
    raw = server.upgraded("/ws?as=ann&board_id=none")
    join(raw, board)
    room.take(bob.receive())
    if ending == "by the client":
        raw.send_frame(CLOSE, (4500).to_bytes(2, "big"))
    else:
        raw.send_json({"type": "leave", "data": {"code": 4999}})
    raw.ended()
    room.take(bob.receive())
    assert list(room.present) == ["bob"]


META_BOUND = 1024


@pytest.mark.parametrize(
    ("meta", "accepted"),
    [
        ({"a": "x" * (META_BOUND - len('{"a":""}'))}, True),
        ({"a": "x" * (META_BOUND + 1 - len('{"a":""}'))}, False),
        ({"a": "é" * 600}, False),
        ({"a": "é" * 500}, True),
        ({str(n): n for n in range(200)}, False),
    ],
    ids=["1024 bytes", "1025 bytes", "1200 bytes of é", "1000 bytes of é", "many keys"],
)
def test_a_meta_has_a_bound(board: str, serve: Serve, meta: Json, accepted: bool) -> None:
    server = serve("hooks", config=LONG_WAIT)
    peer = server.connect("/ws?as=ann&board_id=b0")
    if accepted:
        assert join(peer, board, meta).metas() == {"ann": [meta]}
        return
    assert subscribe(peer, board_id=board, presence=meta)["code"] == "INVALID_MESSAGE"
    assert present(server, board) == {}
    assert subscribe(peer, board_id="b2") == {"board_id": ["b0", "b2"]}


# Leaving and returning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "resumed"), [(GTHREAD, False), (GTHREAD_ATTACHED, True)], ids=["reload", "attached-resume"])
def test_a_reload_is_not_announced_and_a_real_leave_is_after_the_wait(
    board: str, serve: Serve, kind: Kind, resumed: bool
) -> None:
    server = serve("hooks", kind=kind, config=SHORT_WAIT)
    watcher, room = arrive(server, "watcher", board)
    ann, _ = arrive(server, "ann", board, {"n": 1})
    room.take(watcher.receive())
    gone = server.upgraded("/ws?as=gone&board_id=none")
    join(gone, board)
    room.take(watcher.receive())
    before = by_ref(room.present)
    ann.send({"type": "ping"})
    id = read_until(ann, "pong")[-1]["id"]
    left = monotonic()
    ann.close()
    gone.reset()
    back = server.connect(since(id, **{"as": "ann", "board_id": "none"}) if resumed else "/ws?as=ann&board_id=none")
    assert by_ref(join(back, board, {"n": 1}).present)["ann"] == before["ann"]
    # ann left first: her leave would have been sent before the other one.
    room.take(watcher.receive())
    assert monotonic() - left >= SHORT_WAIT["CARTOWS_PRESENCE_LEAVE_WAIT"] * 0.9
    assert by_ref(room.present) == {identity: entries for identity, entries in before.items() if identity != "gone"}
    assert server.received(watcher) == [[]]


def test_coming_back_with_another_meta_is_an_update(board: str, serve: Serve) -> None:
    server = serve("hooks", config=LONG_WAIT)
    watcher, room = arrive(server, "watcher", board)
    ann, _ = arrive(server, "ann", board, {"n": 1})
    room.take(watcher.receive())
    before = by_ref(room.present)["ann"]
    ann.close()
    server.await_clients(1)
    arrive(server, "ann", board, {"n": 2})
    message = watcher.receive()
    assert message["data"]["leaves"] == {}
    room.take(message)
    assert by_ref(room.present)["ann"] == {ref: {"n": 2} for ref in before}


def test_a_change_of_presence_is_not_replayed(board: str, serve: Serve) -> None:
    server = serve("hooks", config=LONG_WAIT)
    ann, _ = arrive(server, "ann", board)
    id = ann.ask({"type": "ping"})["id"]
    ann.close()
    bob, _ = arrive(server, "bob", board)
    leave(bob, board)
    server.publish("broadcast_task_deleted", "t1", board)
    back = server.connect(since(id, board_id=board))
    assert back.hello["data"]["replayed"] == 1
    assert [label(message) for message in server.received(back)[0]] == ["t1"]


def test_a_state_with_its_changes_is_right_while_clients_come_and_go(board: str, serve: Serve) -> None:
    server = serve("hooks", config={"CARTOWS_PRESENCE_LEAVE_WAIT": 0.2})
    watcher, room = arrive(server, "watcher", board)

    def visit(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(8):
            with RawClient(HOST, server.port) as raw:
                assert raw.open(f"/ws?board_id=none&as=visitor{seed % 4}").status == 101
                for n in range(chance.randrange(1, 4)):
                    raw.send_json({"type": "subscribe", "data": {"board_id": board, "presence": {"n": n}}})
                    read_until(raw, "subscribed")
                    if chance.random() < 0.3:
                        raw.send_json({"type": "unsubscribe", "data": {"board_id": board}})
                        read_until(raw, "unsubscribed")
                if chance.random() < 0.5:
                    raw.reset()

    with ThreadPoolExecutor(8) as pool:
        for visiting in [pool.submit(visit, seed) for seed in range(8)]:
            visiting.result()
    wait_until(lambda: list(present(server, board)) == ["watcher"], "the visitors to leave")
    while list(room.present) != ["watcher"]:
        room.take(watcher.receive())
    for message in server.received(watcher)[0]:
        room.take(message)
    assert list(room.present) == ["watcher"]


# Large rooms ----------------------------------------------------------------------------------------------------------


def test_a_large_room_sends_only_counts_until_it_is_small_again(board: str, serve: Serve) -> None:
    server = serve("hooks", kind=GTHREAD, config=LIMITED)
    members = [arrive(server, f"p{n}", board) for n in range(4)]
    first, room = members[0]
    for _ in range(3):
        room.take(first.receive())
    assert len(room.present) == 4
    start, counts = monotonic(), []
    visitors: list[Peer] = []
    for n in range(4, 12):
        peer = server.connect(f"/ws?as=p{n}")
        visitors.append(peer)
        ask(peer, "subscribe", {"board_id": board, "presence": {}})
        state = peer.receive()
        assert (state["type"], set(state["data"])) == ("presence.state", {"key", "value", "count"})
    while not counts or counts[-1] < 12:
        data = first.receive()["data"]
        assert set(data) == {"key", "value", "count"}, data
        counts.append(data["count"])
    assert len(counts) <= 2 + (monotonic() - start), f"more than one in a second: {counts}"
    for peer in visitors:
        leave(peer, board)
    # four are still more than three quarters of the limit
    while counts[-1] > 4:
        data = first.receive()["data"]
        assert set(data) == {"key", "value", "count"}, data
        counts.append(data["count"])
    leave(members.pop()[0], board)
    for peer, _ in members:
        while "present" not in (data := peer.receive()["data"]):
            continue
        assert (data["count"], sorted(data["present"])) == (3, ["p0", "p1", "p2"])
    assert present(server, board).keys() == {"p0", "p1", "p2"}
