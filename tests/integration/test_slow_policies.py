"""The policies for a client that reads a kilobyte at a time: only it loses events, and each loss is announced."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support import process
from tests.support.clients import Peer
from tests.support.event_helpers import (
    SlowReader,
    check_client_that_never_reads,
    check_no_silent_gap,
    number,
    position,
    read_until,
    since,
)
from tests.support.harness import BOTH_WAYS, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, Kind, Server, event_ids
from tests.support.raw_client import TEXT, Json

SLOW_CONSUMER = 3008
POLICIES = ("disconnect", "drop_oldest", "coalesce")

# Small kernel buffers, so that what is queued is queued in the server; a queue of two batches and their fences.
NARROW: Json = {
    "CARTOWS_WRITE_BUFFER": 8192,
    "CARTOWS_SEND_QUEUE_SIZE": 110,
    "CARTOWS_COMPRESS_MIN_SIZE": None,
    "CARTOWS_HISTORY_SIZE": 20_000,
    "CARTOWS_HISTORY_BYTES": 2 * 1024 * 1024,
}
BATCH = 50
TASKS = 20


def narrow(serve: Serve, kind: Kind, policy: str, **more: Any) -> Server:
    return serve(kind=kind, config={**NARROW, "CARTOWS_SLOW_CONSUMER": policy, **more})


class Board:
    """A board whose tasks change at random, with their current state."""

    def __init__(self, seed: int, size: int = 800) -> None:
        self._chance = random.Random(seed)
        self._padding = "x" * size
        self.tasks: dict[str, Json] = {}

    def batch(self) -> Iterator[tuple[str, tuple[Any, ...], Json]]:
        """Yield a batch of updates: each has the changed fields, and now and then the whole task."""
        for _ in range(BATCH):
            id = f"t{self._chance.randrange(TASKS)}"
            changes = {f"field{self._chance.randrange(6)}": self._chance.randrange(1000)}
            self.tasks[id] = {**self.tasks.get(id, {}), **changes}
            whole = {"task": self.tasks[id]} if self._chance.random() < 0.3 else {}
            changes["padding"] = self._padding
            yield "broadcast_task_updated", (id, "b1", changes), {"action": self._chance.choice(["updated", "moved"]), **whole}


def apply(messages: list[Json]) -> dict[str, Json]:
    """Return the tasks of a client that applies every update it receives, in order."""
    tasks: dict[str, Json] = {}
    for message in messages:
        if message["type"] == "task.updated":
            data = message["data"]
            changes = {key: value for key, value in data["changes"].items() if key != "padding"}
            tasks[data["task_id"]] = {**tasks.get(data["task_id"], {}), **changes}
    return tasks


def publish(server: Server, board: Board, watchers: list[Peer]) -> list[Json]:
    """Publish a batch, and wait until every watcher has received all of it; return what they received."""
    assert all(result["accepted"] for result in server.call(*board.batch()))
    first, *others = server.received(*watchers)
    assert len(first) == BATCH
    assert all(messages == first for messages in others)
    return first


def publish_until_disconnected(server: Server, board: Board, watchers: list[Peer], slow: SlowReader) -> list[Json]:
    everything: list[Json] = []
    while server.client_count() > len(watchers):
        assert len(everything) < 200 * BATCH, "no client was disconnected"
        everything += publish(server, board, watchers)
        slow.read_some(1000)
    return everything


def rest_of(slow: SlowReader) -> list[Json]:
    """Return the whole events, without a gap, that a disconnected client still reads before the reason and the close frame."""
    frames, closed = slow.ended()
    assert closed.code == SLOW_CONSUMER
    *messages, advice = [frame.json for frame in frames if frame.opcode == TEXT]
    assert (advice["type"], advice["data"]["code"], advice["data"]["reconnect"]) == ("disconnect", SLOW_CONSUMER, True)
    check_no_silent_gap(messages, number(slow.hello))
    return messages


# Disconnected, and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BOTH_WAYS, GTHREAD_TLS], ids=str)
def test_a_disconnected_client_resumes_and_gets_exactly_what_it_missed(serve: Serve, kind: Kind) -> None:
    server, board = narrow(serve, kind, "disconnect"), Board(1)
    watchers = [server.connect(max_queue=None) for _ in range(2)]
    slow = SlowReader(server)
    everything = publish_until_disconnected(server, board, watchers, slow)
    seen = rest_of(slow)
    everything += publish(server, board, watchers)
    back = server.connect(since(position([slow.hello, *seen])), max_queue=None)
    assert back.hello["data"]["recovered"] is True
    missed = [back.receive() for _ in range(back.hello["data"]["replayed"])]
    server.publish("broadcast_message", {"$message": ["end"]})
    assert [message["type"] for message in read_until(back, "end")] == ["end"]
    found = [message for message in (*seen, *missed) if message["type"] != "fence"]
    assert found == everything
    assert apply(found) == board.tasks
    assert event_ids([*seen, *missed]) == list(range(number(slow.hello) + 1, number(missed[-1]) + 1))


def test_a_disconnected_client_that_resumes_too_late_has_to_reload(serve: Serve) -> None:
    server, board = narrow(serve, GTHREAD, "disconnect", CARTOWS_HISTORY_SIZE=60), Board(2)
    watchers = [server.connect(max_queue=None)]
    slow = SlowReader(server)
    publish_until_disconnected(server, board, watchers, slow)
    seen = rest_of(slow)
    for _ in range(2):
        publish(server, board, watchers)
    back = server.connect(since(position([slow.hello, *seen])))
    assert back.hello["data"]["recovered"] is False
    assert server.received(back) == [[]]


# Kept connected, with fewer events ------------------------------------------------------------------------------------


def publish_to_slow_client(server: Server, board: Board, policy: str) -> tuple[list[Json], list[Json]]:
    """Publish batches beside a slow client and let it read all, twice; return what it and a fast client received."""
    watchers = [server.connect(max_queue=None) for _ in range(2)]
    found: list[Json] = []
    everything: list[Json] = []
    with SlowReader(server) as slow:
        last = slow.hello
        for _ in range(2):
            for _ in range(25):
                everything += publish(server, board, watchers)
                slow.read_some(1000)
            assert server.client_count() == 3, f"{policy} keeps a slow client"
            server.publish("broadcast_message", {"$message": ["end"]})
            phase = read_until(slow, "end")
            gaps = check_no_silent_gap(phase, number(last), each=policy == "drop_oldest")
            assert gaps > 0, "nothing was dropped, so nothing was tested"
            found += phase
            # Back to normal: nothing more is dropped, and the loss is announced once.
            slow.send_json({"type": "ping"})
            pong = slow.receive()
            assert (pong["type"], pong["id"]) == ("pong", phase[-1]["id"])
            for count in range(3):
                server.publish("broadcast", "app.refreshed", {"n": count})
                last = slow.receive()
                assert last["data"] == {"n": count}
            slow.send_json({"type": "ping"})
            pong = slow.receive()
            assert (pong["type"], pong["id"], "data" in pong) == ("pong", last["id"], False)
            server.received(*watchers)
            last = slow.receive()
            assert last["type"] == "fence"
    return found, everything


IN_MESSAGES: Json = {}
IN_BYTES: Json = {"CARTOWS_SEND_QUEUE_SIZE": 10_000, "CARTOWS_SEND_QUEUE_BYTES": 120_000}
BOUNDS = [
    (GTHREAD, IN_MESSAGES),
    (GTHREAD, IN_BYTES),
    (GTHREAD_ATTACHED, IN_MESSAGES),
    (GTHREAD_TLS, IN_BYTES),
]
BOUND_IDS = ["gthread-messages", "gthread-bytes", "attached-messages", "tls-bytes"]


@pytest.mark.parametrize(("kind", "bound"), BOUNDS, ids=BOUND_IDS)
def test_drop_oldest_keeps_the_newest_events(serve: Serve, kind: Kind, bound: Json) -> None:
    server = narrow(serve, kind, "drop_oldest", **bound)
    found, everything = publish_to_slow_client(server, Board(3), "drop_oldest")
    events = [message for message in found if message["type"] == "task.updated"]
    # Every event that came is unchanged.
    by_id = {message["id"]: message for message in everything}
    assert all(message == by_id[message["id"]] for message in events)
    assert events[-BATCH:] == everything[-BATCH:]
    assert len(events) < len(everything)


@pytest.mark.parametrize(("kind", "bound"), BOUNDS, ids=BOUND_IDS)
def test_coalesce_ends_with_the_true_state_of_every_task(serve: Serve, kind: Kind, bound: Json) -> None:
    server, board = narrow(serve, kind, "coalesce", **bound), Board(4)
    found, everything = publish_to_slow_client(server, board, "coalesce")
    assert apply(everything) == board.tasks
    assert apply(found) == board.tasks
    assert len(found) < len(everything)
    newest = {message["data"]["task_id"]: message for message in everything}
    last = {message["data"]["task_id"]: message for message in found if message["type"] == "task.updated"}
    assert {task: message["id"] for task, message in last.items()} == {task: message["id"] for task, message in newest.items()}
    for task, message in last.items():
        assert {**message["data"], "changes": None} == {**newest[task]["data"], "changes": None}
        assert message["timestamp"] == newest[task]["timestamp"]


def test_coalesce_never_moves_an_update_past_the_end_of_its_task(serve: Serve) -> None:
    """Created, updated, deleted, created again: the order of these for one task is kept."""
    server = narrow(serve, GTHREAD, "coalesce")
    watcher = server.connect(max_queue=None)
    chance = random.Random(5)
    alive: dict[str, Json] = {}
    lives = itertools.count()

    def change() -> tuple[str, tuple[Any, ...], Json]:
        id = f"t{chance.randrange(3)}"
        if id not in alive:
            alive[id] = {"life": next(lives)}
            return "broadcast_task_created", (id, "b1", dict(alive[id])), {}
        if chance.random() < 0.005:
            del alive[id]
            return "broadcast_task_deleted", (id, "b1"), {}
        # No other life of the task has these fields.
        changes = {f"field{chance.randrange(6)} of life {alive[id]['life']}": chance.randrange(1000)}
        alive[id].update(changes)
        return "broadcast_task_updated", (id, "b1", {**changes, "padding": "x" * 2000}), {}

    with SlowReader(server) as slow:
        for _ in range(25):
            server.call(*[change() for _ in range(BATCH)])
            assert len(server.received(watcher)[0]) == BATCH
            slow.read_some(1000)
        server.publish("broadcast_message", {"$message": ["end"]})
        found = read_until(slow, "end")
        assert check_no_silent_gap(found, number(slow.hello), each=False) > 0
    assert len(found) < 25 * BATCH
    tasks: dict[str, Json] = {}
    for message in found:
        match message["type"], message.get("data"):
            case "task.created", data:
                assert data["task_id"] not in tasks
                tasks[data["task_id"]] = data["task"]
            case "task.updated", data:
                tasks[data["task_id"]].update(data["changes"])
                del tasks[data["task_id"]]["padding"]
            case "task.deleted", data:
                del tasks[data["task_id"]]
    assert tasks == alive


@pytest.mark.parametrize("policy", ["drop_oldest", "coalesce"])
def test_the_id_of_a_loss_notice_is_a_position_to_resume_from(serve: Serve, policy: str) -> None:
    """The id of that notice is a position like another: the lost events are before it."""
    server, board = narrow(serve, GTHREAD, policy), Board(6)
    watcher = server.connect(max_queue=None)
    everything: list[Json] = []
    with SlowReader(server) as slow:
        for _ in range(30):
            everything += publish(server, board, [watcher])
            slow.read_some(1000)
        messages = [slow.hello]
        while not (messages[-1]["type"] == "pong" and messages[-1]["data"] == {"incomplete": True}):
            messages.append(slow.receive())
    announced = number(messages[-1])
    assert announced >= max(number(message) for message in messages[:-1])
    with SlowReader(server, since(messages[-1]["id"])) as back:
        assert back.hello["data"]["recovered"] is True
        rest = [back.receive() for _ in range(back.hello["data"]["replayed"])]
    assert [message for message in rest if message["type"] != "fence"] == [
        message for message in everything if number(message) > announced
    ]


# Bounded --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not process.HAS_PROC, reason="needs /proc")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_slow_client_costs_the_server_little_whatever_the_policy(
    serve: Serve, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise the heap of each pool thread grows with the requests it happens to get, for longer than this test lasts.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    server = serve(fresh=True, config={**NARROW, "CARTOWS_SLOW_CONSUMER": policy})
    board, watcher = Board(7, size=10_000), server.connect(max_queue=None)

    def memory_after(batches: int) -> int:
        """Publish so many batches beside three slow clients; return the server's peak memory."""
        slow = [SlowReader(server) for _ in range(3)]
        for _ in range(batches):
            publish(server, board, [watcher])
            for client in slow:
                client.read_some(1000)
        for client in slow:
            client.close()
        server.await_clients(1)
        return process.peak_memory(server.pid)

    # First what the traffic, full queues and a full history cost; then another 10 MB, of which a queue holds one.
    before = memory_after(6)
    assert memory_after(20) - before < 7 * 1024 * 1024


