"""The backlog: what each policy gives up and what it never does, by example and against a simple model."""

from __future__ import annotations

import itertools
import json
import weakref
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cartows.client import send_queue as module_under_test
from cartows.client.coalescing import merge
from cartows.client.send_queue import SendQueue
from cartows.options import Policy
from cartows.websocket.frames import Frame

POLICIES: list[Policy] = ["disconnect", "drop_oldest", "coalesce"]
# Room enough where a test is about messages, or about nothing of the kind.
MUCH = 1_000_000


def frame(text: dict[str, Any], **about: Any) -> Frame:
    """Return a message as a frame."""
    return Frame(json.dumps(text).encode(), **about)


def event(
    number: int, kind: str = "updated", name: str | None = None, *, number_on_frame: bool = True, **changes: Any
) -> Frame:
    """Return an event about the task of that name, each event about its own unless it is said."""
    name = name or f"of {number}"
    data: dict[str, Any] = {"task_id": name, "action": kind, "changes": changes}
    return frame(
        {"type": f"task.{kind}", "id": number, "data": data},
        number=number if number_on_frame else 0,
        entity=("task", name),
        merges=kind == "updated",
    )


def answer(text: str) -> Frame:
    """Return what is no event of the hub's."""
    return frame({"type": "answer", "id": text})


def notice(number: int) -> Frame:
    """Return what tells of a loss."""
    return frame({"type": "pong", "id": number, "data": {"incomplete": True}})


def read(wire: bytes) -> dict[str, Any]:
    """Return the message in a frame as it is sent, inflated if need be."""
    size = {126: 4, 127: 10}.get(wire[1], 2)
    payload = wire[size:]
    if wire[0] & 0x40:
        payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
    found: dict[str, Any] = json.loads(payload)
    return found


def waiting(backlog: SendQueue) -> list[dict[str, Any]]:
    """Return all that waits, in order; tests keep it to one send."""
    return [read(wire) for wire in backlog.pieces(MUCH)]


def names(backlog: SendQueue) -> list[Any]:
    """Return the ids of all that waits, a notice's as text."""
    return [f"lost {each['id']}" if each["type"] == "pong" else each["id"] for each in waiting(backlog)]


def changes(backlog: SendQueue) -> dict[Any, Any]:
    """Return the changes in each event that waits."""
    return {each["id"]: each["data"]["changes"] for each in waiting(backlog) if each["type"].startswith("task.")}


def made(policy: Policy, frames: Iterable[Frame] = (), *, most: int = 4, max_bytes: int = MUCH) -> SendQueue:
    """Return a backlog in which these frames wait."""
    backlog = SendQueue(policy, most, max_bytes, False, notice)
    backlog.extend(list(frames))
    return backlog


def events(*numbers: int) -> list[Frame]:
    """Return updates of different tasks."""
    return [event(number) for number in numbers]


# Waiting and going out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_what_waits_goes_out_in_order_and_is_counted_until_then(policy: Policy) -> None:
    backlog = made(policy, [event(1), answer("a"), event(2)])
    pieces = backlog.pieces(MUCH)
    assert (names(backlog), len(backlog), backlog.bytes) == ([1, "a", 2], 3, len(b"".join(pieces)))
    backlog.pop(2)
    assert (names(backlog), len(backlog), backlog.bytes) == ([2], 1, len(pieces[2]))
    backlog.pop(1)
    assert (backlog.pieces(MUCH), len(backlog), backlog.bytes) == ([], 0, 0)
    backlog.pop(0)


def test_a_send_takes_what_fits_but_one_frame_at_least_and_256_at_most() -> None:
    backlog = made("disconnect", events(*range(1, 301)))
    first, second = backlog.pieces(MUCH)[:2]
    assert backlog.pieces(0) == backlog.pieces(len(first) + len(second) - 1) == [first]
    assert backlog.pieces(len(first) + len(second)) == [first, second]
    assert len(backlog.pieces(MUCH)) == 256


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cut_frame_is_let_go_of_and_its_rest_handed_back(policy: Policy) -> None:
    backlog = made(policy, events(1, 2, 3))
    pieces = backlog.pieces(MUCH)
    assert backlog.pop_sent(pieces, len(pieces[0]) + 5) == pieces[1][5:]
    assert (names(backlog), backlog.bytes) == ([3], len(pieces[2]))


