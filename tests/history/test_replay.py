"""A replay by itself: what it sends, in which order, page by page, against a plan that is a plain list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cartows.history.history import Event, History
from cartows.history.replay import Replay, ReplayRequest
from cartows.rooms import Audience, Subscriptions
from cartows.websocket.frames import Frame

SIZE = 40
ALL_AT_ONCE = 1_000_000


def event(number: int, room: str = "a") -> Event:
    made = Event(Frame(b"." * (SIZE - 2), number=number), Audience((("board_id", room),)))
    assert len(made.frame.plain) == SIZE
    return made


def history(*rooms: str, size: int = 1000) -> History:
    """Return a history of events for these rooms, from number 1 on."""
    kept = History("epoch", size, 10_000_000, 1000.0, lambda: 0.0)
    add(kept, *rooms)
    return kept


def add(kept: History, *rooms: str) -> None:
    if rooms:
        kept.append([event(number, room) for number, room in enumerate(rooms, kept.head + 1)])


def subscribed(rooms: str) -> Subscriptions:
    return Subscriptions(frozenset(("board_id", room) for room in rooms), False)


def request(after: int, rooms: str, *, but: Callable[[Event], bool] = lambda _: False) -> ReplayRequest:
    """Return a request for the events of these rooms, but for those that have been delivered."""
    return ReplayRequest(after, subscribed(rooms), but)


def answer(text: str) -> Frame:
    return Frame(text.encode())


def lines(frames: list[Frame] | None) -> list[int | str] | None:
    """Return numbers for events, and the text of messages."""
    return None if frames is None else [frame.number or frame.payload.decode() for frame in frames]


def everything(replay: Replay, page: int = ALL_AT_ONCE) -> list[int | str]:
    """Return all that comes until the replay is over."""
    found: list[int | str] = []
    for _ in range(10_000):
        more = lines(replay.next(page))
        assert more is not None
        found += more
        if replay.is_over():
            return found
    raise AssertionError("the replay does not end")


def test_matching_events_after_a_number_come_in_order_and_then_it_is_over() -> None:
    replay = Replay(history(*"abcab"), 1, subscribed("ab"))
    assert not replay.is_over()
    assert lines(replay.next(ALL_AT_ONCE)) == [2, 4, 5]
    assert replay.is_over()
    assert replay.cursor == 5


def test_a_replay_of_nothing_is_over_once_the_history_has_been_examined() -> None:
    assert Replay(history(), 0, subscribed("a")).is_over()
    assert Replay(history("a"), 1, subscribed("a")).is_over()
    replay = Replay(history("b", "b"), 0, subscribed("a"))
    assert not replay.is_over()
    assert replay.next(ALL_AT_ONCE) == []
    assert replay.is_over()


@pytest.mark.parametrize("page", [1, SIZE, SIZE + 1, 3 * SIZE, ALL_AT_ONCE])
def test_a_page_ends_with_the_event_that_fills_it(page: int) -> None:
    replay = Replay(history(*"a" * 10), 0, subscribed("a"))
    found, pages = [], []
    while not replay.is_over():
        some = lines(replay.next(page))
        assert some
        pages.append(len(some))
        found += some
    assert found == list(range(1, 11))
    assert max(pages) == min(10, -(-page // SIZE))


def test_a_requested_replay_leaves_out_what_has_been_delivered() -> None:
    kept = history(*"abab")
    replay = Replay(kept, 4, subscribed("a"))
    replay.change_subscriptions(
        4, subscribed("ab"), [answer("now both")], request(0, "ab", but=lambda each: each.frame.number in (1, 4))
    )
    assert everything(replay) == [2, 3, "now both"]


def test_one_page_examines_a_limited_number_of_events_however_few_are_sent() -> None:
    examined: list[int] = []

    def delivered(each: Event) -> bool:
        examined.append(each.frame.number)
        return each.frame.number != 5000

    kept = history(*"a" * 5000, size=10_000)
    replay = Replay(kept, 5000, subscribed("a"))
    replay.change_subscriptions(5000, subscribed("a"), [answer("done")], request(0, "a", but=delivered))
    assert replay.next(ALL_AT_ONCE) == []
    assert 0 < len(examined) < 1000, "a send lock held for longer would hold up the hub"
    assert everything(replay) == [5000, "done"]
    assert examined == list(range(1, 5001)), "each is examined once"


def test_it_follows_what_is_added_meanwhile() -> None:
    kept = history(*"aaa")
    replay = Replay(kept, 0, subscribed("a"))
    assert lines(replay.next(SIZE)) == [1]
    add(kept, "b", "a")
    assert lines(replay.next(ALL_AT_ONCE)) == [2, 3, 5]
    assert replay.is_over()
    add(kept, "a")
    assert not replay.is_over()
    assert everything(replay) == [6]


def test_messages_come_after_what_was_sent_and_before_later_events() -> None:
    kept = history(*"aaa")
    replay = Replay(kept, 0, subscribed("a"))
    assert lines(replay.next(SIZE)) == [1]
    replay.queue_messages([answer("one"), answer("two")])
    assert everything(replay) == ["one", "two", 2, 3]


def test_a_message_at_an_event_waits_for_it() -> None:
    kept = history(*"abaa")
    replay = Replay(kept, 0, subscribed("a"))
    replay.queue_messages([answer("at 2")], 2)
    replay.queue_messages([answer("also at 2")])
    replay.queue_messages([answer("at 3")], 3)
    add(kept, "a")
    assert everything(replay, SIZE) == [1, "at 2", "also at 2", 3, "at 3", 4, 5]


def test_a_message_at_an_event_that_was_sent_comes_at_once() -> None:
    replay = Replay(history(*"aaa"), 0, subscribed("a"))
    replay.queue_messages([answer("first")], 2)
    replay.queue_messages([answer("second")], 1)
    assert everything(replay) == [1, 2, "first", "second", 3]


def test_a_message_at_a_future_event_does_not_come_before_it() -> None:
    kept = history(*"a")
    replay = Replay(kept, 0, subscribed("a"))
    replay.queue_messages([answer("at 3")], 3)
    assert lines(replay.next(ALL_AT_ONCE)) == [1]
    assert not replay.is_over()
    add(kept, *"aaa")
    assert everything(replay) == [2, 3, "at 3", 4]


def test_a_change_of_subscriptions_holds_after_the_event() -> None:
    kept = history(*"abab")
    replay = Replay(kept, 0, subscribed("a"))
    replay.change_subscriptions(4, subscribed("b"), [answer("now b")], None)
    assert replay.cursor == 4
    add(kept, *"abab")
    assert everything(replay) == [1, 3, "now b", 6, 8]


def test_a_requested_replay_comes_between_earlier_events_and_the_answer() -> None:
    kept = history(*"abab")
    replay = Replay(kept, 2, subscribed("a"))
    replay.change_subscriptions(4, subscribed("ab"), [answer("now both")], request(1, "b"))
    assert replay.cursor == 4
    add(kept, *"ab")
    assert everything(replay) == [3, 2, 4, "now both", 5, 6]


def test_a_change_during_a_requested_replay_waits_for_its_end() -> None:
    kept = history(*"abc" * 2)
    replay = Replay(kept, 6, subscribed("a"))
    replay.change_subscriptions(6, subscribed("ab"), [answer("b too")], request(0, "b"))
    assert lines(replay.next(SIZE)) == [2]
    add(kept, *"abc")
    replay.change_subscriptions(9, subscribed("abc"), [answer("c too")], request(0, "c"))
    replay.change_subscriptions(9, subscribed("c"), [answer("only c")], None)
    add(kept, *"abc")
    assert everything(replay, SIZE) == [5, "b too", 7, 8, 3, 6, 9, "c too", "only c", 12]


def test_a_change_without_an_answer_sends_none() -> None:
    kept = history(*"ab")
    replay = Replay(kept, 0, subscribed("a"))
    replay.change_subscriptions(2, subscribed("b"), (), None)
    add(kept, *"ab")
    assert everything(replay) == [1, 4]
    assert replay.waiting == replay.waiting_bytes == 0


def test_waiting_messages_are_counted_until_they_are_sent() -> None:
    kept = history(*"aaa")
    replay = Replay(kept, 0, subscribed("a"))
    frames = [answer("x" * 10), answer("y" * 200)]
    replay.queue_messages(frames, 2)
    replay.change_subscriptions(3, subscribed("b"), [answer("z")], request(0, "b"))
    size = sum(len(frame.plain) for frame in frames)
    assert (replay.waiting, replay.waiting_bytes) == (3, size + 3)
    assert lines(replay.next(SIZE)) == [1]
    assert replay.waiting == 3
    assert lines(replay.next(SIZE)) == [2]
    everything(replay)
    assert (replay.waiting, replay.waiting_bytes) == (0, 0)


def test_a_history_that_has_moved_on_is_out_of_reach() -> None:
    kept = history(*"a" * 10, size=10)
    replay = Replay(kept, 0, subscribed("a"))
    assert lines(replay.next(3 * SIZE)) == [1, 2, 3]
    add(kept, *"aaa")
    assert lines(replay.next(SIZE)) == [4], "the next one is there: nothing is lost yet"
    add(kept, *"aa")
    assert replay.next(SIZE) is None
    assert replay.next(SIZE) is None, "and it stays out of reach until it is skipped"
    assert not replay.is_over()
    assert replay.skip() == 5
    assert everything(replay) == list(range(6, 16))


def test_what_was_found_before_the_history_ran_out_still_comes() -> None:
    kept = history(*"a" * 5, size=5)
    replay = Replay(kept, 5, subscribed("a"))
    replay.change_subscriptions(5, subscribed("a"), [answer("answer")], None)
    replay.change_subscriptions(5, subscribed("a"), [answer("other")], request(2, "a"))
    add(kept, *"aaaa")
    assert lines(replay.next(ALL_AT_ONCE)) == ["answer"], "it comes before the requested replay that is out of reach"
    assert replay.next(ALL_AT_ONCE) is None
    assert replay.skip() == 4
    assert everything(replay) == [5, "other", 6, 7, 8, 9]


def test_a_skip_goes_no_further_than_its_segment() -> None:
    kept = history(*"a" * 5, size=5)
    replay = Replay(kept, 0, subscribed("a"))
    replay.queue_messages([answer("at 2")], 2)
    add(kept, *"aaaaa")
    assert replay.next(ALL_AT_ONCE) is None
    assert replay.skip() == 2, "the message there is not lost"
    assert lines(replay.next(ALL_AT_ONCE)) == ["at 2"]
    assert replay.next(ALL_AT_ONCE) is None
    assert replay.skip() == 5
    assert everything(replay) == [6, 7, 8, 9, 10]


ROOMS = "abc"
NAMES = st.lists(st.sampled_from(ROOMS), unique=True).map("".join)


class ReplayModel(RuleBasedStateMachine):
    """A plan of what is to come: ranges of numbers with the rooms that match in them, and messages."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = history(size=12)
        self.rooms = [""]
        #: (after, until, rooms) or the text of a message; the last is a range without an end.
        self.plan: list[tuple[int, int | None, str] | str] = []
        self.texts = 0

    @initialize(rooms=st.text(ROOMS, min_size=1, max_size=12), back=st.integers(0, 12), held=NAMES)
    def begin(self, rooms: str, back: int, held: str) -> None:
        self.append(rooms)
        after = max(0, len(rooms) - back)
        self.replay = Replay(self.kept, after, subscribed(held))
        self.plan = [(after, None, held)]

    @property
    def head(self) -> int:
        return len(self.rooms) - 1

    def tail(self) -> tuple[int, str]:
        last = self.plan[-1]
        assert not isinstance(last, str)
        return last[0], last[2]

    def end(self, at: int, held: str, texts: list[str]) -> None:
        """End the last range at a number, add messages, and continue from there."""
        after, was = self.tail()
        at = max(at, after)
        self.plan[-1:] = [(after, at, was), *texts, (at, None, held)]

    def frames(self, count: int) -> tuple[list[str], list[Frame]]:
        texts = [f"text {self.texts + index}" for index in range(count)]
        self.texts += count
        return texts, [answer(text) for text in texts]

    def expected(self) -> list[int | str]:
        found: list[int | str] = []
        for each in self.plan:
            if isinstance(each, str):
                found.append(each)
            else:
                after, until, held = each
                last = self.head if until is None else min(until, self.head)
                found += [number for number in range(after + 1, last + 1) if self.rooms[number] in held]
        return found

    def remove(self, line: int | str) -> None:
        """Remove from the plan everything up to and with a line that has come."""
        while True:
            first = self.plan[0]
            if first == line:
                del self.plan[0]
                return
            if not isinstance(first, str) and isinstance(line, int):
                after, until, held = first
                if after < line and (until is None or line <= until) and self.rooms[line] in held:
                    self.plan[0] = (line, until, held)
                    return
            assert not isinstance(first, str), f"{first} should have come before {line}"
            del self.plan[0]

    @rule(rooms=st.text(ROOMS, min_size=1, max_size=6))
    def append(self, rooms: str) -> None:
        add(self.kept, *rooms)
        self.rooms += rooms

    @rule(count=st.integers(1, 2), back=st.integers(0, 6))
    def queue(self, count: int, back: int) -> None:
        texts, frames = self.frames(count)
        at = max(0, self.head - back)
        self.replay.queue_messages(frames, at)
        self.end(at, self.tail()[1], texts)

    @rule(held=NAMES, count=st.integers(0, 2), back=st.none() | st.integers(0, 8), wanted=NAMES)
    def change(self, held: str, count: int, back: int | None, wanted: str) -> None:
        texts, frames = self.frames(count)
        if back is None:
            self.replay.change_subscriptions(self.head, subscribed(held), frames, None)
            self.end(self.head, held, texts)
            return
        after = max(0, self.head - back)
        self.replay.change_subscriptions(self.head, subscribed(held), frames, request(after, wanted))
        self.end(self.head, "", [])
        self.plan[-1:] = [(after, self.head, wanted), *texts, (self.head, None, held)]

    @rule(page=st.sampled_from([1, SIZE + 1, 4 * SIZE, ALL_AT_ONCE]))
    def take(self, page: int) -> None:
        expected = self.expected()
        found = lines(self.replay.next(page))
        if found is None:
            self.skip()
            return
        assert found == expected[: len(found)]
        assert sum(isinstance(line, int) for line in found) <= -(-page // SIZE)
        for line in found:
            self.remove(line)

    def skip(self) -> None:
        cursor = self.replay._segments[0].cursor
        first = self.kept.first()
        assert cursor < first - 1, "nothing was lost"
        lost = self.replay.skip()
        assert cursor < lost < first
        # Ranges that ended without a matching event have been sent without a line.
        while len(self.plan) > len(self.replay._segments) + self.replay.waiting:
            passed = self.plan.pop(0)
            assert not isinstance(passed, str)
            assert not any(self.rooms[number] in passed[2] for number in range(passed[0] + 1, (passed[1] or 0) + 1))
        range_ = self.plan[0]
        assert not isinstance(range_, str)
        self.plan[0] = (max(range_[0], lost), range_[1], range_[2])

    @invariant()
    def counts_what_waits(self) -> None:
        if self.plan:
            texts = [each for each in self.plan if isinstance(each, str)]
            assert self.replay.waiting == len(texts)
            assert self.replay.waiting_bytes == sum(len(answer(text).plain) for text in texts)
            assert not self.replay.is_over() or not self.expected()

    def teardown(self) -> None:
        if self.plan:
            for _ in range(100):
                if self.replay.is_over():
                    break
                self.take(ALL_AT_ONCE)
            assert self.replay.is_over()
            assert self.expected() == []
            assert self.replay.waiting == self.replay.waiting_bytes == 0


ReplayModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=150,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestReplayAgainstAPlan = ReplayModel.TestCase
