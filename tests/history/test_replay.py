"""A replay by itself: what it brings, in which order, page by page, against a plan written down as a plain list."""

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


def hears(rooms: str) -> Subscriptions:
    return Subscriptions(frozenset(("board_id", room) for room in rooms), False)


def past(after: int, rooms: str, *, but: Callable[[Event], bool] = lambda _: False) -> ReplayRequest:
    """Return a past: what is heard in these rooms, but for what has been brought."""
    return ReplayRequest(after, hears(rooms), but)


def said(text: str) -> Frame:
    return Frame(text.encode())


def lines(frames: list[Frame] | None) -> list[int | str] | None:
    """Return numbers for events and texts for messages."""
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
    raise AssertionError("it is never over")


def test_what_is_heard_behind_a_number_comes_in_order_and_then_it_is_over() -> None:
    replay = Replay(history(*"abcab"), 1, hears("ab"))
    assert not replay.is_over()
    assert lines(replay.next(ALL_AT_ONCE)) == [2, 4, 5]
    assert replay.is_over()
    assert replay.cursor == 5


def test_nothing_to_bring_is_over_once_that_has_been_seen() -> None:
    assert Replay(history(), 0, hears("a")).is_over()
    assert Replay(history("a"), 1, hears("a")).is_over()
    replay = Replay(history("b", "b"), 0, hears("a"))
    assert not replay.is_over()
    assert replay.next(ALL_AT_ONCE) == []
    assert replay.is_over()