def test_a_send_that_ends_between_two_frames_leaves_no_rest() -> None:
    backlog = made("disconnect", events(1, 2))
    pieces = backlog.pieces(MUCH)
    assert backlog.pop_sent(pieces, 0) == b""
    assert names(backlog) == [1, 2]
    assert backlog.pop_sent(pieces, len(pieces[0])) == b""
    assert names(backlog) == [2]


def test_compressed_frames_are_counted_and_sent_as_they_are_on_the_wire() -> None:
    large = frame({"id": 1, "text": "x" * 2000}, number=1, compress_min_size=1000)
    for deflate in [False, True]:
        backlog = SendQueue("disconnect", 4, MUCH, deflate, notice)
        backlog.extend([large])
        assert backlog.pieces(MUCH) == [large.wire(deflate)]
        assert backlog.bytes == len(large.wire(deflate))
        backlog.pop(1)
        assert backlog.bytes == 0
    assert len(large.wire(True)) < len(large.wire(False))


@pytest.mark.parametrize("policy", POLICIES)
def test_both_bounds_may_be_reached_but_not_passed_with_the_rest_of_a_cut_frame_counted(policy: Policy) -> None:
    backlog = made(policy, events(1, 2), most=2, max_bytes=len(event(1).plain) * 2 + 10)
    assert not backlog.over(10)
    assert backlog.over(11)
    backlog.extend(events(3))
    assert backlog.over(0)
    assert made(policy, events(1, 2, 3), most=2).over(0)


@pytest.mark.parametrize("policy", POLICIES)
def test_within_bounds_nothing_is_given_up(policy: Policy) -> None:
    backlog = made(policy, [event(1, name="a", x=1), event(2, name="a", x=2), answer("b")])
    assert backlog.relieve(0)
    assert names(backlog) == [1, 2, "b"]
    assert not backlog.incomplete


@pytest.mark.parametrize("policy", POLICIES)
def test_clearing_leaves_nothing_and_what_comes_next_starts_anew(policy: Policy) -> None:
    backlog = made(policy, [event(number, name="a", x=number) for number in range(1, 7)])
    backlog.relieve(0)
    backlog.clear()
    assert (len(backlog), backlog.bytes, backlog.pieces(MUCH)) == (0, 0, [])
    backlog.extend([event(7, name="a", y=7), event(8, name="a", z=8)])
    assert changes(backlog) == {7: {"y": 7}, 8: {"z": 8}}
    backlog.extend([event(number, name="a", x=number) for number in range(9, 13)])
    assert backlog.relieve(0) == (policy != "disconnect")
    first = {"disconnect": 7, "drop_oldest": "lost 9", "coalesce": "lost 7"}
    assert names(backlog)[0] == first[policy], "what is given up now is told now"


# disconnect -----------------------------------------------------------------------------------------------------------


def test_disconnect_gives_up_nothing_and_says_so() -> None:
    backlog = made("disconnect", events(1, 2, 3, 4, 5))
    assert not backlog.relieve(0)
    assert names(backlog) == [1, 2, 3, 4, 5]
    assert not backlog.incomplete


# drop_oldest ----------------------------------------------------------------------------------------------------------


def test_the_oldest_events_go_and_no_more_than_must() -> None:
    backlog = made("drop_oldest", events(1, 2, 3, 4, 5, 6))
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 3", 4, 5, 6]
    assert backlog.incomplete


def test_events_go_until_the_bytes_fit() -> None:
    size = len(event(1).plain)
    backlog = made("drop_oldest", events(1, 2, 3, 4, 5), most=9, max_bytes=size * 3 + len(notice(1).plain))
    assert backlog.relieve(size)
    assert names(backlog) == ["lost 3", 4, 5]


def test_what_is_no_event_stays_where_it_stood() -> None:
    backlog = made("drop_oldest", [answer("a"), event(1), answer("b"), event(2), event(3), answer("c"), event(4)], most=5)
    assert backlog.relieve(0)
    assert names(backlog) == ["a", "lost 1", "b", "c", 4]


def test_when_only_answers_are_left_and_they_are_too_many_there_is_no_relief() -> None:
    backlog = made("drop_oldest", [answer("a"), event(1), *map(answer, "bcde"), event(2)])
    assert not backlog.relieve(0)
    assert names(backlog) == ["a", "lost 1", *"bcde"]
    backlog = made("drop_oldest", map(answer, "abcde"))
    assert not backlog.relieve(0)
    assert names(backlog) == [*"abcde"]
    assert not backlog.incomplete


