"""Resume, from end to end in this process: random clients against a model of what each is promised.

A hub on socket pairs, and a model that knows who heard what. Notes taken in the hub thread tell where in the hub's order a
client was registered and each change of its filters took effect; the rest the model works out by itself, from sets, and demands
of everything a client has read: what it may hear, each event once, in order, the answers in their places, nothing else.

A client drops with bytes unread and comes back with the last ``id`` that it has *read* on any message, as a page would. So
every id is held to this: the events up to it have been brought, and no later one has. That and the order within each connection
make "exactly once" of what a client gets over all its connections.
"""

from __future__ import annotations

import itertools
import json
import random
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cartows import Client, Hub, Options, new_message
from cartows.client import sender
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
from cartows.history.history import Event

Room = tuple[str, str]
Filters = dict[str, tuple[str, ...]]

BOARDS, PROJECTS = ["a", "b", "c"], ["p", "q"]
ROOMS: list[Room] = [*(("board_id", board) for board in BOARDS), *(("project_id", project) for project in PROJECTS)]
PERSONS = 4

# What is no id.
GARBAGE = ["", ".", "x", "epoch", "epoch.", "epoch.-1", "epoch.1.2", "epoch.\u0663", " epoch.1"]

# So little that a writer has to come soon, and what a replay takes from the history at once; both in bytes.
SMALL_BUFFER = 2048
PAGE = 1024

# More than any answer takes.
_ANSWER = 500

DEADLINE = 30.0


class Told(NamedTuple):
    """Say whom an event is for."""

    rooms: frozenset[Room]
    #: Those without a filter hear it too.
    unfiltered: bool = True
    everyone: bool = False


class Holding(NamedTuple):
    """Say which filters a client holds; a ``selective`` one, whose filters were spoken of, never hears everything again."""

    filters: Filters
    selective: bool = False

    @property
    def rooms(self) -> frozenset[Room]:
        return frozenset((key, value) for key, values in self.filters.items() for value in values)

    def match(self, told: Told) -> bool:
        if told.everyone or self.rooms & told.rooms:
            return True
        return told.unfiltered and not self.rooms and not self.selective


class Ask(NamedTuple):
    """Be a ``subscribe`` or ``unsubscribe`` that a client has sent."""

    joins: bool
    rooms: tuple[Room, ...]
    since: str | None = None

    def changed(self, holding: Holding) -> Holding:
        filters = dict(holding.filters)
        for key, value in self.rooms:
            held = filters.get(key, ())
            if self.joins:
                filters[key] = held if value in held else (*held, value)
            else:
                filters[key] = tuple(each for each in held if each != value)
        filters = {key: values for key, values in filters.items() if values}
        return Holding(filters, True)

    def message(self) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in self.rooms:
            data.setdefault(key, []).append(value)
        if self.since is not None:
            data["since"] = self.since
        return {"type": "subscribe" if self.joins else "unsubscribe", "data": data}


class Journal:
    """Note where in the hub's order things happened to one client."""

    def __init__(self, head: int, published: int) -> None:
        #: The last event before its registration, and the last that had been published by then.
        self.head = head
        self.published = published
        #: The last event before each change of its filters, and whether that was asked for.
        self.changes: list[tuple[int, bool]] = []
        #: The last event before it was taken out.
        self.ended: int | None = None


class Line(NamedTuple):
    """Be one message that a client must read next: an event, or an answer, which has data."""

    type: str
    number: int
    data: dict[str, Any] | None = None
    #: An event that came later than the client's position: not one of a past that it subscribed with.
    live: bool = True


class NotedClient(Client):
    """Know whether a writer thread was needed."""

    wrote = False

    def write_pump(self) -> None:
        self.wrote = True
        super().write_pump()