@pytest.mark.parametrize("page", [1, SIZE, SIZE + 1, 3 * SIZE, ALL_AT_ONCE])
def test_a_page_ends_with_the_event_that_fills_it(page: int) -> None:
    replay = Replay(history(*"a" * 10), 0, hears("a"))
    found, pages = [], []
    while not replay.is_over():
        some = lines(replay.next(page))
        assert some
        pages.append(len(some))
        found += some
    assert found == list(range(1, 11))
    assert max(pages) == min(10, -(-page // SIZE))


def test_a_past_leaves_out_what_has_been_brought() -> None:
    kept = history(*"abab")
    replay = Replay(kept, 4, hears("a"))
    replay.change_subscriptions(4, hears("ab"), [said("now both")], past(0, "ab", but=lambda each: each.frame.number in (1, 4)))
    assert everything(replay) == [2, 3, "now both"]


def test_one_page_looks_at_a_bounded_number_of_events_however_few_are_brought() -> None:
    looked: list[int] = []

    def brought(each: Event) -> bool:
        looked.append(each.frame.number)
        return each.frame.number != 5000

    kept = history(*"a" * 5000, size=10_000)
    replay = Replay(kept, 5000, hears("a"))
    replay.change_subscriptions(5000, hears("a"), [said("done")], past(0, "a", but=brought))
    assert replay.next(ALL_AT_ONCE) == []
    assert 0 < len(looked) < 1000, "whoever holds the send lock for so long holds up the hub"
    assert everything(replay) == [5000, "done"]
    assert looked == list(range(1, 5001)), "each is looked at once"


def test_it_follows_what_is_added_meanwhile() -> None:
    kept = history(*"aaa")
    replay = Replay(kept, 0, hears("a"))
    assert lines(replay.next(SIZE)) == [1]
    add(kept, "b", "a")
    assert lines(replay.next(ALL_AT_ONCE)) == [2, 3, 5]
    assert replay.is_over()
    add(kept, "a")
    assert not replay.is_over()
    assert everything(replay) == [6]


def test_what_is_said_stands_behind_what_was_planned_and_before_what_comes_later() -> None:
    kept = history(*"aaa")
    replay = Replay(kept, 0, hears("a"))
    assert lines(replay.next(SIZE)) == [1]
    replay.queue_messages([said("one"), said("two")])
    assert everything(replay) == ["one", "two", 2, 3]


def test_what_is_said_at_an_event_waits_for_it() -> None:
    kept = history(*"abaa")
    replay = Replay(kept, 0, hears("a"))
    replay.queue_messages([said("at 2")], 2)
    replay.queue_messages([said("also at 2")])
    replay.queue_messages([said("at 3")], 3)
    add(kept, "a")
    assert everything(replay, SIZE) == [1, "at 2", "also at 2", 3, "at 3", 4, 5]


def test_what_is_said_at_an_event_that_has_gone_by_is_said_now() -> None:
    replay = Replay(history(*"aaa"), 0, hears("a"))
    replay.queue_messages([said("first")], 2)
    replay.queue_messages([said("second")], 1)
    assert everything(replay) == [1, 2, "first", "second", 3]


def test_what_is_said_at_an_event_to_come_is_not_said_before_it() -> None:
    kept = history(*"a")
    replay = Replay(kept, 0, hears("a"))
    replay.queue_messages([said("at 3")], 3)
    assert lines(replay.next(ALL_AT_ONCE)) == [1]
    assert not replay.is_over()
    add(kept, *"aaa")
    assert everything(replay) == [2, 3, "at 3", 4]


def test_a_turn_changes_what_is_heard_behind_the_event() -> None:
    kept = history(*"abab")
    replay = Replay(kept, 0, hears("a"))
    replay.change_subscriptions(4, hears("b"), [said("now b")], None)
    assert replay.cursor == 4
    add(kept, *"abab")
    assert everything(replay) == [1, 3, "now b", 6, 8]


def test_a_turn_with_a_past_brings_it_between_what_was_before_and_the_answer() -> None:
    kept = history(*"abab")
    replay = Replay(kept, 2, hears("a"))
    replay.change_subscriptions(4, hears("ab"), [said("now both")], past(1, "b"))
    assert replay.cursor == 4
    add(kept, *"ab")
    assert everything(replay) == [3, 2, 4, "now both", 5, 6]


def test_a_turn_in_the_middle_of_a_past_waits_for_its_end() -> None:
    kept = history(*"abc" * 2)
    replay = Replay(kept, 6, hears("a"))
    replay.change_subscriptions(6, hears("ab"), [said("b too")], past(0, "b"))
    assert lines(replay.next(SIZE)) == [2]
    add(kept, *"abc")
    replay.change_subscriptions(9, hears("abc"), [said("c too")], past(0, "c"))
    replay.change_subscriptions(9, hears("c"), [said("only c")], None)
    add(kept, *"abc")
    assert everything(replay, SIZE) == [5, "b too", 7, 8, 3, 6, 9, "c too", "only c", 12]


def test_a_turn_without_an_answer_brings_none() -> None:
    kept = history(*"ab")
    replay = Replay(kept, 0, hears("a"))
    replay.change_subscriptions(2, hears("b"), (), None)
    add(kept, *"ab")
    assert everything(replay) == [1, 4]
    assert replay.waiting == replay.waiting_bytes == 0


def test_what_waits_to_be_said_is_counted_until_it_is() -> None:
    kept = history(*"aaa")
    replay = Replay(kept, 0, hears("a"))
    frames = [said("x" * 10), said("y" * 200)]
    replay.queue_messages(frames, 2)
    replay.change_subscriptions(3, hears("b"), [said("z")], past(0, "b"))
    size = sum(len(frame.plain) for frame in frames)
    assert (replay.waiting, replay.waiting_bytes) == (3, size + 3)
    assert lines(replay.next(SIZE)) == [1]
    assert replay.waiting == 3
    assert lines(replay.next(SIZE)) == [2]
    everything(replay)
    assert (replay.waiting, replay.waiting_bytes) == (0, 0)


def test_a_history_that_has_moved_on_is_out_of_reach() -> None:
    kept = history(*"a" * 10, size=10)
    replay = Replay(kept, 0, hears("a"))
    assert lines(replay.next(3 * SIZE)) == [1, 2, 3]
    add(kept, *"aaa")
    assert lines(replay.next(SIZE)) == [4], "the next one is there: nothing is lost yet"
    add(kept, *"aa")
    assert replay.next(SIZE) is None
    assert replay.next(SIZE) is None, "and it stays so until it is skipped"
    assert not replay.is_over()
    assert replay.skip() == 5
    assert everything(replay) == list(range(6, 16))


def test_what_was_found_before_the_history_ran_out_still_comes() -> None:
    kept = history(*"a" * 5, size=5)
    replay = Replay(kept, 5, hears("a"))
    replay.change_subscriptions(5, hears("a"), [said("answer")], None)
    replay.change_subscriptions(5, hears("a"), [said("other")], past(2, "a"))
    add(kept, *"aaaa")
    assert lines(replay.next(ALL_AT_ONCE)) == ["answer"], "said before the past that is gone"
    assert replay.next(ALL_AT_ONCE) is None
    assert replay.skip() == 4
    assert everything(replay) == [5, "other", 6, 7, 8, 9]


def test_a_skip_goes_no_further_than_its_part() -> None:
    kept = history(*"a" * 5, size=5)
    replay = Replay(kept, 0, hears("a"))
    replay.queue_messages([said("at 2")], 2)
    add(kept, *"aaaaa")
    assert replay.next(ALL_AT_ONCE) is None
    assert replay.skip() == 2, "what is said there is not lost"
    assert lines(replay.next(ALL_AT_ONCE)) == ["at 2"]
    assert replay.next(ALL_AT_ONCE) is None
    assert replay.skip() == 5
    assert everything(replay) == [6, 7, 8, 9, 10]


ROOMS = "abc"
HEARD = st.lists(st.sampled_from(ROOMS), unique=True).map("".join)


class ReplayModel(RuleBasedStateMachine):
    """Write down what is to come: stretches of numbers with who is heard in them, and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = history(size=12)
        self.rooms = [""]
        #: (after, until, heard) or a text; the last is a stretch without an end.
        self.plan: list[tuple[int, int | None, str] | str] = []
        self.texts = 0

    @initialize(rooms=st.text(ROOMS, min_size=1, max_size=12), back=st.integers(0, 12), heard=HEARD)
    def begin(self, rooms: str, back: int, heard: str) -> None:
        self.come(rooms)
        after = max(0, len(rooms) - back)
        self.replay = Replay(self.kept, after, hears(heard))
        self.plan = [(after, None, heard)]

    @property
    def head(self) -> int:
        return len(self.rooms) - 1

    def tail(self) -> tuple[int, str]:
        last = self.plan[-1]
        assert not isinstance(last, str)
        return last[0], last[2]

    def end(self, at: int, heard: str, texts: list[str]) -> None:
        """Let the last stretch end at a number, say something, and go on from there."""
        after, was = self.tail()
        at = max(at, after)
        self.plan[-1:] = [(after, at, was), *texts, (at, None, heard)]

    def frames(self, count: int) -> tuple[list[str], list[Frame]]:
        texts = [f"text {self.texts + index}" for index in range(count)]
        self.texts += count
        return texts, [said(text) for text in texts]

    def expected(self) -> list[int | str]:
        found: list[int | str] = []
        for each in self.plan:
            if isinstance(each, str):
                found.append(each)
            else:
                after, until, heard = each
                last = self.head if until is None else min(until, self.head)
                found += [number for number in range(after + 1, last + 1) if self.rooms[number] in heard]
        return found

    def pass_by(self, line: int | str) -> None:
        """Strike from the plan what comes up to and with a line that has come."""
        while True:
            first = self.plan[0]
            if first == line:
                del self.plan[0]
                return
            if not isinstance(first, str) and isinstance(line, int):
                after, until, heard = first
                if after < line and (until is None or line <= until) and self.rooms[line] in heard:
                    self.plan[0] = (line, until, heard)
                    return
            assert not isinstance(first, str), f"{first} should have come before {line}"
            del self.plan[0]

    @rule(rooms=st.text(ROOMS, min_size=1, max_size=6))
    def come(self, rooms: str) -> None:
        add(self.kept, *rooms)
        self.rooms += rooms

    @rule(count=st.integers(1, 2), back=st.integers(0, 6))
    def say(self, count: int, back: int) -> None:
        texts, frames = self.frames(count)
        at = max(0, self.head - back)
        self.replay.queue_messages(frames, at)
        self.end(at, self.tail()[1], texts)

    @rule(heard=HEARD, count=st.integers(0, 2), back=st.none() | st.integers(0, 8), wanted=HEARD)
    def turn(self, heard: str, count: int, back: int | None, wanted: str) -> None:
        texts, frames = self.frames(count)
        if back is None:
            self.replay.change_subscriptions(self.head, hears(heard), frames, None)
            self.end(self.head, heard, texts)
            return
        after = max(0, self.head - back)
        self.replay.change_subscriptions(self.head, hears(heard), frames, past(after, wanted))
        self.end(self.head, "", [])
        self.plan[-1:] = [(after, self.head, wanted), *texts, (self.head, None, heard)]

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
            self.pass_by(line)

    def skip(self) -> None:
        cursor = self.replay._parts[0].cursor
        first = self.kept.first()
        assert cursor < first - 1, "nothing was lost"
        lost = self.replay.skip()
        assert cursor < lost < first
        # Stretches that ended with nothing heard have been passed without a line to tell.
        while len(self.plan) > len(self.replay._parts) + self.replay.waiting:
            passed = self.plan.pop(0)
            assert not isinstance(passed, str)
            assert not any(self.rooms[number] in passed[2] for number in range(passed[0] + 1, (passed[1] or 0) + 1))
        stretch = self.plan[0]
        assert not isinstance(stretch, str)
        self.plan[0] = (max(stretch[0], lost), stretch[1], stretch[2])

    @invariant()
    def counts_what_waits(self) -> None:
        if self.plan:
            texts = [each for each in self.plan if isinstance(each, str)]
            assert self.replay.waiting == len(texts)
            assert self.replay.waiting_bytes == sum(len(said(text).plain) for text in texts)
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
