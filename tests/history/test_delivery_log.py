"""The delivery log: which events a client has been sent, against sets of numbers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cartows.history.delivery_log import DeliveryLog
from cartows.history.history import Event
from cartows.rooms import Audience, Subscriptions
from cartows.websocket.frames import Frame


def subscribed(*rooms: str) -> Subscriptions:
    return Subscriptions(frozenset(("board_id", room) for room in rooms), False)


def of(number: int, *rooms: str) -> Event:
    return Event(Frame(b"{}", number=number), Audience(tuple(("board_id", room) for room in rooms)))


def test_matching_events_after_the_registration_have_been_delivered_and_no_others() -> None:
    delivered = DeliveryLog(5, subscribed("a")).delivered()
    assert not delivered(of(5, "a"))
    assert delivered(of(6, "a"))
    assert delivered(of(6, "b", "a"))
    assert not delivered(of(6, "b"))


def test_a_change_holds_from_the_next_event() -> None:
    log = DeliveryLog(0, subscribed("a"))
    log.change(10, subscribed("b"), 1)
    delivered = log.delivered()
    assert delivered(of(10, "a"))
    assert not delivered(of(11, "a"))
    assert not delivered(of(10, "b"))
    assert delivered(of(11, "b"))


def test_a_replay_is_logged_from_its_start_to_its_end() -> None:
    log = DeliveryLog(8, subscribed("a"))
    log.change(10, subscribed("a", "b"), 1)
    log.replayed(3, 10, subscribed("b"))
    delivered = log.delivered()
    assert [number for number in range(1, 13) if delivered(of(number, "b"))] == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert [number for number in range(1, 13) if delivered(of(number, "a"))] == [9, 10, 11, 12]
    assert not delivered(of(3, "b"))


def test_the_predicate_is_that_of_the_moment_when_it_was_made() -> None:
    log = DeliveryLog(0, subscribed("a"))
    delivered = log.delivered()
    log.change(5, subscribed("b"), 1)
    log.replayed(0, 5, subscribed("b"))
    assert not delivered(of(3, "b"))
    assert log.delivered()(of(3, "b"))


def test_any_number_of_changes_costs_little_memory_and_the_floor_rises_above_what_is_dropped() -> None:
    log = DeliveryLog(0, subscribed("a"))
    for number in range(1, 500):
        log.change(number, subscribed("ab"[number % 2]), 1)
    assert len(log._spans) <= 65
    assert log.floor > 0
    delivered = log.delivered()
    for number in range(log.floor + 1, 500):
        room = "ab"[(number - 1) % 2]
        assert delivered(of(number, room)), number
        assert not delivered(of(number, "ab"[number % 2])), number


def test_what_cannot_be_replayed_any_more_is_dropped_without_a_floor() -> None:
    log = DeliveryLog(0, subscribed("a"))
    for number in range(1, 500):
        log.change(number, subscribed("ab"[number % 2]), max(1, number - 10))
    assert log.floor == 0
    assert len(log._spans) <= 13


class DeliveryLogModel(RuleBasedStateMachine):
    """A set of every number that was delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.subscriptions = subscribed("a")
        self.log = DeliveryLog(0, self.subscriptions)
        self.delivered: set[int] = set()
        self.first = 1

    @rule(rooms=st.lists(st.lists(st.sampled_from("abc"), unique=True, max_size=2), min_size=1, max_size=4))
    def append(self, rooms: list[list[str]]) -> None:
        for names in rooms:
            new = of(len(self.events) + 1, *names)
            self.events.append(new)
            if self.subscriptions.match(new.audience):
                self.delivered.add(new.frame.number)

    @rule(rooms=st.lists(st.sampled_from("abc"), unique=True))
    def change(self, rooms: list[str]) -> None:
        self.subscriptions = subscribed(*rooms)
        self.log.change(len(self.events), self.subscriptions, self.first)

    @rule(rooms=st.lists(st.sampled_from("abc"), unique=True, min_size=1), back=st.integers(0, 12))
    def replay(self, rooms: list[str], back: int) -> None:
        head = len(self.events)
        after = max(head - back, self.first - 1, self.log.floor)
        self.subscriptions = Subscriptions(self.subscriptions.rooms | subscribed(*rooms).rooms, False)
        self.log.change(head, self.subscriptions, self.first)
        self.log.replayed(after, head, subscribed(*rooms))
        replayed = self.events[after:]
        self.delivered |= {each.frame.number for each in replayed if subscribed(*rooms).match(each.audience)}

    @precondition(lambda self: self.events)
    @rule(count=st.integers(1, 5))
    def drop_oldest(self, count: int) -> None:
        self.first = min(self.first + count, len(self.events) + 1)

    @invariant()
    def agrees_with_the_set(self) -> None:
        delivered = self.log.delivered()
        for each in self.events[max(self.first - 1, self.log.floor) :]:
            assert delivered(each) == (each.frame.number in self.delivered), each.frame.number


DeliveryLogModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestDeliveryLogAgainstASet = DeliveryLogModel.TestCase


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab")), max_size=150), st.integers(0, 1))
@settings(deadline=None, max_examples=30)
def test_nothing_above_the_floor_is_ever_wrong(changes: list[tuple[int, str]], start: int) -> None:
    now, room, head = DeliveryLog(start, subscribed("a")), "a", start
    sent: dict[int, str] = {}
    for step, name in changes:
        for number in range(head + 1, head + step + 1):
            sent[number] = room
        head += step
        now.change(head, subscribed(name), 1)
        room = name
    delivered = now.delivered()
    for number, name in sent.items():
        if number > now.floor:
            assert delivered(of(number, name)), number
            assert not delivered(of(number, "b" if name == "a" else "a")), number