def test_one_notice_grows_with_what_is_dropped_right_behind_it() -> None:
    backlog = made("drop_oldest", events(7, 8, 9, 10, 11))
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 8", 9, 10, 11]
    backlog.extend(events(12, 13))
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 10", 11, 12, 13]


def test_a_notice_behind_answers_grows_where_it_stands() -> None:
    backlog = made("drop_oldest", [answer("a"), *events(1, 2, 3, 4, 5)])
    assert backlog.relieve(0)
    assert names(backlog) == ["a", "lost 3", 4, 5]


def test_a_notice_does_not_pass_on_an_answer_behind_it_what_was_lost_behind_that() -> None:
    backlog = made("drop_oldest", [event(1), event(2), answer("a"), event(3), event(4)])
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 2", "a", 3, 4]
    backlog.extend(events(5))
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 2", "a", 4, 5]


def test_what_is_lost_once_the_notice_has_gone_out_has_one_of_its_own() -> None:
    backlog = made("drop_oldest", events(1, 2, 3, 4, 5))
    assert backlog.relieve(0)
    backlog.pop(1)
    backlog.extend(events(6, 7))
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 4", 5, 6, 7]


def test_a_notice_whose_number_grows_by_a_digit_still_fits() -> None:
    size = len(event(10).plain)
    max_bytes = size * 2 + len(notice(9).plain)
    backlog = made("drop_oldest", events(9, 11, 12), most=9, max_bytes=max_bytes)
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 9", 11, 12]
    backlog.extend(events(13))
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 12", 13]
    assert backlog.bytes <= max_bytes


def test_an_event_that_fits_in_no_queue_leaves_only_its_notice() -> None:
    backlog = made("drop_oldest", [event(1, x="y" * 999)], max_bytes=500)
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 1"]


def test_nobody_is_told_where_no_notice_can_be_made() -> None:
    for policy in POLICIES[1:]:
        backlog = SendQueue(policy, 2, MUCH, False, None)
        backlog.extend([event(number, name="a", x=number) for number in range(1, 5)])
        assert backlog.relieve(0)
        assert names(backlog) == ([3, 4] if policy == "drop_oldest" else [4])
        assert backlog.incomplete
    backlog = SendQueue("drop_oldest", 2, 10, False, None)
    backlog.extend(events(1))
    assert backlog.relieve(0)
    assert (len(backlog), backlog.bytes, backlog.pieces(MUCH)) == (0, 0, [])
    backlog.extend([answer("a")])
    assert names(backlog) == ["a"]


# coalesce -------------------------------------------------------------------------------------------------------------


def test_of_the_updates_of_one_thing_the_newest_stays_in_its_own_place_with_all_changes() -> None:
    backlog = made(
        "coalesce",
        [event(1, name="a", x=1, y=1), event(2, name="b", x=2), event(3, name="a", y=3), event(4, name="a", z=4), event(5)],
    )
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 1", 2, 4, 5]
    assert changes(backlog) == {2: {"x": 2}, 4: {"x": 1, "y": 3, "z": 4}, 5: {}}
    assert backlog.incomplete


def test_once_begun_each_new_update_takes_in_the_one_that_waits_until_nothing_does() -> None:
    backlog = made("coalesce", [event(number, name="a", x=number) for number in range(1, 6)])
    assert backlog.relieve(0)
    backlog.extend([event(6, name="b", x=6), event(7, name="a", y=7)])
    assert names(backlog) == ["lost 1", 6, 7]
    assert changes(backlog)[7] == {"x": 5, "y": 7}
    backlog.pop(3)
    backlog.extend([event(8, name="a", x=8), event(9, name="a", x=9)])
    assert names(backlog) == [8, 9]


def test_what_has_gone_out_is_merged_with_nothing() -> None:
    backlog = made("coalesce", [event(1, name="a", x=1), event(2, name="a", y=2), *events(3, 4, 5)])
    assert backlog.relieve(0) is False
    assert names(backlog) == ["lost 1", 2, 3, 4, 5]
    backlog.pop(2)
    backlog.extend([event(6, name="a", z=6)])
    assert names(backlog) == [3, 4, 5, 6]
    assert changes(backlog)[6] == {"z": 6}


