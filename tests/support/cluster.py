"""Several workers of one gunicorn on one Redis, each of which can be addressed."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Sequence
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support import process
from tests.support.clients import Peer
from tests.support.harness import Server, event_ids
from tests.support.raw_client import Json
from tests.support.waiting import wait_until

WORKERS = 3

# How long a publisher waits at these servers, in seconds, and how much later its answer may be on a busy machine.
PUBLISH_TIMEOUT = 1.0
SLACK = 1.0

#: The types of messages that are not events.
_NO_EVENTS = ("connected", "degraded", "restored", "pong", "disconnect", "pid")


class Cluster:
    """The workers of one server, each addressed by its process id."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._names = itertools.count()

    def pids(self) -> list[int]:
        """Return the workers that run now."""
        return [pid for pid in process.children(self.server.process.pid) if process.alive(pid)]

    def _at(self, path: str, pid: int | None) -> str:
        if pid is None:
            return path
        return f"{path}{'&' if '?' in path else '?'}at={pid}"

    def request(self, method: str, path: str, body: Any = None, at: int | None = None) -> Json:
        """Send a request to one worker, or to any; return its answer."""

        def look() -> Json | None:
            try:
                response = self.server.request(method, self._at(path, at), body)
            except (OSError, http.client.HTTPException):
                # A worker that has just been killed, or has not started yet.
                if body is not None:
                    raise
                return None
            if response.status == 421:
                return None
            assert response.status == 200, response
            found: Json = response.json
            return found

        found = wait_until(look, f"worker {at} to answer {path}")
        assert found is not None
        return found

    def publish(self, count: int = 1, *, at: int | None = None, **filters: Any) -> list[str]:
        """Publish events at one worker; return their labels in that order. None may be refused or take too long."""
        labels, results = self.publish_with_results(count, at=at, **filters)
        assert all(result["status"] for result in results), results
        return labels

    def publish_with_results(self, count: int = 1, *, at: int | None = None, **filters: Any) -> tuple[list[str], list[Json]]:
        """Publish events at one worker; return their labels and the result of each."""
        name = f"p{next(self._names)}"
        body = {"by": name, "numbers": list(range(count)), "filters": filters or None}
        results = self.request("POST", "/numbered", body, at)["results"]
        slow = [result for result in results if result["took"] > PUBLISH_TIMEOUT + SLACK]
        assert not slow, slow
        return [f"{name}.{number}" for number in range(count)], results

    def stats(self, pid: int) -> Json:
        """Return the counters of a worker."""
        found: Json = self.request("GET", "/pid", at=pid)["stats"]
        return found

    def connect(self, path: str = "/ws", *, at: int | None = None) -> Peer:
        """Connect a client to one worker."""

        def look() -> Peer | None:
            try:
                return self.server.connect(self._at(path, at), max_queue=None)
            except InvalidStatus as error:
                if error.response.status_code in (421, 503):
                    return None
                raise
            except (ConnectionClosed, EOFError, OSError):
                return None

        found = wait_until(look, f"worker {at} to take a client")
        assert found is not None
        return found

    def await_workers(self, count: int = WORKERS, without: Sequence[int] = ()) -> list[int]:
        """Wait until so many workers serve, none of them one of these; return their process ids."""

        def look() -> list[int]:
            found = [pid for pid in self.pids() if pid not in without]
            return found if len(found) == count else []

        found = wait_until(look, f"{count} workers")
        for pid in found:
            self.request("GET", "/pid", at=pid)
        return found

    def await_connected(self) -> list[int]:
        """Wait until every worker has the broker and has stored its spool; return their process ids."""
        pids = self.await_workers()

        def is_connected(pid: int) -> bool:
            stats = self.stats(pid)
            return not stats["away"] and not stats["spooled"]

        wait_until(
            lambda: all(map(is_connected, pids)), lambda: f"all workers to be connected: {[self.stats(pid) for pid in pids]}"
        )
        return pids

    def received(self, *peers: Peer) -> list[list[Json]]:
        """Publish a message for everyone, and return what each client received before it."""
        labels = self.publish(1)
        return [read_until_labels(peer, labels[0])[:-1] for peer in peers]


def label(message: Json) -> str:
    """Return what identifies a numbered event, or the type of another message."""
    if message["type"] != "numbered":
        return str(message["type"])
    return f"{message['data']['by']}.{message['data']['n']}"


def labels(messages: Sequence[Json]) -> list[str]:
    return [label(message) for message in messages]


def events(messages: Sequence[Json]) -> list[Json]:
    """Return the events among some messages."""
    return [message for message in messages if message["type"] not in _NO_EVENTS]


def ids(messages: Sequence[Json]) -> list[int]:
    """Return the numbers of the events among some messages, all of one epoch."""
    return event_ids(events(messages))


def read_until_labels(peer: Peer, *wanted: str) -> list[Json]:
    """Return the messages of a client up to the last of these labels, and with it."""
    missing = set(wanted)
    messages: list[Json] = []
    while missing:
        try:
            messages.append(peer.receive())
        except TimeoutError as error:
            raise AssertionError(f"{missing} did not arrive; {labels(messages)} did") from error
        missing.discard(label(messages[-1]))
    return messages


def events_of(names: list[str]) -> list[str]:
    """Return the labels of numbered events among some labels."""
    return [name for name in names if "." in name]


def check_order(names: list[str]) -> None:
    """Check that the events of each publisher are in the order in which it published them."""
    last: dict[str, int] = {}
    for by, number in (name.split(".") for name in events_of(names)):
        assert last.get(by, -1) < int(number), names
        last[by] = int(number)