class Link:
    """Be one connection of a client, with what it has asked and what it has read."""

    def __init__(self, hub: Hub, name: str, holding: Holding, since: str | None, buffer: int | None) -> None:
        mine, self.sock = socket.socketpair()
        self.sock.settimeout(DEADLINE)
        if buffer is not None:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.client = NotedClient(hub, Connection(PlainTransport(mine), threading.Lock(), hub.options), name)
        self.holding, self.since = holding, since
        for key, values in holding.filters.items():
            self.client.set_filter(key, values)
        self.client.since = since
        self.asked: list[Ask] = []
        #: What the server has set of its filters, in order.
        self.set: list[tuple[str, tuple[str, ...]]] = []
        self.pings = 0
        self.nonsense = 0
        #: It has spoken before it was registered.
        self.early = False
        #: The asks that have not been answered.
        self.unanswered: deque[Ask] = deque()
        #: What has been read, what has come and has not, and the bytes that are no whole frame yet.
        self.read: list[dict[str, Any]] = []
        self.unread: deque[dict[str, Any]] = deque()
        self.buffer = bytearray()
        #: The id that it would come back with.
        self.position = since
        #: Nothing more comes; it was this side that let go, or the other, with which code.
        self.over = self.let_go = False
        self.code: int | None = None
        self.thread = threading.Thread(target=self.client.read_pump, name=f"reader of {name}", daemon=True)
        self.thread.start()
        hub.register_client(self.client)

    # Speaking -----------------------------------------------------------------------------------------------------

    def say(self, message: Mapping[str, Any]) -> None:
        # Nobody speaks before the handshake's reply, which the greeting comes with.
        if not self.read and not self.unread and not self.over and not self.early:
            assert select.select([self.sock], [], [], DEADLINE)[0], "no greeting came"
        payload = json.dumps(message).encode()
        length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        # Who has been put out is not heard, and has yet to read that.
        with suppress(OSError):
            self.sock.sendall(b"\x81" + length + bytes(4) + payload)

    def ask(self, ask: Ask) -> None:
        self.asked.append(ask)
        self.unanswered.append(ask)
        self.say(ask.message())

    def ping(self) -> None:
        self.pings += 1
        self.say({"type": "ping"})

    def talk_nonsense(self, message: Mapping[str, Any]) -> None:
        self.nonsense += 1
        self.say(message)

    # Reading ------------------------------------------------------------------------------------------------------

    def take(self, most: int) -> None:
        """Read at most so many messages, of what has come."""
        for _ in range(most):
            if not self.unread and (self.over or not select.select([self.sock], [], [], 0)[0] or not self._receive(2048)):
                return
            if self.unread:
                self._read(self.unread.popleft())

    def take_until(self, done: Callable[[], bool]) -> None:
        """Read until then, or until the connection ends."""
        while not done() and (self.unread or (not self.over and self._receive(65536))):
            if self.unread:
                self._read(self.unread.popleft())

    def has_all(self, last: int) -> bool:
        """Return whether every answer has been read and the event with that number."""
        answers = [message["type"] for message in self.read if message["type"] in ("pong", "error")]
        events = (message for message in reversed(self.read) if message["type"] == "marker")
        return (
            not self.unanswered
            and len(answers) == self.pings + self.nonsense
            and any(number_of(message) == last for message in events)
        )

    def _receive(self, most: int) -> bool:
        try:
            data = self.sock.recv(most)
        except ConnectionError:
            data = b""
        self.over = self.over or not data
        buffer = self.buffer
        buffer += data
        while len(buffer) >= 2:
            length, head = buffer[1] & 127, 2
            if length == 126:
                length, head = int.from_bytes(buffer[2:4], "big"), 4
            if len(buffer) < head + length:
                break
            opcode, payload = buffer[0] & 15, bytes(buffer[head : head + length])
            del buffer[: head + length]
            if opcode == 8:
                self.code, self.over = int.from_bytes(payload[:2], "big"), True
            elif opcode == 1:
                self.unread.append(json.loads(payload))
        return bool(data)

    def _read(self, message: dict[str, Any]) -> None:
        self.read.append(message)
        kind = message["type"]
        if kind in ("subscribed", "unsubscribed"):
            self.unanswered.popleft()
        # Until the answer comes it cannot tell the past from the present.
        if "id" in message and (kind == "subscribed" or not any(ask.since is not None for ask in self.unanswered)):
            self.position = message["id"]

    def drop(self) -> None:
        self.let_go = not self.over or bool(self.unread)
        self.over = True
        self.sock.close()


def number_of(message: Mapping[str, Any]) -> int:
    return int(message["id"].partition(".")[2])


