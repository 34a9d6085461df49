"""The replay window and its limits, against a plain list."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cartows.history.history import Event, History
from cartows.rooms import EVERYONE, Audience, Subscriptions
from cartows.websocket.frames import Frame

EPOCH = "9f2c61d0"
EVERYTHING = Subscriptions()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def event(number: int, size: int = 10, audience: Audience = EVERYONE) -> Event:
    """Return an event whose frame has ``size`` bytes."""
    made = Event(Frame(b"." * (size - (2 if size < 128 else 4)), number=number), audience)
    assert len(made.frame.plain) == size
    return made


def subscribed(*rooms: str) -> Subscriptions:
    return Subscriptions(frozenset(("board_id", room) for room in rooms), False)


def of(number: int, *rooms: str) -> Event:
    return event(number, audience=Audience(tuple(("board_id", room) for room in rooms)))


def history(size: int = 1000, max_bytes: int = 1_000_000, ttl: float = 60.0, clock: Clock | None = None) -> History:
    return History(EPOCH, size, max_bytes, ttl, clock or Clock())


def filled(count: int, **bounds: Any) -> History:
    made = history(**bounds)
    made.append([event(number) for number in range(1, count + 1)])
    return made


def after(kept: History, number: int, limit: int = 100_000, *, held: Subscriptions = EVERYTHING) -> list[int] | None:
    """Return the numbers of the first matching events after a number."""
    found = kept.select(number, None, held, limit)
    return None if found is None else [each.frame.number for each in found[0]]


AUDIENCES = st.builds(
    Audience,
    st.lists(st.sampled_from([("board_id", room) for room in "abc"]), unique=True, max_size=2).map(tuple),
    st.booleans(),
    st.sampled_from([False, False, True]),
)
SUBSCRIPTIONS = st.lists(st.sampled_from("abc"), unique=True, max_size=2).map(lambda rooms: subscribed(*rooms)) | st.just(
    EVERYTHING
)


def test_nothing_has_been_missed_before_the_first_event() -> None:
    empty = history()
    assert empty.head == 0
    assert empty.first() == 1
    assert after(empty, 0) == []
    assert after(empty, 7) == []
    assert empty.count(0, EVERYTHING) == 0


def test_the_events_after_a_number_come_up_to_the_last_and_no_more_than_the_limit() -> None:
    kept = filled(5)
    assert kept.head == 5
    for number in range(6):
        assert after(kept, number, 100) == list(range(number + 1, 6)), number
        assert after(kept, number, 2) == list(range(number + 1, 6))[:2], number
    assert after(kept, 6, 10) == []
    assert after(kept, 10**17, 10) == []


def test_all_events_after_the_last_dropped_one_are_there_and_not_those_after_an_earlier_one() -> None:
    kept = filled(10, size=4)
    assert kept.first() == 7
    assert after(kept, 6, 100) == [7, 8, 9, 10]
    for number in range(6):
        assert after(kept, number, 100) is None, number
        assert after(kept, number, 1) is None, number


def test_batches_follow_one_another() -> None:
    kept = history(size=5)
    for first in range(1, 30, 3):
        kept.append([event(number) for number in range(first, first + 3)])
        head = first + 2
        assert kept.head == head
        assert after(kept, max(0, head - 5), 100) == list(range(max(1, head - 4), head + 1))


def test_of_a_batch_longer_than_the_window_the_end_remains() -> None:
    kept = filled(50, size=3)
    assert after(kept, 47, 100) == [48, 49, 50]
    assert after(kept, 46, 100) is None


@pytest.mark.parametrize(("sizes", "first"), [([40, 30, 30], 1), ([41, 30, 30], 2), ([10, 10, 100], 3), ([10, 10, 101], 4)])
def test_bytes_are_a_limit_of_their_own(sizes: list[int], first: int) -> None:
    kept = history(max_bytes=100)
    kept.append([event(number, size) for number, size in enumerate(sizes, 1)])
    assert kept.first() == first
    assert after(kept, first - 1, 100) == list(range(first, 4))
    assert first == 1 or after(kept, first - 2, 100) is None


def test_bytes_that_were_dropped_are_not_counted_any_more() -> None:
    kept = history(max_bytes=100)
    for number in range(1, 100):
        kept.append([event(number, 25)])
    assert kept.first() == 96


def test_age_is_a_limit_of_its_own_even_when_nothing_is_added() -> None:
    clock = Clock()
    kept = history(ttl=10.0, clock=clock)
    kept.append([event(1), event(2)])
    clock.now += 6
    kept.append([event(3)])
    clock.now += 4
    assert after(kept, 0, 10) == [1, 2, 3], "as old as allowed"
    clock.now += 1
    assert after(kept, 0, 10) is None
    assert after(kept, 1, 10) is None
    assert after(kept, 2, 10) == [3]
    assert kept.count(0, EVERYTHING) is None
    clock.now += 100
    assert after(kept, 2, 10) is None
    assert after(kept, 3, 10) == [], "a client that has the last event has missed nothing, however old it is"
    assert kept.first() == 4
    kept.append([event(4)])
    assert after(kept, 3, 10) == [4]


def test_count_leaves_out_the_events_of_its_predicate() -> None:
    kept = filled(10, size=8)
    asked: list[int] = []

    def odd(each: Event) -> bool:
        asked.append(each.frame.number)
        return each.frame.number % 2 == 1

    assert kept.count(5, EVERYTHING) == 5
    assert kept.count(5, EVERYTHING, odd) == 3
    assert asked == [6, 7, 8, 9, 10]
    assert kept.count(2, EVERYTHING) == 8
    assert kept.count(1, EVERYTHING) is None, "some of them are not there to be counted"
    assert kept.count(10, EVERYTHING) == 0
    assert kept.count(11, EVERYTHING) == 0


def test_matching_events_come_up_to_a_number_with_the_number_they_are_complete_to() -> None:
    kept = history()
    kept.append([of(number, "ab"[number % 2]) for number in range(1, 11)])
    for held, all_of_it in (
        (EVERYTHING, range(1, 11)),
        (subscribed("a"), range(2, 11, 2)),
        (subscribed("a", "b"), range(1, 11)),
    ):
        for start in range(12):
            for until in (None, *range(12)):
                for limit in (1, 2, 5, 100):
                    end = 10 if until is None else min(until, 10)
                    expected = [number for number in all_of_it if start < number <= end]
                    found = kept.select(start, until, held, limit)
                    assert found is not None
                    numbers, reached = [each.frame.number for each in found[0]], found[1]
                    assert numbers == expected[: len(numbers)]
                    assert len(numbers) <= limit
                    assert [number for number in expected if number <= reached] == numbers, "these are all, so far"
                    assert start < reached <= end or reached == start >= end, "it makes progress, and not too far"


def test_a_room_costs_its_events_and_not_the_others() -> None:
    kept = history(size=5000)
    kept.append([of(number, "b") for number in range(1, 5000)])
    kept.append([of(5000, "a")])
    found = kept.select(0, None, subscribed("a"), 10)
    assert found is not None
    assert [each.frame.number for each in found[0]] == [5000]
    assert found[1] == 5000, "in one step"


def test_the_index_drops_what_the_window_drops() -> None:
    kept = history(size=10)
    for number in range(1, 1000):
        kept.append([of(number, f"room {number}") if number % 3 else event(number)])
    assert len(kept._rooms) + len(kept._everyone) == 10
    assert after(kept, 989, held=subscribed("room 991")) == [990, 991, 993, 996, 999]


def test_an_id_is_the_epoch_and_the_number() -> None:
    kept = filled(3)
    assert kept.id(1795) == f"{EPOCH}.1795"
    for number in (0, 1, 1795, 10**17):
        assert kept.number(kept.id(number)) == number


def marked(*marks: str, first: int = 1, size: int = 1000, before: str = "") -> History:
    """Return a history whose events have these marks, after an event with the mark ``before``."""
    made = history(size)
    made.new_epoch(EPOCH, first - 1, before)
    made.append([event(number)._replace(mark=mark) for number, mark in enumerate(marks, first)])
    return made


def test_an_id_proves_that_its_event_is_in_this_history() -> None:
    """Two hubs of one epoch whose numbers diverge: as after a partition, or with numbers that are used again."""
    one, other = marked("aaa", "bbb", "ccc", "ddd"), marked("aaa", "bbb", "eee", "fff")
    assert one.id(3) == f"{EPOCH}.3-ccc"
    for number in (0, 1, 2):
        assert other.number(one.id(number)) == number
    for number in (3, 4):
        assert one.number(one.id(number)) == number
        assert other.number(one.id(number)) is None
        assert one.number(f"{EPOCH}.{number}") is None, "without a mark"
        assert one.number(f"{EPOCH}.0{number}-{'ccc' if number == 3 else 'ddd'}") is None, "another spelling"


def test_the_event_before_the_window_is_known_by_its_mark() -> None:
    for kept in (marked("aaa", "bbb", "ccc", "ddd", size=2), marked("ccc", "ddd", first=3, before="bbb")):
        assert kept.first() == 3
        assert kept.number(kept.id(2)) == 2
        assert kept.number(f"{EPOCH}.2-eee") is None
        assert kept.number(f"{EPOCH}.1-aaa") is None, "what was missed after it is gone"
    clock = Clock()
    kept = history(ttl=10, clock=clock)
    kept.append([event(1)._replace(mark="aaa"), event(2)._replace(mark="bbb")])
    quiet = kept.id(2)
    clock.now += 60
    assert kept.count(2, EVERYTHING) == 0
    assert kept.first() == 3
    assert kept.id(2) == quiet
    assert kept.number(quiet) == 2
    assert kept.number(f"{EPOCH}.2-ccc") is None


def test_an_id_above_the_head_is_proven_when_its_event_is_here() -> None:
    kept = marked("aaa")
    for id in (f"{EPOCH}.2-bbb", f"{EPOCH}.2-ccc"):
        assert kept.number(id) == 2
    kept.append([event(2)._replace(mark="bbb")])
    assert kept.number(f"{EPOCH}.2-bbb") == 2
    assert kept.number(f"{EPOCH}.2-ccc") is None


@pytest.mark.parametrize(
    "id",
    [
        "",
        ".",
        "5",
        EPOCH,
        f"{EPOCH}.",
        f"{EPOCH}..5",
        f"{EPOCH}.5.5",
        f"{EPOCH}.-5",
        f"{EPOCH}.+5",
        f"{EPOCH}. 5",
        f"{EPOCH}.5 ",
        f"{EPOCH}.5\n",
        f"{EPOCH}.1_0",
        f"{EPOCH}.0x5",
        f"{EPOCH}.5e1",
        f"{EPOCH}.5-",
        f"{EPOCH}.5-a-b",
        f"{EPOCH}.5-A",
        f"{EPOCH}.5-" + "a" * 5000,
        f"{EPOCH}.\u0665",
        f"{EPOCH}.\u00b2",
        f"{EPOCH}." + "9" * 5000,
        f"{EPOCH.upper()}.5",
        f" {EPOCH}.5",
        f"{EPOCH}0.5",
        f"{EPOCH[:-1]}.5",
        "00000000.5",
        ".5",
    ],
)
def test_what_is_no_id_of_this_epoch_has_no_number(id: str) -> None:
    assert history().number(id) is None


class Window(RuleBasedStateMachine):
    """The same calls on a History and on a plain list."""

    size, max_bytes, ttl = 6, 200, 10

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.history = history(self.size, self.max_bytes, self.ttl, self.clock)
        #: All events so far, with their times.
        self.all: list[tuple[Event, float]] = []
        self.first = 1

    def trim(self) -> None:
        while kept := self.all[self.first - 1 :]:
            size = sum(len(each.frame.plain) for each, _ in kept)
            if len(kept) <= self.size and size <= self.max_bytes and self.clock.now - kept[0][1] <= self.ttl:
                return
            self.first += 1

    @rule(events=st.lists(st.tuples(st.sampled_from([10, 30, 100, 300]), AUDIENCES), min_size=1, max_size=9))
    def append(self, events: list[tuple[int, Audience]]) -> None:
        new = [event(number, size, audience) for number, (size, audience) in enumerate(events, len(self.all) + 1)]
        self.all += [(each, self.clock.now) for each in new]
        self.history.append(new)

    @rule(seconds=st.sampled_from([1, 4, 20]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(held=SUBSCRIPTIONS, back=st.integers(0, 9), ahead=st.none() | st.integers(0, 9), limit=st.integers(1, 4))
    def select(self, held: Subscriptions, back: int, ahead: int | None, limit: int) -> None:
        self.trim()
        start = max(0, len(self.all) - back)
        until = None if ahead is None else start + ahead
        found = self.history.select(start, until, held, limit)
        end = len(self.all) if until is None else min(until, len(self.all))
        if start < min(self.first - 1, end):
            assert found is None
            return
        assert found is not None
        expected = [each for each, _ in self.all[start:end] if held.match(each.audience)]
        events, reached = found
        assert events == expected[: len(events)]
        assert [each for each in expected if each.frame.number <= reached] == events
        assert reached > start or start >= end

    @invariant()
    def counts_what_a_list_counts(self) -> None:
        self.trim()
        head = len(self.all)
        assert self.history.head == head
        for number in range(max(0, self.first - 3), head + 2):
            expected = list(range(number + 1, head + 1)) if number >= self.first - 1 else None
            for held in (EVERYTHING, subscribed("a"), subscribed("b", "c"), subscribed()):
                some = None if expected is None else [n for n in expected if held.match(self.all[n - 1][0].audience)]
                assert after(self.history, number, held=held) == some
                assert self.history.count(number, held) == (None if some is None else len(some))
        assert self.history.first() == self.first


Window.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTheWindowAgainstAList = Window.TestCase


def test_dropped_events_are_freed_without_a_copy_each_time() -> None:
    kept = history(size=100)
    for number in range(1, 5001):
        kept.append([event(number)])
        assert len(kept._events) <= 2 * 100 + 1
        assert len(kept._times) == len(kept._events)
    assert after(kept, 4900, 1000) == list(range(4901, 5001))


def test_a_reader_never_sees_half_an_append() -> None:
    kept = history(size=50)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            head = kept.head
            found = after(kept, max(0, head - 10), 100)
            if found is not None and found != list(range(max(1, head - 9), max(1, head - 9) + len(found))):
                wrong.append((head, found))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for first in range(1, 20_000, 20):
        kept.append([event(number) for number in range(first, first + 20)])
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not wrong
