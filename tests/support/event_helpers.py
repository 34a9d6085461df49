"""Events of every kind, and what tests of rooms, resume, presence and slow clients do with them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

from tests.support import process
from tests.support.clients import Peer
from tests.support.harness import HOST, Server, event_ids
from tests.support.raw_client import TEXT, Json, RawClient, make_frame

Call = tuple[str, tuple[Any, ...], Json]

#: One event for each kind of recipients; `label` distinguishes them.
EVENTS: list[Call] = [
    ("broadcast_task_created", ("t1", "b1", {"title": "one"}), {"project_id": "p1"}),
    ("broadcast_task_updated", ("t2", "b2", {"title": "two"}), {"project_id": "p2"}),
    ("broadcast_board_updated", ("b3", "p1", {"name": "three"}), {}),
    ("broadcast_project_updated", ("p2", {"name": "four"}), {}),
    ("broadcast", ("comment.added", {"text": "é☃"}), {"filters": {"board_id": ["b1", "b2"]}}),
    ("broadcast_message", ({"$message": ["notice", {"n": 1}]},), {}),
    ("broadcast_to_filtered", ({"$message": ["whisper", {"n": 1}]}, "board_id", "b1"), {}),
    ("broadcast", ("app.refreshed", {"n": 1}), {}),
]
EVERYTHING = ["t1", "t2", "b3", "p2", "comment.added", "notice", "app.refreshed"]


def label(message: Json) -> str:
    data = message.get("data")
    if not isinstance(data, dict):
        return str(message["type"])
    return str(data.get("task_id") or data.get("board_id") or data.get("project_id") or message["type"])


def labels(messages: Iterable[Json]) -> list[str]:
    return [label(message) for message in messages]


def received_labels(server: Server, *peers: Peer | RawClient) -> list[list[str]]:
    """Publish every kind of event and return the labels of those that each client receives."""
    server.call(*EVENTS)
    return [labels(messages) for messages in server.received(*peers)]


def number(message: Json) -> int:
    return event_ids([message])[0]


def position(messages: Iterable[Json]) -> str:
    """Return the position of a client that has read these messages."""
    return str([message["id"] for message in messages if "id" in message][-1])


def since(id: str, **filters: str) -> str:
    """Return the path with which a client resumes."""
    return "/ws?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in {"since": id, **filters}.items())


def read_until(peer: Peer | RawClient, *types: str) -> list[Json]:
    """Return the messages up to the first of one of these types, and with it."""
    messages = [peer.receive()]
    while messages[-1]["type"] not in types:
        messages.append(peer.receive())
    return messages


def ask(peer: Peer | RawClient, kind: str, data: Any) -> list[Json]:
    """Send `subscribe` or `unsubscribe`; return the messages up to the answer, and with it."""
    message = {"type": kind, "data": data}
    peer.send(message) if isinstance(peer, Peer) else peer.send_json(message)
    return read_until(peer, f"{kind}d", "error")


def subscribe(peer: Peer | RawClient, **data: Any) -> Json:
    """Subscribe where nothing else arrives in between; return the data of the answer, an error included."""
    (answer,) = ask(peer, "subscribe", data)
    return dict(answer.get("data", {}))


def unsubscribe(peer: Peer | RawClient, **data: Any) -> Json:
    (answer,) = ask(peer, "unsubscribe", data)
    return dict(answer.get("data", {}))


def check_no_silent_gap(messages: Iterable[Json], last: int, *, each: bool = True) -> int:
    """Check that every event after that number comes, in order, or that `incomplete` was announced before a later id.

    For a client that receives everything. With ``each`` every gap must be announced, else the first announcement covers the
    gaps after it as well. Returns the number of gaps.
    """
    gaps, announced = 0, False
    for message in messages:
        announced |= message["type"] == "pong" and message.get("data", {}).get("incomplete") is True
        if "id" in message:
            found, event = number(message), message["type"] != "pong"
            assert found >= last + event, f"{message['id']} came after {last}"
            assert found <= last + 1 or announced, f"a gap between {last} and {message['id']} was not announced"
            gaps += found > last + 1
            announced = announced and not (event and each)
            last = found
    return gaps


def check_not_recovered(hello: Json) -> None:
    """Check that a client is told to reload, and its new position."""
    assert hello["type"] == "connected", hello
    assert hello["data"]["recovered"] is False, hello
    assert hello["data"].get("replayed", 0) == 0, hello
    assert hello["data"]["id"] == hello["id"]


def resume(server: Server, id: str, **filters: str) -> tuple[Peer, list[Json]]:
    """Resume from an id that must be recovered; return the client and what is replayed to it."""
    peer = server.connect(since(id, **filters), max_queue=None)
    data = peer.hello["data"]
    assert data["recovered"] is True, peer.hello
    assert peer.hello["id"] == data["id"]
    if data["replayed"]:
        assert data["id"] == id
    return peer, [peer.receive() for _ in range(data["replayed"])]


def latest_id(server: Server) -> str:
    """Publish an event and return its id once the hub has delivered it."""
    watcher = server.connect("/ws?board_id=b0")
    server.publish("broadcast_task_deleted", "t0", "b0")
    id = str(watcher.receive()["id"])
    watcher.close()
    return id


@contextlib.contextmanager
def complete_watcher(server: Server) -> Iterator[Peer]:
    """Connect a client that must receive every event of the context, once and in order, and be the only one at its end."""
    peer = server.connect(max_queue=None)
    yield peer
    server.await_clients(1)
    server.publish("broadcast", "after")
    (messages,) = server.received(peer)
    assert messages[-1]["type"] == "after"
    numbers = event_ids([{"id": peer.hello["data"]["id"]}, *messages])
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


class BackgroundPublisher:
    """A thread that publishes for as long as the context lasts; an error of ``publish`` is raised at its end."""

    def __init__(self, publish: Callable[[], object]) -> None:
        self._publish = publish
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher")
        self._error: Exception | None = None

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._publish()
        except Exception as error:
            self._error = error

    def __enter__(self) -> BackgroundPublisher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


class SlowReader(RawClient):
    """A client that reads a little at a time, with ``read_some``."""

    def __init__(self, server: Server, path: str = "/ws") -> None:
        super().__init__(HOST, server.port, server.tls.client if server.tls else None, receive_buffer=4096)
        response = self.open(path)
        assert response.status == 101, response
        self.hello = self.receive()
        assert self.hello["type"] == "connected", self.hello


def check_client_that_never_reads(server: Server) -> None:
    """Check that a client that sends and never reads is disconnected, at no cost to others and little memory."""
    before = process.peak_memory(server.pid) if process.HAS_PROC else 0
    watcher = server.connect()
    silent = server.upgraded(receive_buffer=4096)
    batch = make_frame(TEXT, json.dumps({"type": "no.such.type"}).encode()) * 100
    with contextlib.suppress(OSError):
        for _ in range(1000):
            silent.send(batch)
    server.await_clients(1)
    assert server.received(watcher) == [[]]
    if process.HAS_PROC:
        assert process.peak_memory(server.pid) - before < 16 * 1024 * 1024