class Crowd:
    """Hold a hub, its clients, all that was published and the hub's order of it."""

    def __init__(self, **options: Any) -> None:
        self.hub = Hub(options=Options(compress_min_size=None, **options))
        self.options = self.hub.options
        #: Whom each event is for, and its bytes, by its number.
        self.told: dict[int, Told] = {}
        self.sizes: dict[int, int] = {}
        self.links: dict[int, Link] = {}
        #: The links that have ended, to be looked at once all is known.
        self.ended: list[Link] = []
        #: Of those who came back, how many were brought something, how many nothing, and how many had to reload.
        self.resumed = self.up_to_date = self.reloaded = 0
        #: Who was put out for falling behind, and who needed a writer.
        self.put_out = self.written = 0
        self._journals: dict[Client, Journal] = {}
        self._serial = itertools.count()
        # Its epoch is the hub thread's first deed.
        hold(self.hub).set()
        self._epoch = self.hub.position_frame("pong", 0, False).payload.split(b'"id":"')[1].split(b".")[0].decode()
        self._take_notes()
        # Pages so small that a replay has many.
        self._chunk, sender._CHUNK = sender._CHUNK, PAGE

    def _take_notes(self) -> None:
        """Note in the hub thread, which alone does these things, in which order they happen."""
        sessions, history = self.hub._pipeline.sessions, self.hub._pipeline.dispatcher.history
        register, change, unregister = sessions.register, sessions.change, sessions.unregister
        append = history.append

        def noted_register(client: Client) -> None:
            self._journals[client] = Journal(history.head, self.hub._pipeline.queue.number)
            register(client)

        def noted_change(client: Client, what: Any) -> None:
            if client in sessions._delivery_logs:
                self._journals[client].changes.append((history.head, what.answer is not None))
            change(client, what)

        def noted_unregister(client: Client) -> None:
            journal = self._journals.get(client)
            if journal is not None and journal.ended is None:
                journal.ended = history.head
            unregister(client)

        def noted_append(events: list[Event]) -> None:
            self.sizes.update({event.frame.number: len(event.frame.plain) for event in events})
            append(events)

        sessions.register = noted_register  # type: ignore[method-assign]
        sessions.change = noted_change  # type: ignore[method-assign]
        sessions.unregister = noted_unregister  # type: ignore[method-assign]
        history.append = noted_append  # type: ignore[method-assign,assignment]

    # What may happen ----------------------------------------------------------------------------------------------

    def publish(self, how: str, filters: Mapping[str, list[str]], pad: int = 0) -> int:
        """Broadcast in one of the ways that there are; returns the event's number."""
        hub, data = self.hub, {"serial": next(self._serial), "pad": "." * pad}
        board, project = [*filters.get("board_id", []), "a"][0], [*filters.get("project_id", []), "p"][0]
        about_board, about_project = {("board_id", board)}, {("project_id", project)}
        if how == "everyone":
            result, told = hub.broadcast_message(new_message("note", data)), Told(frozenset(), everyone=True)
        elif how == "filtered":
            result = hub.broadcast_to_filtered(new_message("note", data), "board_id", board)
            told = Told(frozenset(about_board), unfiltered=False)
        elif how == "task":
            result = hub.broadcast_task_created("t", board, data, project_id=project)
            told = Told(frozenset(about_board | about_project))
        elif how == "task of a board":
            result, told = hub.broadcast_task_updated("t", board, data), Told(frozenset(about_board))
        elif how == "project":
            result, told = hub.broadcast_project_updated(project, data), Told(frozenset(about_project))
        elif how == "board":
            result, told = hub.broadcast_board_updated(board, project, data), Told(frozenset(about_board | about_project))
        else:
            result = hub.broadcast("note", data, filters=filters or None)
            told = Told(frozenset((key, value) for key, values in filters.items() for value in values))
        assert result.accepted
        number = int(str(result.id).partition(".")[2])
        self.told[number] = told
        return number

    def id(self, number: int) -> str:
        return f"{self._epoch}.{number}"

    def since(self, kind: str, back: int, position: str | None) -> str | None:
        """Return an id of one kind or another to ask behind."""
        published = self.hub._pipeline.queue.number
        return {
            "none": None,
            "last": position,
            "recent": self.id(max(0, published - back)),
            "first": self.id(0),
            "newest": self.id(published),
            "future": self.id(published + 1000),
            "garbage": GARBAGE[back % len(GARBAGE)].replace("epoch", self._epoch),
            "elsewhere": f"0{self._epoch[1:]}x.{back}",
        }[kind]

    def connect(self, person: int, filters: Filters, since: str | None, buffer: int | None = None) -> Link:
        self.drop(person)
        link = self.links[person] = Link(self.hub, f"person {person}", Holding(filters, bool(filters)), since, buffer)
        return link

    def link(self, person: int) -> Link:
        """Return a person's connection; who has none, or was put out, comes back."""
        link = self.links.get(person)
        if link is not None and (link.unread or not link.over):
            return link
        return self.connect(person, {} if link is None else link.holding.filters, None if link is None else link.position)

    def drop(self, person: int) -> None:
        link = self.links.pop(person, None)
        if link is not None:
            link.drop()
            self.ended.append(link)

    def set_filter(self, person: int, key: str, values: tuple[str, ...]) -> None:
        link = self.link(person)
        # Before it is registered a filter is one that it came with.
        link.take_until(lambda: bool(link.read))
        link.set.append((key, values))
        link.client.set_filter(key, values)

    def settle(self) -> None:
        """Bring everybody everything, and compare."""
        result = self.hub.broadcast_message(new_message("marker"))
        last = int(str(result.id).partition(".")[2])
        self.told[last] = Told(frozenset(), everyone=True)
        self.wait_for_the_hub(last)
        for person, link in list(self.links.items()):
            link.take_until(lambda link=link: link.has_all(last))  # type: ignore[misc]
            if link.over:
                self.drop(person)
            else:
                self._check(link, whole=True)
                self.written += link.client.wrote
        for link in self.ended:
            link.thread.join(DEADLINE)
            assert not link.thread.is_alive()
            self._check(link, whole=False)
            self.written += link.client.wrote
        self.ended.clear()

    def wait_for_the_hub(self, last: int) -> None:
        """Wait until the hub has come to that event: where nobody is connected, nobody can tell."""
        deadline = time.monotonic() + DEADLINE
        while self.hub.position < last:
            assert time.monotonic() < deadline, f"the hub has not come to event {last}"
            time.sleep(0.001)

    def close(self) -> None:
        sender._CHUNK = self._chunk
        for person in list(self.links):
            self.drop(person)
        self.hub.shutdown(1.0)
        for link in self.ended:
            link.thread.join(DEADLINE)

    # What is promised ---------------------------------------------------------------------------------------------

    def first_kept(self, head: int) -> int:
        """Return the first event that the history may still have once it has come to ``head``."""
        size, first = 0, head + 1
        while first > 1 and head + 1 - first < self.options.history_size:
            size += self.sizes[first - 1]
            if size > self.options.history_bytes:
                break
            first -= 1
        return first

    def known(self, since: str, head: int, newest: int) -> int | None:
        """Return the number in an id behind which everything is there."""
        epoch, _, text = since.partition(".")
        if epoch != self._epoch or not (text.isascii() and text.isdigit()):
            return None
        return int(text) if self.first_kept(head) - 1 <= int(text) <= newest else None

    def _promised(self, link: Link, journal: Journal, start: int) -> Iterator[Line]:
        """Give, behind the greeting, every line that a client is to read."""
        holding, cursor = link.holding, start
        asked, set_by_server = iter(link.asked), iter(link.set)
        brought: set[int] = set()

        def live(until: int) -> Iterator[Line]:
            for number in range(cursor + 1, until + 1):
                if holding.match(self.told[number]):
                    brought.add(number)
                    yield Line("event", number)

        for head, was_asked in journal.changes:
            yield from live(head)
            cursor = max(cursor, head)
            if not was_asked:
                key, values = next(set_by_server)
                filters = {**holding.filters, key: values}
                filters = {each: held for each, held in filters.items() if held}
                holding = Holding(filters, True)
                continue
            ask = next(asked)
            holding = ask.changed(holding)
            data: dict[str, Any] = {key: list(values) for key, values in holding.filters.items()}
            if ask.since is not None:
                since = self.known(ask.since, head, head)
                wanted = Holding({}, True) if since is None else ask.changed(Holding({}))
                past = [n for n in range((since or 0) + 1, head + 1) if wanted.match(self.told[n]) and n not in brought]
                past = [] if since is None else past
                brought.update(past)
                yield from [Line("event", number, live=False) for number in past]
                data |= {"recovered": since is not None, "replayed": len(past)}
            yield Line("subscribed" if ask.joins else "unsubscribed", head, data)
        yield from live(max(self.told))

    def _check(self, link: Link, *, whole: bool) -> None:
        """Compare what a client has read with what it was promised; ``whole``: it has read everything."""
        if not link.read:
            return
        journal, greeting = self._journals[link.client], link.read[0]
        assert greeting["type"] == "connected"
        since = None if link.since is None else self.known(link.since, journal.head, journal.published)
        start = journal.head if since is None else since
        promised = list(self._promised(link, journal, start))
        # The greeting: what is counted there is what stands in the history at that moment.
        told = {key: greeting["data"].get(key) for key in ("recovered", "replayed")}
        if link.since is None:
            assert told == {"recovered": None, "replayed": None}
        else:
            missed = [number for number in range(start + 1, journal.head + 1) if link.holding.match(self.told[number])]
            assert told == {"recovered": since is not None, "replayed": len(missed)}
            self.reloaded += since is None
            self.resumed += bool(missed)
            self.up_to_date += since is not None and not missed
        assert greeting["id"] == greeting["data"]["id"]

        lines = iter(promised)
        to_come = sorted(line.number for line in promised if line.type == "event" and line.live)
        done = 0
        for message in link.read:
            kind = message["type"]
            if kind in ("error", "disconnect"):
                assert "id" not in message
                continue
            if kind not in ("connected", "pong"):
                line = next(lines, None)
                assert line is not None, f"not promised: {message}"
                found = Line("event", number_of(message))
                if kind in ("subscribed", "unsubscribed"):
                    found = found._replace(type=kind, data=message.get("data", {}))
                assert found == line._replace(live=True), f"{found} came in place of {line}"
                done += line.type == "event" and line.live
                if line.type == "event":
                    continue
            # Who comes back with this id is to miss nothing and to see nothing twice.
            position = number_of(message)
            assert done == len(to_come) or to_come[done] > position, f"{kind} at {position} is ahead of event {to_come[done]}"
            assert not done or to_come[done - 1] <= position, f"{kind} at {position} is behind event {to_come[done - 1]}"
            assert kind != "pong" or "data" not in message, "nothing was dropped"
        left = list(lines)
        if whole:
            assert not left, f"never came: {left[:5]}"
        elif not link.let_go:
            self._check_put_out(link, journal, left, to_come[done - 1] if done else start)

    def _check_put_out(self, link: Link, journal: Journal, left: list[Line], last: int) -> None:
        """See that a client was put out for falling behind, and had done so; ``last`` is the last event that it read."""
        self.put_out += 1
        assert link.code == 3008, link.code
        assert link.read[-1]["type"] == "disconnect", link.read[-1]
        assert journal.ended is not None
        left = [line for line in left if line.number <= journal.ended]
        events = [line.number for line in left if line.type == "event"]
        waiting = len(left) + link.pings + link.nonsense
        bytes_waiting = sum(self.sizes[number] for number in events) + _ANSWER * (waiting - len(events))
        # A past that was asked for, and of which perhaps nothing has come yet, begins further back.
        sinces = [ask.since.partition(".")[2] for ask in link.unanswered if ask.since is not None]
        reached = min([last, *[int(text) for text in sinces if text.isascii() and text.isdigit()]])
        assert (
            waiting > self.options.send_queue_size
            or bytes_waiting > self.options.send_queue_bytes
            or self.first_kept(journal.ended) > reached + 1
        ), f"put out with {waiting} lines and {bytes_waiting} bytes waiting"


