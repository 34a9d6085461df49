"""The replay window and its bounds; and what a client has been brought, against sets of numbers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cartows.history.history import DeliveryLog, Event, History
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


def hearing(*rooms: str) -> Subscriptions:
    return Subscriptions(frozenset(("board_id", room) for room in rooms), False)


def of(number: int, *rooms: str) -> Event:
    return event(number, audience=Audience(tuple(("board_id", room) for room in rooms)))


def history(size: int = 1000, max_bytes: int = 1_000_000, ttl: float = 60.0, clock: Clock | None = None) -> History:
    return History(EPOCH, size, max_bytes, ttl, clock or Clock())


def filled(count: int, **bounds: Any) -> History:
    made = history(**bounds)
    made.append([event(number) for number in range(1, count + 1)])
    return made


def behind(kept: History, number: int, most: int = 100_000, *, heard: Subscriptions = EVERYTHING) -> list[int] | None:
    """Return the numbers of the first events that are heard behind one."""
    found = kept.select(number, None, heard, most)
    return None if found is None else [each.frame.number for each in found[0]]


AUDIENCES = st.builds(
    Audience,
    st.lists(st.sampled_from([("board_id", room) for room in "abc"]), unique=True, max_size=2).map(tuple),
    st.booleans(),
    st.sampled_from([False, False, True]),
)
HEARINGS = st.lists(st.sampled_from("abc"), unique=True, max_size=2).map(lambda rooms: hearing(*rooms)) | st.just(EVERYTHING)


def test_nothing_has_been_missed_before_the_first_event() -> None:
    empty = history()
    assert empty.head == 0
    assert empty.first() == 1
    assert behind(empty, 0) == []
    assert behind(empty, 7) == []
    assert empty.count(0, EVERYTHING) == 0


def test_what_is_behind_a_number_is_given_up_to_the_last_and_no_more_than_asked_for() -> None:
    kept = filled(5)
    assert kept.head == 5
    for number in range(6):
        assert behind(kept, number, 100) == list(range(number + 1, 6)), number
        assert behind(kept, number, 2) == list(range(number + 1, 6))[:2], number
    assert behind(kept, 6, 10) == []
    assert behind(kept, 10**17, 10) == []


def test_behind_the_last_one_dropped_everything_is_there_and_behind_the_one_before_it_is_not() -> None:
    kept = filled(10, size=4)
    assert kept.first() == 7
    assert behind(kept, 6, 100) == [7, 8, 9, 10]
    for number in range(6):
        assert behind(kept, number, 100) is None, number
        assert behind(kept, number, 1) is None, number


def test_runs_follow_one_another() -> None:
    kept = history(size=5)
    for first in range(1, 30, 3):
        kept.append([event(number) for number in range(first, first + 3)])
        head = first + 2
        assert kept.head == head
        assert behind(kept, max(0, head - 5), 100) == list(range(max(1, head - 4), head + 1))


def test_a_run_longer_than_the_window_leaves_its_end() -> None:
    kept = filled(50, size=3)
    assert behind(kept, 47, 100) == [48, 49, 50]
    assert behind(kept, 46, 100) is None


@pytest.mark.parametrize(("sizes", "first"), [([40, 30, 30], 1), ([41, 30, 30], 2), ([10, 10, 100], 3), ([10, 10, 101], 4)])
def test_bytes_are_a_bound_of_their_own(sizes: list[int], first: int) -> None:
    kept = history(max_bytes=100)
    kept.append([event(number, size) for number, size in enumerate(sizes, 1)])
    assert kept.first() == first
    assert behind(kept, first - 1, 100) == list(range(first, 4))
    assert first == 1 or behind(kept, first - 2, 100) is None


def test_bytes_that_were_dropped_are_not_counted_any_more() -> None:
    kept = history(max_bytes=100)
    for number in range(1, 100):
        kept.append([event(number, 25)])
    assert kept.first() == 96


def test_age_is_a_bound_of_its_own_that_holds_though_nothing_is_added() -> None:
    clock = Clock()
    kept = history(ttl=10.0, clock=clock)
    kept.append([event(1), event(2)])
    clock.now += 6
    kept.append([event(3)])
    clock.now += 4
    assert behind(kept, 0, 10) == [1, 2, 3], "as old as allowed"
    clock.now += 1
    assert behind(kept, 0, 10) is None
    assert behind(kept, 1, 10) is None
    assert behind(kept, 2, 10) == [3]
    assert kept.count(0, EVERYTHING) is None
    clock.now += 100
    assert behind(kept, 2, 10) is None
    assert behind(kept, 3, 10) == [], "who has had the last one has missed nothing, however old it is"
    assert kept.first() == 4
    kept.append([event(4)])
    assert behind(kept, 3, 10) == [4]


def test_count_leaves_out_what_it_is_told_to() -> None:
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


def test_what_is_heard_is_given_up_to_a_number_and_says_how_far_it_reaches() -> None:
    kept = history()
    kept.append([of(number, "ab"[number % 2]) for number in range(1, 11)])
    for heard, all_of_it in ((EVERYTHING, range(1, 11)), (hearing("a"), range(2, 11, 2)), (hearing("a", "b"), range(1, 11))):
        for after in range(12):
            for until in (None, *range(12)):
                for most in (1, 2, 5, 100):
                    end = 10 if until is None else min(until, 10)
                    expected = [number for number in all_of_it if after < number <= end]
                    found = kept.select(after, until, heard, most)
                    assert found is not None
                    numbers, reached = [each.frame.number for each in found[0]], found[1]
                    assert numbers == expected[: len(numbers)]
                    assert len(numbers) <= most
                    assert [number for number in expected if number <= reached] == numbers, "these are all, so far"
                    assert after < reached <= end or reached == after >= end, "it goes on, and not too far"


def test_a_room_costs_its_events_and_not_the_others() -> None:
    kept = history(size=5000)
    kept.append([of(number, "b") for number in range(1, 5000)])
    kept.append([of(5000, "a")])
    found = kept.select(0, None, hearing("a"), 10)
    assert found is not None
    assert [each.frame.number for each in found[0]] == [5000]
    assert found[1] == 5000, "in one step"


def test_the_index_forgets_what_is_dropped() -> None:
    kept = history(size=10)
    for number in range(1, 1000):
        kept.append([of(number, f"room {number}") if number % 3 else event(number)])
    assert len(kept._rooms) + len(kept._everyone) == 10
    assert behind(kept, 989, heard=hearing("room 991")) == [990, 991, 993, 996, 999]


def test_an_id_is_the_epoch_and_the_number() -> None:
    kept = filled(3)
    assert kept.id(1795) == f"{EPOCH}.1795"
    for number in (0, 1, 1795, 10**17):
        assert kept.number(kept.id(number)) == number


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
    """Do the same to a History and to a plain list."""

    size, max_bytes, ttl = 6, 200, 10

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.history = history(self.size, self.max_bytes, self.ttl, self.clock)
        #: The events that there were, with their times.
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

    @rule(heard=HEARINGS, back=st.integers(0, 9), ahead=st.none() | st.integers(0, 9), most=st.integers(1, 4))
    def look(self, heard: Subscriptions, back: int, ahead: int | None, most: int) -> None:
        self.trim()
        after = max(0, len(self.all) - back)
        until = None if ahead is None else after + ahead
        found = self.history.select(after, until, heard, most)
        end = len(self.all) if until is None else min(until, len(self.all))
        if after < min(self.first - 1, end):
            assert found is None
            return
        assert found is not None
        expected = [each for each, _ in self.all[after:end] if heard.match(each.audience)]
        events, reached = found
        assert events == expected[: len(events)]
        assert [each for each in expected if each.frame.number <= reached] == events
        assert reached > after or after >= end

    @invariant()
    def counts_what_a_list_counts(self) -> None:
        self.trim()
        head = len(self.all)
        assert self.history.head == head
        for number in range(max(0, self.first - 3), head + 2):
            expected = list(range(number + 1, head + 1)) if number >= self.first - 1 else None
            for heard in (EVERYTHING, hearing("a"), hearing("b", "c"), hearing()):
                some = None if expected is None else [n for n in expected if heard.match(self.all[n - 1][0].audience)]
                assert behind(self.history, number, heard=heard) == some
                assert self.history.count(number, heard) == (None if some is None else len(some))
        assert self.history.first() == self.first


Window.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTheWindowAgainstAList = Window.TestCase


def test_what_is_dropped_is_given_back_and_does_not_cost_a_copy_each_time() -> None:
    kept = history(size=100)
    for number in range(1, 5001):
        kept.append([event(number)])
        assert len(kept._events) <= 2 * 100 + 1
        assert len(kept._times) == len(kept._events)
    assert behind(kept, 4900, 1000) == list(range(4901, 5001))


def test_a_reader_never_sees_half_an_append() -> None:
    kept = history(size=50)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            head = kept.head
            found = behind(kept, max(0, head - 10), 100)
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


# What a client has been brought ------------------------------------------------------------------------------------------


def test_what_was_heard_behind_the_registration_has_been_brought_and_nothing_else() -> None:
    brought = DeliveryLog(5, hearing("a")).delivered()
    assert not brought(of(5, "a"))
    assert brought(of(6, "a"))
    assert brought(of(6, "b", "a"))
    assert not brought(of(6, "b"))


def test_a_change_holds_from_the_event_behind_it() -> None:
    heard = DeliveryLog(0, hearing("a"))
    heard.change(10, hearing("b"), 1)
    brought = heard.delivered()
    assert brought(of(10, "a"))
    assert not brought(of(11, "a"))
    assert not brought(of(10, "b"))
    assert brought(of(11, "b"))


def test_a_past_that_was_brought_is_known_within_its_ends() -> None:
    heard = DeliveryLog(8, hearing("a"))
    heard.change(10, hearing("a", "b"), 1)
    heard.replayed(3, 10, hearing("b"))
    brought = heard.delivered()
    assert [number for number in range(1, 13) if brought(of(number, "b"))] == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert [number for number in range(1, 13) if brought(of(number, "a"))] == [9, 10, 11, 12]
    assert not brought(of(3, "b"))


def test_the_question_is_about_the_time_when_it_was_asked() -> None:
    heard = DeliveryLog(0, hearing("a"))
    brought = heard.delivered()
    heard.change(5, hearing("b"), 1)
    heard.replayed(0, 5, hearing("b"))
    assert not brought(of(3, "b"))
    assert heard.delivered()(of(3, "b"))


def test_changes_beyond_number_cost_no_memory_and_what_is_forgotten_lies_below_the_floor() -> None:
    heard = DeliveryLog(0, hearing("a"))
    for number in range(1, 500):
        heard.change(number, hearing("ab"[number % 2]), 1)
    assert len(heard._spans) <= 65
    assert heard.floor > 0
    brought = heard.delivered()
    for number in range(heard.floor + 1, 500):
        room = "ab"[(number - 1) % 2]
        assert brought(of(number, room)), number
        assert not brought(of(number, "ab"[number % 2])), number


def test_what_cannot_be_replayed_any_more_is_forgotten_without_a_floor() -> None:
    heard = DeliveryLog(0, hearing("a"))
    for number in range(1, 500):
        heard.change(number, hearing("ab"[number % 2]), max(1, number - 10))
    assert heard.floor == 0
    assert len(heard._spans) <= 13


class HeardModel(RuleBasedStateMachine):
    """Keep every number that was brought in one set."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.subscriptions = hearing("a")
        self.heard = DeliveryLog(0, self.subscriptions)
        self.brought: set[int] = set()
        self.first = 1

    @rule(rooms=st.lists(st.lists(st.sampled_from("abc"), unique=True, max_size=2), min_size=1, max_size=4))
    def come(self, rooms: list[list[str]]) -> None:
        for names in rooms:
            new = of(len(self.events) + 1, *names)
            self.events.append(new)
            if self.subscriptions.match(new.audience):
                self.brought.add(new.frame.number)

    @rule(rooms=st.lists(st.sampled_from("abc"), unique=True))
    def change(self, rooms: list[str]) -> None:
        self.subscriptions = hearing(*rooms)
        self.heard.change(len(self.events), self.subscriptions, self.first)

    @rule(rooms=st.lists(st.sampled_from("abc"), unique=True, min_size=1), back=st.integers(0, 12))
    def bring_past(self, rooms: list[str], back: int) -> None:
        head = len(self.events)
        after = max(head - back, self.first - 1, self.heard.floor)
        self.subscriptions = Subscriptions(self.subscriptions.rooms | hearing(*rooms).rooms, False)
        self.heard.change(head, self.subscriptions, self.first)
        self.heard.replayed(after, head, hearing(*rooms))
        past = self.events[after:]
        self.brought |= {each.frame.number for each in past if hearing(*rooms).match(each.audience)}

    @precondition(lambda self: self.events)
    @rule(count=st.integers(1, 5))
    def drop_oldest(self, count: int) -> None:
        self.first = min(self.first + count, len(self.events) + 1)

    @invariant()
    def knows_what_was_brought(self) -> None:
        brought = self.heard.delivered()
        for each in self.events[max(self.first - 1, self.heard.floor) :]:
            assert brought(each) == (each.frame.number in self.brought), each.frame.number


HeardModel.TestCase.settings = Window.TestCase.settings
TestWhatWasBroughtAgainstASet = HeardModel.TestCase


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab")), max_size=150), st.integers(0, 1))
@settings(deadline=None, max_examples=30)
def test_nothing_above_the_floor_is_ever_wrong(changes: list[tuple[int, str]], start: int) -> None:
    now, room, head = DeliveryLog(start, hearing("a")), "a", start
    told: dict[int, str] = {}
    for step, name in changes:
        for number in range(head + 1, head + step + 1):
            told[number] = room
        head += step
        now.change(head, hearing(name), 1)
        room = name
    brought = now.delivered()
    for number, name in told.items():
        if number > now.floor:
            assert brought(of(number, name)), number
            assert not brought(of(number, "b" if name == "a" else "a")), number
