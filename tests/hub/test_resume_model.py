"""Random clients against the resume model of tests/support."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cartows.client.commands import MAX_INVALID
from tests.support.resume_link import BOARDS, CLIENTS, PROJECTS, ROOMS, SMALL_BUFFER, Filters, Request, Room
from tests.support.resume_model import Model
from tests.support.waiting import DEADLINE

# Random steps -----------------------------------------------------------------------------------------------------------

WAYS = ["everyone", "filtered", "task", "task of a board", "project", "board", "own", "own", "own"]
ANY_FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "board_id": st.lists(st.sampled_from(BOARDS), min_size=1, max_size=3, unique=True),
        "project_id": st.lists(st.sampled_from(PROJECTS), min_size=1, max_size=2, unique=True),
    },
)
KINDS = ["none", "last", "last", "last", "recent", "recent", "first", "newest", "future", "garbage", "elsewhere"]
SINCES = st.sampled_from(KINDS)
ROOM_SINCES = st.sampled_from(
    ["none", "last", "recent", "recent", "recent", "recent", "first", "newest", "garbage", "elsewhere"]
)
BUFFERS = st.sampled_from([None, SMALL_BUFFER])
INVALID = [None, [], {}, {"room": "a"}, {"board_id": None}, {"board_id": "a", "presence": 1}]
INDEX = st.integers(0, CLIENTS - 1)
EVENTS = st.tuples(st.sampled_from(WAYS), ANY_FILTERS, st.sampled_from([0, 0, 300, 900]))
SOME_ROOMS = st.lists(st.sampled_from(ROOMS), min_size=1, max_size=3, unique=True).map(lambda rooms: tuple(sorted(rooms)))


class ResumeModel(RuleBasedStateMachine):
    """Clients connect, subscribe, read a little, lose their connections and resume while events are published."""

    model: Model

    @initialize(
        history_size=st.sampled_from([8, 20, 40]),
        history_bytes=st.sampled_from([4_000, 1_000_000]),
        send_queue_size=st.sampled_from([4, 12, 256]),
        send_queue_bytes=st.sampled_from([4_000, 1_000_000]),
    )
    def open(self, **options: int) -> None:
        self.model = Model(**options)

    @rule(events=st.lists(EVENTS, min_size=1, max_size=6))
    def publish(self, events: list[tuple[str, dict[str, list[str]], int]]) -> None:
        for way, filters, pad in events:
            self.model.publish(way, filters, pad)

    @rule(count=st.integers(7, 50), event=EVENTS)
    def publish_many(self, count: int, event: tuple[str, dict[str, list[str]], int]) -> None:
        for _ in range(count):
            self.model.publish(*event)

    @rule(index=INDEX, filters=ANY_FILTERS, kind=SINCES, back=st.integers(0, 45), buffer=BUFFERS)
    def connect(self, index: int, filters: dict[str, list[str]], kind: str, back: int, buffer: int | None) -> None:
        before = self.model.links.get(index)
        since = self.model.since(kind, back, None if before is None else before.position)
        self.model.connect(index, {key: tuple(values) for key, values in filters.items()}, since, buffer)

    @rule(index=INDEX, events=st.lists(EVENTS, max_size=4), buffer=BUFFERS)
    def reconnect(self, index: int, events: list[tuple[str, dict[str, list[str]], int]], buffer: int | None) -> None:
        link = self.model.link(index)
        self.model.drop(index)
        for way, filters, pad in events:
            self.model.publish(way, filters, pad)
        self.model.connect(index, link.held.filters, link.position, buffer)

    @rule(index=INDEX, max_messages=st.sampled_from([1, 2, 5, 20, 1000]))
    def read(self, index: int, max_messages: int) -> None:
        self.model.link(index).read(max_messages)

    @rule(index=INDEX, rooms=SOME_ROOMS, kind=ROOM_SINCES, back=st.integers(0, 12))
    def subscribe(self, index: int, rooms: tuple[Room, ...], kind: str, back: int) -> None:
        link = self.model.link(index)
        link.request(Request(True, rooms, self.model.since(kind, back, link.position)))

    @rule(index=INDEX, rooms=SOME_ROOMS)
    def unsubscribe(self, index: int, rooms: tuple[Room, ...]) -> None:
        self.model.link(index).request(Request(False, rooms))

    @rule(index=INDEX, room=st.sampled_from(ROOMS), holds=st.booleans())
    def set_filter(self, index: int, room: Room, holds: bool) -> None:
        self.model.set_filter(index, room[0], (room[1],) if holds else ())

    @rule(index=INDEX)
    def ping(self, index: int) -> None:
        self.model.link(index).ping()

    @rule(index=INDEX, data=st.sampled_from(INVALID))
    def send_invalid(self, index: int, data: Any) -> None:
        self.model.link(index).send_invalid({"type": "subscribe", "data": data})

    @rule()
    def check_all(self) -> None:
        self.model.check_all()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            try:
                self.model.check_all()
            finally:
                self.model.close()


MODEL_SETTINGS = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=120,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)
ResumeModel.TestCase.settings = MODEL_SETTINGS
TestResumeAgainstAModel = ResumeModel.TestCase


def take_steps(model: Model, chance: random.Random, steps: int) -> None:
    """Make random steps, like those of the state machine, while other threads publish."""

    def some(things: list[Any]) -> list[Any]:
        return chance.sample(things, chance.randint(1, len(things)))

    def filters() -> Filters:
        keys = {"board_id": BOARDS, "project_id": PROJECTS}
        return {key: tuple(some(values)) for key, values in keys.items() if chance.random() < 0.5}

    for _ in range(steps):
        index, action = chance.randrange(CLIENTS), chance.randrange(10)
        kind, back = chance.choice(KINDS), chance.randrange(30)
        before = model.links.get(index)
        since = model.since(kind, back, None if before is None else before.position)
        if action < 2:
            model.connect(index, filters(), since, chance.choice([None, SMALL_BUFFER]))
        elif action < 4:
            model.link(index).request(Request(True, tuple(sorted(some(ROOMS))), since))
        elif action == 4:
            model.link(index).request(Request(False, tuple(sorted(some(ROOMS)))))
        elif action == 5:
            model.set_filter(index, "board_id", tuple(some(BOARDS)) if chance.random() < 0.5 else ())
        elif action == 6:
            model.link(index).ping()
        else:
            model.link(index).read(chance.choice([1, 5, 50, 1000]))


@contextmanager
def publishing(model: Model, count: int, chance: random.Random, pace: threading.Semaphore | None = None) -> Iterator[None]:
    """Publish so many random events in a thread, each when ``pace`` permits."""

    def publish() -> None:
        for _ in range(count):
            if pace is not None:
                assert pace.acquire(timeout=DEADLINE)
            filters = {"board_id": [chance.choice(BOARDS)], "project_id": [chance.choice(PROJECTS)]}
            model.publish(chance.choice(WAYS), filters, chance.choice([0, 0, 300]))

    thread = threading.Thread(target=publish, name="publisher")
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("seed", range(3))
def test_guarantees_hold_with_a_tiny_switch_interval(seed: int) -> None:
    before = sys.getswitchinterval()
    with closing(Model(history_size=60, send_queue_size=32)) as model:
        sys.setswitchinterval(1e-6)
        try:
            pace = threading.Semaphore(0)
            with publishing(model, 800, random.Random(seed), pace):
                chance = random.Random(seed + 100)
                for _ in range(80):
                    take_steps(model, chance, 5)
                    pace.release(10)
            model.check_all()
        finally:
            sys.setswitchinterval(before)
        assert model.resumed > 5
        assert model.reloaded > 5


def test_two_hundred_clients_resume_at_once_while_events_are_published() -> None:
    with closing(Model(history_size=1000)) as model:
        chance = random.Random(1)
        with publishing(model, 300, chance):
            pass
        with publishing(model, 150, chance):
            for index in range(200):
                filters: Filters = {"board_id": tuple(BOARDS[: index % 4])} if index % 4 else {}
                model.connect(index, filters, model.id(index * 2))
        model.check_all()
        assert model.resumed > 100
        assert model.disconnected == 0


def test_a_replay_is_sent_in_parts_and_a_client_too_slow_for_it_reloads() -> None:
    with closing(Model(history_size=200, send_queue_size=64)) as model:
        for number in range(150):
            model.publish("own", {"board_id": [BOARDS[number % 3]]}, 300)
        for index in range(4):
            fast = model.connect(index, {}, model.id(0), SMALL_BUFFER)
        for number in range(300):
            model.publish("own", {"board_id": [BOARDS[number % 3]]}, 300)
            # The first reads nothing, two read a little, and the last keeps up.
            for index, max_messages in enumerate((0, 1, 2)):
                model.link(index).read(max_messages)
            if number % 20 == 19:
                last = model.id(max(model.recipients))
                fast.read_until(lambda last=last: bool(fast.messages) and fast.messages[-1].get("id") == last)  # type: ignore[misc]
        first = model.links[0]
        first.read_until(lambda: first.over and not first.unread)
        model.link(0)
        model.check_all()
        assert model.written >= 4
        assert model.disconnected > 0
        assert model.reloaded > 0
        assert model.links[3] is fast, "a client that reads stays connected, however old its position was"


def test_a_client_that_sends_ten_invalid_messages_is_disconnected_and_may_resume() -> None:
    with closing(Model()) as model:
        link = model.connect(0, {}, None)
        for number in range(MAX_INVALID):
            model.publish("own", {})
            link.ping()
            link.send_invalid({"type": "subscribe", "data": INVALID[number % len(INVALID)]})
        link.read_until(lambda: link.over and not link.unread)
        assert link.code == 1008
        model.publish("own", {})
        model.link(0)
        model.check_all()
        assert model.resumed == 1