@contextmanager
def crowd(**options: Any) -> Iterator[Crowd]:
    made = Crowd(**options)
    try:
        yield made
    finally:
        made.close()


# Random steps -----------------------------------------------------------------------------------------------------------

HOWS = ["everyone", "filtered", "task", "task of a board", "project", "board", "own", "own", "own"]
ANY_FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "board_id": st.lists(st.sampled_from(BOARDS), min_size=1, max_size=3, unique=True),
        "project_id": st.lists(st.sampled_from(PROJECTS), min_size=1, max_size=2, unique=True),
    },
)
KINDS = ["none", "last", "last", "last", "recent", "recent", "first", "newest", "future", "garbage", "elsewhere"]
SINCES = st.sampled_from(KINDS)
PASTS = st.sampled_from(["none", "last", "recent", "recent", "recent", "recent", "first", "newest", "garbage", "elsewhere"])
BUFFERS = st.sampled_from([None, SMALL_BUFFER])
NONSENSE = [None, [], {}, {"room": "a"}, {"board_id": None}, {"board_id": "a", "presence": 1}]
PERSON = st.integers(0, PERSONS - 1)
EVENTS = st.tuples(st.sampled_from(HOWS), ANY_FILTERS, st.sampled_from([0, 0, 300, 900]))
ASKED_ROOMS = st.lists(st.sampled_from(ROOMS), min_size=1, max_size=3, unique=True).map(lambda rooms: tuple(sorted(rooms)))