def test_an_update_that_goes_out_leaves_the_one_behind_a_barrier_to_be_merged() -> None:
    backlog = made("coalesce", [event(1, name="a"), event(2, "deleted", "a"), event(3, name="a", x=3), *events(4, 5)])
    assert not backlog.relieve(0)
    backlog.pop(1)
    backlog.extend([event(6, name="a", y=6)])
    assert names(backlog) == [2, "lost 3", 4, 5, 6]
    assert changes(backlog)[6] == {"x": 3, "y": 6}


def test_what_is_given_up_before_the_notice_moves_the_notice_there() -> None:
    backlog = made("coalesce", [event(1, name="a"), event(2, name="b"), event(3), event(4, name="b"), event(5, name="b")])
    assert backlog.relieve(0)
    assert names(backlog) == [1, "lost 2", 3, 5]
    backlog.extend([event(6, name="a")])
    assert names(backlog) == ["lost 1", 3, 5, 6]


def test_what_is_merged_once_the_notice_has_gone_out_has_one_of_its_own() -> None:
    backlog = made("coalesce", [event(1, name="a"), event(2, name="a"), event(3, name="b"), event(4, name="a")], most=3)
    assert backlog.relieve(0)
    backlog.pop(1)
    backlog.incomplete = False
    backlog.extend([event(5, name="b")])
    assert names(backlog) == ["lost 3", 4, 5]
    assert backlog.incomplete


LOCAL = {"type": "task.updated", "id": 3, "data": {"task_id": "a", "changes": {"x": 3}}}


@pytest.mark.parametrize(
    "barrier",
    [event(3, "deleted", "a"), event(3, "created", "a"), frame(LOCAL, entity=("task", "a"), merges=True)],
    ids=["deleted", "created", "without a number"],
)
def test_what_is_no_update_parts_those_before_it_from_those_behind_it(barrier: Frame) -> None:
    backlog = made(
        "coalesce", [event(1, name="a", x=1), event(2, name="a", y=2), barrier, event(4, name="a", z=4), event(5, name="a")]
    )
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 1", 2, 3, 5]
    assert [changes(backlog)[number] for number in (2, 5)] == [{"x": 1, "y": 2}, {"z": 4}]


def test_things_of_one_id_but_different_kinds_are_different_things() -> None:
    kinds = [
        frame({"type": "", "id": n}, number=n, entity=(kind, "1"), merges=True)
        for n, kind in enumerate(["task", "board"] * 2, 1)
    ]
    backlog = made("coalesce", kinds, most=3)
    assert backlog.relieve(0)
    assert names(backlog) == ["lost 1", 3, 4]


def test_events_about_nothing_in_particular_and_answers_are_not_merged() -> None:
    frames = [frame({"id": n, "type": ""}, number=n, merges=True) for n in (1, 2)] + [answer("a"), answer("a")]
    backlog = made("coalesce", [*frames, event(5, "created", "b"), event(6, "created", "b")])
    assert not backlog.relieve(0)
    assert names(backlog) == [1, 2, "a", "a", 5, 6]
    assert not backlog.incomplete


def test_when_merging_does_not_help_there_is_no_relief() -> None:
    backlog = made("coalesce", events(1, 2, 3, 4, 5))
    assert not backlog.relieve(0)
    backlog.pop(1)
    assert backlog.relieve(0)
    backlog.extend(events(6))
    assert not backlog.relieve(0)


# What it costs --------------------------------------------------------------------------------------------------------


def test_an_update_costs_one_merge_however_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    merges: list[int] = []

    def counted(older: Frame, newer: Frame) -> Frame:
        merges.append(newer.number)
        return merge(older, newer)

    monkeypatch.setattr(module_under_test, "merge", counted)
    backlog = made("coalesce", [answer("stuck"), *(event(n, name=f"task {n % 10}", x=n) for n in range(1, 101))], most=50)
    assert merges == [], "a client that keeps up pays nothing"
    assert backlog.relieve(0)
    for number in range(101, 1001):
        backlog.extend([event(number, name=f"task {number % 10}", x=number)])
        assert backlog.relieve(0)
    assert merges == list(range(11, 1001)), "each update behind the first of its task was merged once"
    assert names(backlog) == ["stuck", "lost 1", *range(991, 1001)]


