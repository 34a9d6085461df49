"""Resume, from end to end in this process: a hub, clients on socket pairs, and a model of what each client is guaranteed.

Records taken in the hub thread show where in the hub's order a client was registered and each change of its filters took
effect. The model derives the rest from sets, and checks everything a client has read: only events of its filters, each once and
in order, with the answers in their places, and nothing else.

A client drops with bytes unread and resumes with the last ``id`` that it has *read* on any message, as a page would. So every
id is checked: the events up to it have been delivered, and no later one has. Together with the order within each connection
this proves "exactly once" over all connections of a client.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cartows import Client, Hub, Options, new_message
from cartows.client import sender
from cartows.client.commands import INVALID_PERIOD, MAX_INVALID
from cartows.history.history import Event
from tests.support.resume_link import (
    GARBAGE,
    MAX_ANSWER,
    PAGE,
    Expected,
    Filters,
    Journal,
    Link,
    Recipients,
    Subscription,
    number_of,
)
from tests.support.waiting import DEADLINE, wait_until


class Model:
    """A hub, its clients, everything that was published, and the order of the hub."""

    def __init__(self, **options: Any) -> None:
        self.hub = Hub(options=Options(compress_min_size=None, **options))
        self.options = self.hub.options
        #: The recipients and the size of each event, by its number.
        self.recipients: dict[int, Recipients] = {}
        self.sizes: dict[int, int] = {}
        self.links: dict[int, Link] = {}
        #: The links that have ended, to be checked once every event is known.
        self.ended: list[Link] = []
        #: Of the clients that resumed: how many got a replay, and how many had to reload.
        self.resumed = self.reloaded = 0
        #: How many clients were disconnected as too slow, and how many needed a writer.
        self.disconnected = self.written = 0
        self._journals: dict[Client, Journal] = {}
        self._serial = itertools.count()
        # The hub thread first makes the epoch.
        hold(self.hub).set()
        self._epoch = self.hub.position_frame("pong", 0, False).payload.split(b'"id":"')[1].split(b".")[0].decode()
        self._record_order()
        # Parts so small that a replay has many.
        self._chunk, sender._CHUNK = sender._CHUNK, PAGE

    def _record_order(self) -> None:
        """Record the order in which things happen, in the hub thread, which alone does them."""
        sessions, history = self.hub._pipeline.sessions, self.hub._pipeline.dispatcher.history
        register, change, unregister = sessions.register, sessions.change, sessions.unregister
        append = history.append

        def recording_register(client: Client) -> None:
            self._journals[client] = Journal(history.head, self.hub._pipeline.queue.number)
            register(client)

        def recording_change(client: Client, what: Any) -> None:
            if client in sessions._delivery_logs:
                self._journals[client].changes.append((history.head, what.answer is not None))
            change(client, what)

        def recording_unregister(client: Client) -> None:
            journal = self._journals.get(client)
            if journal is not None and journal.ended is None:
                journal.ended = history.head
            unregister(client)

        def recording_append(events: list[Event]) -> None:
            self.sizes.update({event.frame.number: len(event.frame.plain) for event in events})
            append(events)

        sessions.register = recording_register  # type: ignore[method-assign]
        sessions.change = recording_change  # type: ignore[method-assign]
        sessions.unregister = recording_unregister  # type: ignore[method-assign]
        history.append = recording_append  # type: ignore[method-assign,assignment]

    # Steps ----------------------------------------------------------------------------------------------

    def publish(self, way: str, filters: Mapping[str, list[str]], pad: int = 0) -> int:
        """Broadcast in one of the possible ways; return the event's number."""
        hub, data = self.hub, {"serial": next(self._serial), "pad": "." * pad}
        board, project = [*filters.get("board_id", []), "a"][0], [*filters.get("project_id", []), "p"][0]
        about_board, about_project = {("board_id", board)}, {("project_id", project)}
        if way == "everyone":
            result, recipients = hub.broadcast_message(new_message("note", data)), Recipients(frozenset(), everyone=True)
        elif way == "filtered":
            result = hub.broadcast_to_filtered(new_message("note", data), "board_id", board)
            recipients = Recipients(frozenset(about_board), unfiltered=False)
        elif way == "task":
            result = hub.broadcast_task_created("t", board, data, project_id=project)
            recipients = Recipients(frozenset(about_board | about_project))
        elif way == "task of a board":
            result, recipients = hub.broadcast_task_updated("t", board, data), Recipients(frozenset(about_board))
        elif way == "project":
            result, recipients = hub.broadcast_project_updated(project, data), Recipients(frozenset(about_project))
        elif way == "board":
            result, recipients = (
                hub.broadcast_board_updated(board, project, data),
                Recipients(frozenset(about_board | about_project)),
            )
        else:
            named = {key: values for key, values in filters.items() if values}
            result = hub.broadcast("note", data, filters=named or None)
            rooms = frozenset((key, value) for key, values in named.items() for value in values)
            recipients = Recipients(rooms, everyone=not named)
        assert result.accepted
        number = int(str(result.id).partition(".")[2])
        self.recipients[number] = recipients
        return number

    def id(self, number: int) -> str:
        return f"{self._epoch}.{number}"

    def since(self, kind: str, back: int, position: str | None) -> str | None:
        """Return an id of that kind to resume after."""
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

    def connect(self, index: int, filters: Filters, since: str | None, buffer: int | None = None) -> Link:
        self.drop(index)
        link = self.links[index] = Link(self.hub, f"client {index}", Subscription(filters, bool(filters)), since, buffer)
        return link

    def link(self, index: int) -> Link:
        """Return a client's connection; one that has none, or was disconnected, resumes."""
        link = self.links.get(index)
        if link is not None and (link.unread or not link.over):
            return link
        return self.connect(index, {} if link is None else link.held.filters, None if link is None else link.position)

    def drop(self, index: int) -> None:
        link = self.links.pop(index, None)
        if link is not None:
            link.drop()
            self.ended.append(link)

    def set_filter(self, index: int, key: str, values: tuple[str, ...]) -> None:
        link = self.link(index)
        # Before the registration a filter would count as one that it connected with.
        link.read_until(lambda: bool(link.messages))
        link.set.append((key, values))
        link.client.set_filter(key, values)

    def check_all(self) -> None:
        """Deliver everything to every client, and compare."""
        result = self.hub.broadcast_message(new_message("marker"))
        last = int(str(result.id).partition(".")[2])
        self.recipients[last] = Recipients(frozenset(), everyone=True)
        self.await_hub(last)
        for index, link in list(self.links.items()):
            link.read_until(lambda link=link: link.has_all(last))  # type: ignore[misc]
            if link.over:
                self.drop(index)
            else:
                # With the tenth it is disconnected; one is forgotten in each period.
                assert link.invalid < MAX_INVALID + (time.monotonic() - link.began_at) / INVALID_PERIOD
                self._check(link, whole=True)
                self.written += link.client.wrote
        for link in self.ended:
            link.thread.join(DEADLINE)
            assert not link.thread.is_alive()
            self._check(link, whole=False)
            self.written += link.client.wrote
        self.ended.clear()

    def await_hub(self, last: int) -> None:
        """Wait until the hub has reached that event, which no client may be connected to receive."""
        wait_until(lambda: self.hub.position >= last, f"the hub to reach event {last}")

    def close(self) -> None:
        sender._CHUNK = self._chunk
        for index in list(self.links):
            self.drop(index)
        self.hub.shutdown(1.0)
        for link in self.ended:
            link.thread.join(DEADLINE)

    # Guarantees ---------------------------------------------------------------------------------------------

    def first_kept(self, head: int) -> int:
        """Return the first event that the history may still hold once its last is ``head``."""
        size, first = 0, head + 1
        while first > 1 and head + 1 - first < self.options.history_size:
            size += self.sizes[first - 1]
            if size > self.options.history_bytes:
                break
            first -= 1
        return first

    def known(self, since: str, head: int, newest: int) -> int | None:
        """Return the number in an id if every event after it is still in the history."""
        epoch, _, text = since.partition(".")
        if epoch != self._epoch or not (text.isascii() and text.isdigit()):
            return None
        return int(text) if self.first_kept(head) - 1 <= int(text) <= newest else None

    def _expected(self, link: Link, journal: Journal, start: int) -> Iterator[Expected]:
        """Yield every message that a client has to read after the greeting."""
        held, cursor = link.held, start
        requests, set_by_server = iter(link.requests), iter(link.set)
        delivered: set[int] = set()

        def live(until: int) -> Iterator[Expected]:
            for number in range(cursor + 1, until + 1):
                if held.match(self.recipients[number]):
                    delivered.add(number)
                    yield Expected("event", number)

        for head, was_requested in journal.changes:
            yield from live(head)
            cursor = max(cursor, head)
            if not was_requested:
                key, values = next(set_by_server)
                filters = {**held.filters, key: values}
                filters = {each: held for each, held in filters.items() if held}
                held = Subscription(filters, True)
                continue
            request = next(requests)
            held = request.changed(held)
            data: dict[str, Any] = {key: list(values) for key, values in held.filters.items()}
            if request.since is not None:
                since = self.known(request.since, head, head)
                wanted = request.changed(Subscription({}))
                first = head + 1 if since is None else since + 1
                replay = [n for n in range(first, head + 1) if wanted.match(self.recipients[n]) and n not in delivered]
                delivered.update(replay)
                yield from [Expected("event", number, live=False) for number in replay]
                data |= {"recovered": since is not None, "replayed": len(replay)}
            yield Expected("subscribed" if request.joins else "unsubscribed", head, data)
        yield from live(max(self.recipients))

    def _check(self, link: Link, *, whole: bool) -> None:
        """Compare what a client has read with what is guaranteed; ``whole``: it has read everything."""
        if not link.messages:
            return
        journal, greeting = self._journals[link.client], link.messages[0]
        assert greeting["type"] == "connected"
        since = None if link.since is None else self.known(link.since, journal.head, journal.published)
        start = journal.head if since is None else since
        expected = list(self._expected(link, journal, start))
        # The greeting counts what the history holds at that moment.
        counts = {key: greeting["data"].get(key) for key in ("recovered", "replayed")}
        if link.since is None:
            assert counts == {"recovered": None, "replayed": None}
        else:
            missed = [number for number in range(start + 1, journal.head + 1) if link.held.match(self.recipients[number])]
            assert counts == {"recovered": since is not None, "replayed": len(missed)}
            self.reloaded += since is None
            self.resumed += bool(missed)
        assert greeting["id"] == greeting["data"]["id"]

        lines = iter(expected)
        to_come = sorted(line.number for line in expected if line.type == "event" and line.live)
        done = 0
        for message in link.messages:
            kind = message["type"]
            if kind in ("error", "disconnect"):
                assert "id" not in message
                continue
            if kind not in ("connected", "pong"):
                line = next(lines, None)
                assert line is not None, f"unexpected: {message}"
                found = Expected("event", number_of(message))
                if kind in ("subscribed", "unsubscribed"):
                    found = found._replace(type=kind, data=message.get("data", {}))
                assert found == line._replace(live=True), f"{found} instead of {line}"
                done += line.type == "event" and line.live
                if line.type == "event":
                    continue
            # A client that resumes from this id must miss nothing and receive nothing twice.
            position = number_of(message)
            assert done == len(to_come) or to_come[done] > position, f"{kind} at {position} is ahead of event {to_come[done]}"
            assert not done or to_come[done - 1] <= position, f"{kind} at {position} is behind event {to_come[done - 1]}"
            assert kind != "pong" or "data" not in message, "nothing was dropped"
        left = list(lines)
        if whole:
            assert not left, f"missing: {left[:5]}"
        elif not link.dropped:
            self._check_disconnected(link, journal, left, to_come[done - 1] if done else start)

    def _check_disconnected(self, link: Link, journal: Journal, left: list[Expected], last: int) -> None:
        """Check that a client was disconnected, and rightly so; ``last`` is the last event that it read."""
        if link.code == 1008:
            assert link.invalid >= MAX_INVALID
            assert link.messages[-1]["type"] == "disconnect", link.messages[-1]
            return
        self.disconnected += 1
        assert link.code == 3008, link.code
        assert link.messages[-1]["type"] == "disconnect", link.messages[-1]
        assert journal.ended is not None
        left = [line for line in left if line.number <= journal.ended]
        events = [line.number for line in left if line.type == "event"]
        waiting = len(left) + link.pings + link.invalid
        bytes_waiting = sum(self.sizes[number] for number in events) + MAX_ANSWER * (waiting - len(events))
        # A requested replay, of which perhaps nothing has arrived yet, begins further back.
        sinces = [request.since.partition(".")[2] for request in link.unanswered if request.since is not None]
        reached = min([last, *[int(text) for text in sinces if text.isascii() and text.isdigit()]])
        assert (
            waiting > self.options.send_queue_size
            or bytes_waiting > self.options.send_queue_bytes
            or self.first_kept(journal.ended) > reached + 1
        ), f"disconnected with {waiting} messages and {bytes_waiting} bytes waiting"


def hold(hub: Hub) -> threading.Event:
    """Block the hub thread until the returned event is set."""
    held, release = threading.Event(), threading.Event()
    hub.start()
    hub._pipeline.queue.put_control(lambda: (held.set(), release.wait(DEADLINE)))  # type: ignore[arg-type,func-returns-value]
    assert held.wait(DEADLINE)
    return release
