"""One connection of a client in the resume model, and what is expected of it."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from cartows import Client, Hub
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
from tests.support.raw_client import CLOSE, TEXT, RawClient
from tests.support.waiting import DEADLINE

Room = tuple[str, str]
Filters = dict[str, tuple[str, ...]]

BOARDS, PROJECTS = ["a", "b", "c"], ["p", "q"]
ROOMS: list[Room] = [*(("board_id", board) for board in BOARDS), *(("project_id", project) for project in PROJECTS)]
CLIENTS = 4

# Strings that are not ids.
GARBAGE = ["", ".", "x", "epoch", "epoch.", "epoch.-1", "epoch.1.2", "epoch.\u0663", " epoch.1"]

# A socket buffer so small that a writer is soon needed, and the part of the history that a replay takes at once; both in bytes.
SMALL_BUFFER = 2048
PAGE = 1024

# More than the size of any answer, in bytes.
MAX_ANSWER = 500


class Recipients(NamedTuple):
    """The recipients of an event."""

    rooms: frozenset[Room]
    #: Clients without a filter receive it, too.
    unfiltered: bool = True
    everyone: bool = False


class Subscription(NamedTuple):
    """The filters of a client; a ``selective`` one, which has changed its filters, never receives everything again."""

    filters: Filters
    selective: bool = False

    @property
    def rooms(self) -> frozenset[Room]:
        return frozenset((key, value) for key, values in self.filters.items() for value in values)

    def match(self, recipients: Recipients) -> bool:
        if recipients.everyone or self.rooms & recipients.rooms:
            return True
        return recipients.unfiltered and not self.rooms and not self.selective


class Request(NamedTuple):
    """A ``subscribe`` or ``unsubscribe`` of a client."""

    joins: bool
    rooms: tuple[Room, ...]
    since: str | None = None

    def changed(self, held: Subscription) -> Subscription:
        filters = dict(held.filters)
        for key, value in self.rooms:
            values = filters.get(key, ())
            if self.joins:
                filters[key] = values if value in values else (*values, value)
            else:
                filters[key] = tuple(each for each in values if each != value)
        filters = {key: values for key, values in filters.items() if values}
        return Subscription(filters, True)

    def message(self) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in self.rooms:
            data.setdefault(key, []).append(value)
        if self.since is not None:
            data["since"] = self.since
        return {"type": "subscribe" if self.joins else "unsubscribe", "data": data}


class Journal:
    """The points in the hub's order at which things happened to one client."""

    def __init__(self, head: int, published: int) -> None:
        #: The last event before its registration, and the last that had been published by then.
        self.head = head
        self.published = published
        #: The last event before each change of its filters, and whether the client requested that.
        self.changes: list[tuple[int, bool]] = []
        #: The last event before it was unregistered.
        self.ended: int | None = None


class Expected(NamedTuple):
    """A message that a client must read next: an event, or an answer, which has data."""

    type: str
    number: int
    data: dict[str, Any] | None = None
    #: An event after the client's position, not one of a replay that it subscribed with.
    live: bool = True


class RecordingClient(Client):
    """A client that records whether a writer thread was needed."""

    wrote = False

    def write_pump(self) -> None:
        self.wrote = True
        super().write_pump()


class Link:
    """One connection of a client, with what it has requested and what it has read."""

    def __init__(self, hub: Hub, name: str, held: Subscription, since: str | None, buffer: int | None) -> None:
        mine, theirs = socket.socketpair()
        theirs.settimeout(DEADLINE)
        self._raw = RawClient.on(theirs)
        if buffer is not None:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.client = RecordingClient(hub, Connection(PlainTransport(mine), threading.Lock(), hub.options), name)
        self.held, self.since = held, since
        for key, values in held.filters.items():
            self.client.set_filter(key, values)
        self.client.since = since
        self.requests: list[Request] = []
        #: The filters that the server has set, in order.
        self.set: list[tuple[str, tuple[str, ...]]] = []
        self.pings = 0
        #: How many invalid messages it has sent, and since when it could.
        self.invalid = 0
        self.began_at = time.monotonic()
        #: Whether it has sent something before it was registered.
        self.early = False
        #: The requests without an answer yet.
        self.unanswered: deque[Request] = deque()
        #: The messages that have been read, and those that have been received and not yet read.
        self.messages: list[dict[str, Any]] = []
        self.unread: deque[dict[str, Any]] = deque()
        #: The id with which it would resume.
        self.position = since
        #: Whether the connection has ended, whether this side dropped it, and the close code of the other.
        self.over = self.dropped = False
        self.code: int | None = None
        self.thread = threading.Thread(target=self.client.read_pump, name=f"reader of {name}", daemon=True)
        self.thread.start()
        hub.register_client(self.client)

    # Sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Mapping[str, Any]) -> None:
        # A client sends nothing before the answer to its handshake, which the greeting follows.
        if not self.messages and not self.unread and not self.over and not self.early:
            assert self._raw.has_arrived(DEADLINE), "no greeting arrived"
        # The server may have closed this connection already, which this side has yet to read.
        with suppress(OSError):
            self._raw.send_json(message)

    def request(self, request: Request) -> None:
        self.requests.append(request)
        self.unanswered.append(request)
        self.send(request.message())

    def ping(self) -> None:
        self.pings += 1
        self.send({"type": "ping"})

    def send_invalid(self, message: Mapping[str, Any]) -> None:
        self.invalid += 1
        self.send(message)

    # Reading ------------------------------------------------------------------------------------------------------

    def read(self, max_messages: int) -> None:
        """Read at most so many messages of those that have arrived."""
        for _ in range(max_messages):
            if not self.unread and (self.over or not self._raw.has_arrived() or not self._receive(2048)):
                return
            if self.unread:
                self._keep(self.unread.popleft())

    def read_until(self, done: Callable[[], bool]) -> None:
        """Read until ``done``, or until the connection ends."""
        while not done() and (self.unread or (not self.over and self._receive(65536))):
            if self.unread:
                self._keep(self.unread.popleft())

    def has_all(self, last: int) -> bool:
        """Return whether every answer and the event with that number have been read."""
        answers = [message["type"] for message in self.messages if message["type"] in ("pong", "error")]
        events = (message for message in reversed(self.messages) if message["type"] == "marker")
        return (
            not self.unanswered
            and len(answers) == self.pings + self.invalid
            and any(number_of(message) == last for message in events)
        )

    def _receive(self, max_bytes: int) -> bool:
        try:
            more = self._raw.read_some(max_bytes)
        except ConnectionError:
            more = False
        self.over = self.over or not more
        while (frame := self._raw.buffered_frame()) is not None:
            if frame.opcode == CLOSE:
                self.code, self.over = frame.closed.code, True
            elif frame.opcode == TEXT:
                self.unread.append(frame.json)
        return more

    def _keep(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        kind = message["type"]
        if kind in ("subscribed", "unsubscribed"):
            self.unanswered.popleft()
        # Until the answer arrives replayed events cannot be distinguished from live ones.
        if "id" in message and (kind == "subscribed" or not any(request.since is not None for request in self.unanswered)):
            self.position = message["id"]

    def drop(self) -> None:
        self.dropped = not self.over or bool(self.unread)
        self.over = True
        self._raw.close()


def number_of(message: Mapping[str, Any]) -> int:
    return int(message["id"].partition(".")[2])