class ResumeModel(RuleBasedStateMachine):
    """Let people come, ask, read a little, lose their connections and come back while events are published."""

    crowd: Crowd

    @initialize(
        history_size=st.sampled_from([8, 20, 40]),
        history_bytes=st.sampled_from([4_000, 1_000_000]),
        send_queue_size=st.sampled_from([4, 12, 256]),
        send_queue_bytes=st.sampled_from([4_000, 1_000_000]),
    )
    def open(self, **options: int) -> None:
        self.crowd = Crowd(**options)

    @rule(events=st.lists(EVENTS, min_size=1, max_size=6))
    def publish(self, events: list[tuple[str, dict[str, list[str]], int]]) -> None:
        for how, filters, pad in events:
            self.crowd.publish(how, filters, pad)

    @rule(count=st.integers(7, 50), event=EVENTS)
    def publish_many(self, count: int, event: tuple[str, dict[str, list[str]], int]) -> None:
        for _ in range(count):
            self.crowd.publish(*event)

    @rule(person=PERSON, filters=ANY_FILTERS, kind=SINCES, back=st.integers(0, 45), buffer=BUFFERS)
    def connect(self, person: int, filters: dict[str, list[str]], kind: str, back: int, buffer: int | None) -> None:
        before = self.crowd.links.get(person)
        since = self.crowd.since(kind, back, None if before is None else before.position)
        self.crowd.connect(person, {key: tuple(values) for key, values in filters.items()}, since, buffer)

    @rule(person=PERSON, events=st.lists(EVENTS, max_size=4), buffer=BUFFERS)
    def come_back(self, person: int, events: list[tuple[str, dict[str, list[str]], int]], buffer: int | None) -> None:
        link = self.crowd.link(person)
        self.crowd.drop(person)
        for how, filters, pad in events:
            self.crowd.publish(how, filters, pad)
        self.crowd.connect(person, link.holding.filters, link.position, buffer)

    @rule(person=PERSON, most=st.sampled_from([1, 2, 5, 20, 1000]))
    def read(self, person: int, most: int) -> None:
        self.crowd.link(person).take(most)

    @rule(person=PERSON, rooms=ASKED_ROOMS, kind=PASTS, back=st.integers(0, 12))
    def subscribe(self, person: int, rooms: tuple[Room, ...], kind: str, back: int) -> None:
        link = self.crowd.link(person)
        link.ask(Ask(True, rooms, self.crowd.since(kind, back, link.position)))

    @rule(person=PERSON, rooms=ASKED_ROOMS)
    def unsubscribe(self, person: int, rooms: tuple[Room, ...]) -> None:
        self.crowd.link(person).ask(Ask(False, rooms))

    @rule(person=PERSON, room=st.sampled_from(ROOMS), holds=st.booleans())
    def set_filter(self, person: int, room: Room, holds: bool) -> None:
        self.crowd.set_filter(person, room[0], (room[1],) if holds else ())

    @rule(person=PERSON)
    def ping(self, person: int) -> None:
        self.crowd.link(person).ping()

    @rule(person=PERSON, data=st.sampled_from(NONSENSE))
    def talk_nonsense(self, person: int, data: Any) -> None:
        self.crowd.link(person).talk_nonsense({"type": "subscribe", "data": data})

    @rule()
    def settle(self) -> None:
        self.crowd.settle()

    def teardown(self) -> None:
        if hasattr(self, "crowd"):
            try:
                self.crowd.settle()
            finally:
                self.crowd.close()