def test_what_was_merged_into_another_is_let_go_of() -> None:
    class Traced(Frame):
        """Can be referred to weakly."""

    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    backlog = made("coalesce", [answer("stuck"), *events(1, 2, 3, 4)])
    backlog.relieve(0)
    for number in range(5, 500):
        each = Traced(b"{}", number=number, entity=("task", "a"), merges=True)
        alive.add(each)
        backlog.extend([each])
        del each
    assert len(alive) == 1
    assert len(backlog) == 7


def test_an_event_is_dropped_at_the_cost_of_itself() -> None:
    looks = itertools.count()
    notices = itertools.count()

    class Watched(Frame):
        """Counts how often it is looked at."""

        def wire(self, deflate: bool) -> bytes:
            next(looks)
            return super().wire(deflate)

    def counted(number: int) -> Frame:
        next(notices)
        return notice(number)

    backlog = SendQueue("drop_oldest", 200, MUCH, False, counted)
    for start in range(1, 10_001, 100):
        backlog.extend([Watched(b"{}", number=number) for number in range(start, start + 100)])
        assert backlog.relieve(0)
    assert next(looks) == 10_000 + 10_000 - 199, "each is measured when it comes and when it goes"
    assert next(notices) <= 100


# Against a model ------------------------------------------------------------------------------------------------------

TASKS = ["a", "b", "c"]
KINDS = ["updated"] * 6 + ["answer"] * 3 + ["created", "deleted", "other", "local"]
SPECS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(TASKS), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9))),
    max_size=8,
)

State = dict[str, dict[str, int]]


def applied(state: State, messages: Iterable[dict[str, Any]]) -> State:
    """Return what a page shows once it has read these messages."""
    state = {name: dict(fields) for name, fields in state.items()}
    for message in messages:
        kind = message["type"]
        if kind == "task.deleted":
            state.pop(message["data"]["task_id"], None)
        elif kind in ("task.created", "task.updated"):
            fields = {} if kind == "task.created" else state.get(message["data"]["task_id"], {})
            state[message["data"]["task_id"]] = {**fields, **message["data"]["changes"]}
    return state


def is_event(message: dict[str, Any]) -> bool:
    """Return whether a message, as a client reads it, is an event of the hub: ids of others are text here."""
    return message["type"] != "pong" and isinstance(message["id"], int)


class Page:
    """Be the client: what it was meant to hear, what it has heard, and what it has lost."""

    def __init__(self, at: int) -> None:
        self.meant: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []
        #: The last number it has seen, an event's or a notice's.
        self.at = at
        self.lost: set[int] = set()
        #: Those lost of which no notice has been read, and those lost since the last answer to a ping.
        self.untold: set[int] = set()
        self.unanswered: set[int] = set()