@pytest.mark.parametrize("policy", ["drop_oldest", "coalesce"])
def test_a_client_that_sends_and_never_reads_is_disconnected_under_any_policy(serve: Serve, policy: str) -> None:
    """Answers are never dropped, so their number must be bounded."""
    check_client_that_never_reads(narrow(serve, GTHREAD, policy))


def test_coalesce_disconnects_a_client_that_merging_does_not_help(serve: Serve) -> None:
    """Events of new objects cannot be merged; the disconnected client resumes as usual."""
    server = narrow(serve, GTHREAD, "coalesce")
    watcher, slow = server.connect(max_queue=None), SlowReader(server)
    while server.client_count() > 1:
        assert server.flood(BATCH, 800) == BATCH
        assert len(server.received(watcher)[0]) == BATCH
        slow.read_some(1000)
    seen = rest_of(slow)
    back = server.connect(since(position([slow.hello, *seen])), max_queue=None)
    assert back.hello["data"]["recovered"] is True
    assert number(back.receive()) == number(seen[-1]) + 1


def test_a_raw_protocol_is_sent_no_messages_of_the_json_protocol(serve: Serve) -> None:
    server = serve("raw_protocol", config={**NARROW, "CARTOWS_SLOW_CONSUMER": "drop_oldest"})
    watcher = server.connect(greeted=False, max_queue=None)
    slow = server.upgraded(greeted=False, receive_buffer=4096)
    for _ in range(15):
        assert server.flood(BATCH, 800) == BATCH
        assert len(server.received(watcher)[0]) == BATCH
    server.publish("broadcast_message", {"$message": ["end"]})
    found = read_until(slow, "end")
    assert len(found) < 15 * BATCH
    assert {message["type"] for message in found} == {"task.created", "fence", "end"}