MODEL_SETTINGS = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=120,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)
ResumeModel.TestCase.settings = MODEL_SETTINGS
TestResumeAgainstAModel = ResumeModel.TestCase


def take_steps(crowd: Crowd, chance: random.Random, steps: int) -> None:
    """Do at random what the machine does, while others publish."""

    def some(things: list[Any]) -> list[Any]:
        return chance.sample(things, chance.randint(1, len(things)))

    def filters() -> Filters:
        keys = {"board_id": BOARDS, "project_id": PROJECTS}
        return {key: tuple(some(values)) for key, values in keys.items() if chance.random() < 0.5}

    for _ in range(steps):
        person, action = chance.randrange(PERSONS), chance.randrange(10)
        kind, back = chance.choice(KINDS), chance.randrange(30)
        before = crowd.links.get(person)
        since = crowd.since(kind, back, None if before is None else before.position)
        if action < 2:
            crowd.connect(person, filters(), since, chance.choice([None, SMALL_BUFFER]))
        elif action < 4:
            crowd.link(person).ask(Ask(True, tuple(sorted(some(ROOMS))), since))
        elif action == 4:
            crowd.link(person).ask(Ask(False, tuple(sorted(some(ROOMS)))))
        elif action == 5:
            crowd.set_filter(person, "board_id", tuple(some(BOARDS)) if chance.random() < 0.5 else ())
        elif action == 6:
            crowd.link(person).ping()
        else:
            crowd.link(person).take(chance.choice([1, 5, 50, 1000]))