class BacklogModel(RuleBasedStateMachine):
    """Play the Sender and the client at once: what waits is looked at after every step, and what goes out is believed."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.page = Page(0)

    @initialize(
        policy=st.sampled_from(POLICIES),
        most=st.integers(1, 8),
        max_bytes=st.sampled_from([300, 700, 1200, MUCH, MUCH]),
        deflate=st.booleans(),
        tells=st.sampled_from([True, True, True, False]),
    )
    def begin(self, policy: Policy, most: int, max_bytes: int, deflate: bool, tells: bool) -> None:
        self.policy, self.most, self.max_bytes, self.tells = policy, most, max_bytes, tells
        self.backlog = SendQueue(policy, most, max_bytes, deflate, notice if tells else None)

    def made(self, kind: str, name: str, changes: dict[str, int]) -> Frame:
        """Return a new message as a frame, having noted that the client is meant to hear of it."""
        self.number += 1
        numbered = kind not in ("answer", "local")
        type = {"answer": "answer", "other": "other", "local": "task.updated"}.get(kind, f"task.{kind}")
        data = {"task_id": name, "changes": changes, "task": "compressible" * 9 if self.number % 2 else ""}
        message = {"type": type, "id": self.number if numbered else str(self.number), "data": data}
        self.page.meant.append(message)
        return frame(
            message,
            number=self.number if numbered else 0,
            entity=("task", name) if type.startswith("task.") else None,
            merges=type == "task.updated",
            compress_min_size=150,
        )

    @rule(specs=SPECS)
    def extend(self, specs: list[tuple[str, str, dict[str, int]]]) -> None:
        self.backlog.extend([self.made(*spec) for spec in specs])
        self.note_losses()

    @rule(rest=st.integers(0, 100))
    def relieve(self, rest: int) -> None:
        was_over, before = self.backlog.over(rest), waiting(self.backlog)
        relieved = self.backlog.relieve(rest)
        after = waiting(self.backlog)
        self.note_losses()
        assert relieved is (len(self.backlog) <= self.most and self.backlog.bytes + rest <= self.max_bytes)
        assert relieved is not self.backlog.over(rest)
        if not was_over or self.policy == "disconnect":
            assert before == after
        elif not relieved and self.policy == "drop_oldest":
            assert not any(map(is_event, after)), "there was more to drop"
        elif self.policy == "coalesce":
            last: dict[str, bool] = {}
            for each in [each for each in after if each["type"].startswith("task.")]:
                mergeable = is_event(each) and each["type"] == "task.updated"
                assert not (mergeable and last.get(each["data"]["task_id"])), "two updates wait that could be one"
                last[each["data"]["task_id"]] = mergeable

    @rule(room=st.integers(0, 900))
    def send(self, room: int) -> None:
        pieces = self.backlog.pieces(room)
        assert bool(pieces) is bool(len(self.backlog))
        assert len(pieces) <= 1 or len(b"".join(pieces)) <= room
        self.backlog.pop(len(pieces))
        self.hear(pieces)

    @rule(room=st.integers(0, 900), share=st.floats(0, 1))
    def send_short(self, room: int, share: float) -> None:
        pieces = self.backlog.pieces(room)
        data = b"".join(pieces)
        taken = int(len(data) * share)
        before = len(self.backlog)
        rest = self.backlog.pop_sent(pieces, taken)
        begun = pieces[: before - len(self.backlog)]
        assert data[:taken] + rest == b"".join(begun), "the rest completes the frame that was cut"
        assert bool(rest) is (taken not in itertools.accumulate(map(len, pieces), initial=0))
        self.hear(begun)

    @rule()
    def answer_a_ping(self) -> None:
        assert self.backlog.incomplete is bool(self.page.unanswered)
        self.backlog.incomplete = False
        self.page.unanswered.clear()

    @precondition(lambda self: len(self.backlog) > 3)
    @rule()
    def clear(self) -> None:
        self.backlog.clear()
        assert (len(self.backlog), self.backlog.bytes, self.backlog.pieces(MUCH)) == (0, 0, [])
        self.backlog.incomplete = False
        self.page = Page(self.number)

    def hear(self, pieces: Sequence[bytes]) -> None:
        """Read as the client does, and hold the backlog to what it has promised."""
        page = self.page
        for message in map(read, pieces):
            page.heard.append(message)
            if message["type"] == "pong":
                assert page.untold, "a notice tells of nothing new"
                page.untold.clear()
            elif is_event(message) and self.tells:
                assert not [number for number in page.untold if number < message["id"]], "seen before the loss was told"
            if not isinstance(message["id"], str):
                assert message["id"] > page.at, "the numbers do not grow"
                page.at = message["id"]

    def note_losses(self) -> None:
        """Find the events which neither wait nor went out."""
        page = self.page
        there = {each["id"] for each in [*page.heard, *waiting(self.backlog)] if is_event(each)}
        lost = {each["id"] for each in page.meant if is_event(each)} - there - page.lost
        page.lost |= lost
        page.untold |= lost
        page.unanswered |= lost
        if self.policy == "drop_oldest" and lost:
            assert max(lost) < min([each["id"] for each in waiting(self.backlog) if is_event(each)], default=MUCH)

    @invariant()
    def counts_what_waits(self) -> None:
        pieces = self.backlog.pieces(MUCH)
        assert len(self.backlog) == len(pieces) <= 256
        assert self.backlog.bytes == len(b"".join(pieces))

    @invariant()
    def loses_only_events_and_only_where_that_is_the_policy(self) -> None:
        come = [*self.page.heard, *waiting(self.backlog)]
        assert [each["id"] for each in come if isinstance(each["id"], str)] == [
            each["id"] for each in self.page.meant if isinstance(each["id"], str)
        ]
        assert self.tells or not any(each["type"] == "pong" for each in come)
        if self.policy == "disconnect":
            assert come == self.page.meant

    @invariant()
    def brings_a_coalesced_client_to_the_right_last_state(self) -> None:
        if self.policy == "coalesce":
            come = [*self.page.heard, *waiting(self.backlog)]
            assert applied({}, come) == applied({}, self.page.meant)


BacklogModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=200,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBacklogAgainstASimpleModel = BacklogModel.TestCase