@contextmanager
def publishing(crowd: Crowd, count: int, chance: random.Random, pace: threading.Semaphore | None = None) -> Iterator[None]:
    """Publish so many random events in a thread, each when ``pace`` allows it."""

    def publish() -> None:
        for _ in range(count):
            if pace is not None:
                assert pace.acquire(timeout=DEADLINE)
            filters = {"board_id": [chance.choice(BOARDS)], "project_id": [chance.choice(PROJECTS)]}
            crowd.publish(chance.choice(HOWS), filters, chance.choice([0, 0, 300]))

    thread = threading.Thread(target=publish, name="publisher")
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("seed", range(3))
def test_threads_that_are_switched_all_the_time_break_nothing(seed: int) -> None:
    before = sys.getswitchinterval()
    with crowd(history_size=60, send_queue_size=32) as people:
        sys.setswitchinterval(1e-6)
        try:
            pace = threading.Semaphore(0)
            with publishing(people, 800, random.Random(seed), pace):
                chance = random.Random(seed + 100)
                for _ in range(80):
                    take_steps(people, chance, 5)
                    pace.release(10)
            people.settle()
        finally:
            sys.setswitchinterval(before)
        assert people.resumed > 5
        assert people.reloaded > 5


def test_two_hundred_come_back_at_once_while_events_go_on() -> None:
    with crowd(history_size=1000) as people:
        chance = random.Random(1)
        with publishing(people, 300, chance):
            pass
        with publishing(people, 150, chance):
            for person in range(200):
                filters: Filters = {"board_id": tuple(BOARDS[: person % 4])} if person % 4 else {}
                people.connect(person, filters, people.id(person * 2))
        people.settle()
        assert people.resumed > 100
        assert people.put_out == 0


def test_a_replay_is_paged_while_events_go_on_and_who_is_too_slow_for_it_reloads() -> None:
    with crowd(history_size=200, send_queue_size=64) as people:
        for number in range(150):
            people.publish("own", {"board_id": [BOARDS[number % 3]]}, 300)
        for person in range(4):
            fast = people.connect(person, {}, people.id(0), SMALL_BUFFER)
        for number in range(300):
            people.publish("own", {"board_id": [BOARDS[number % 3]]}, 300)
            # The first reads nothing, two read a little, and the last is never far behind.
            for person, most in enumerate((0, 1, 2)):
                people.link(person).take(most)
            if number % 20 == 19:
                last = people.id(max(people.told))
                fast.take_until(lambda last=last: bool(fast.read) and fast.read[-1].get("id") == last)  # type: ignore[misc]
        first = people.links[0]
        first.take_until(lambda: first.over and not first.unread)
        people.link(0)
        people.settle()
        assert people.written >= 4
        assert people.put_out > 0
        assert people.reloaded > 0
        assert people.links[3] is fast, "who reads is not put out, however far behind it began"


def hold(hub: Hub) -> threading.Event:
    """Keep the hub thread from everything until the event that is returned is set."""
    held, release = threading.Event(), threading.Event()
    hub.start()
    hub._pipeline.queue.put_control(lambda: (held.set(), release.wait(DEADLINE)))  # type: ignore[arg-type,func-returns-value]
    assert held.wait(DEADLINE)
    return release


def test_who_names_an_event_that_the_hub_has_not_come_to_yet_misses_nothing_and_gets_nothing_twice() -> None:
    # An id comes with the answer to a POST, too. Between its registration and that event the page asks for another room.
    for since in (None, 0):
        with crowd(send_queue_size=2) as people:
            hub = people.hub
            release = hold(hub)
            for number in range(10):
                people.publish("own", {"board_id": [BOARDS[number % 2]]})
            link = people.connect(0, {"board_id": ("a",)}, people.id(8))
            link.early = True
            ask = Ask(True, (("board_id", "b"),), None if since is None else people.id(since))
            link.asked.append(ask)
            link.unanswered.append(ask)

            def speak(hub: Hub = hub, link: Link = link, ask: Ask = ask) -> None:
                if hub._pipeline.dispatcher.history.head < 3:
                    hub._pipeline.queue.put_registration(speak)
                else:
                    link.client.handle_incoming_message(json.dumps(ask.message()))

            hub._pipeline.queue.put_registration(speak)
            release.set()
            people.settle()


def test_who_speaks_before_it_is_registered_is_answered_in_the_right_place() -> None:
    with crowd() as people:
        for number in range(6):
            people.publish("own", {"board_id": [BOARDS[number % 2]]})
        people.settle()
        release = hold(people.hub)
        link = people.connect(0, {"board_id": ("a",)}, people.id(1))
        link.early = True
        ask = Ask(True, (("board_id", "b"),), people.id(0))
        link.pings = 1
        link.asked.append(ask)
        link.unanswered.append(ask)
        for message in ({"type": "ping"}, ask.message()):
            link.client.handle_incoming_message(json.dumps(message))
        release.set()
        people.settle()
        assert people.resumed == 1
        assert sorted(number_of(message) for message in link.read if message["type"] == "note") == [2, 3, 4, 5, 6]


def test_what_the_cursor_of_a_replay_has_passed_is_not_sent_again_and_a_ping_meanwhile_tells_the_truth() -> None:
    with crowd() as people:
        for _ in range(30):
            people.publish("own", {}, 300)
        people.settle()
        link = people.connect(0, {}, people.id(0), SMALL_BUFFER)
        history = people.hub._pipeline.dispatcher.history
        append, done = history.append, threading.Event()

        def append_and_wait(events: list[Event]) -> None:
            append(events)
            # The writer takes these from the history before the hub has offered them.
            link.ping()
            link.take_until(lambda: len(link.read) > 20)
            link.ping()
            link.take_until(lambda: any(number_of(message) == history.head for message in link.read))
            link.ping()
            link.take_until(lambda: sum(message["type"] == "pong" for message in link.read) == 3)
            done.set()

        history.append = append_and_wait  # type: ignore[method-assign,assignment]
        people.publish("own", {}, 300)
        assert done.wait(DEADLINE)
        history.append = append  # type: ignore[method-assign]
        people.settle()


def test_the_position_of_who_hears_nothing_moves_on() -> None:
    with crowd() as people:
        link = people.connect(0, {"board_id": ("a",)}, None)
        for _ in range(5):
            last = people.publish("own", {"board_id": ["b"]})
        people.settle()
        for _ in range(5):
            last = people.publish("own", {"board_id": ["b"]})
        people.wait_for_the_hub(last)
        link.ping()
        link.take_until(lambda: any(message["type"] == "pong" for message in link.read))
        assert link.position == people.id(last)


def test_what_is_asked_for_about_the_time_of_the_registration_takes_effect_in_its_order() -> None:
    with crowd() as people:
        hub = people.hub
        release = hold(hub)
        link = people.connect(0, {}, None)
        link.early = True
        asks = [Ask(True, (("board_id", "a"),)), Ask(True, (("board_id", "b"),)), Ask(False, (("board_id", "a"),))]
        link.asked += asks
        link.unanswered += asks
        # The first comes before the registration, the others between that and the hub's next turn.
        link.client.handle_incoming_message(json.dumps(asks[0].message()))
        for ask in asks[1:]:
            hub._pipeline.queue.put_registration(partial(link.client.handle_incoming_message, json.dumps(ask.message())))
        release.set()
        people.settle()
        people.publish("own", {"board_id": ["a"]})
        number = people.publish("own", {"board_id": ["b"]})
        people.settle()
        assert number in [number_of(message) for message in link.read if message["type"] == "note"]


def test_what_a_client_asks_for_while_it_is_shown_out_does_not_keep_the_hub_busy() -> None:
    with crowd() as people:
        hub, other = people.hub, people.connect(1, {}, None)
        link = people.connect(0, {}, None)
        link.take_until(lambda: bool(link.read))
        other.take_until(lambda: bool(other.read))
        hub.client_count()
        turns = 0
        take = hub._pipeline.queue.take

        def counted(max_events: int, max_registrations: int) -> Any:
            nonlocal turns
            turns += 1
            return take(max_events, max_registrations)

        # The peer does not answer the close frame, and its reader has been busy with a message all the while.
        link.client.close(4500, "out")
        link.client.handle_incoming_message(json.dumps(Ask(True, (("board_id", "b"),)).message()))
        hub._pipeline.queue.take = counted  # type: ignore[method-assign]
        for _ in range(20):
            number = people.publish("everyone", {})
            other.take_until(lambda number=number: number_of(other.read[-1]) == number)  # type: ignore[misc]
        assert turns <= 60
        del hub._pipeline.queue.take
        people.drop(0)


def test_age_that_runs_out_in_the_middle_of_a_registration_is_no_recovery() -> None:
    with crowd(history_ttl=10.0) as people:
        history = people.hub._pipeline.dispatcher.history
        history._clock = lambda: 0.0
        for _ in range(5):
            people.publish("everyone", {})
        people.settle()
        # Each look at the clock costs 6 s: whatever was there at the first is gone at the second.
        clock = itertools.count(6.0, 6.0)
        history._clock = lambda: next(clock)
        link = people.connect(0, {}, people.id(2))
        link.take_until(lambda: bool(link.read) or link.over)
        if link.read[0]["data"]["recovered"]:
            # What could be promised then may be gone now; but it is not passed over.
            link.take_until(lambda: len(link.read) == 5)
            numbers = [number_of(message) for message in link.read[1:] if "id" in message]
            assert numbers == [3, 4, 5, 6] or (numbers == [3, 4, 5, 6][: len(numbers)] and link.code == 3008)
