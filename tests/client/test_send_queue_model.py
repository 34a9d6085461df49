"""The send queue against a simple model: what goes out and what is lost under each policy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cartows.client.queue_budget import QueueBudget
from cartows.client.send_queue import SendQueue
from cartows.options import Policy
from cartows.websocket.frames import Frame
from tests.support.send_queues import MUCH, POLICIES, frame, notice, read, waiting

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
    """Return whether a message, as a client reads it, is an event of the hub: ids of others are strings here."""
    return message["type"] != "pong" and isinstance(message["id"], int)


class Page:
    """The client: what it was to receive, what it has received, and what it has lost."""

    def __init__(self, at: int) -> None:
        self.expected: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        #: The last number it has read, an event's or a notice's.
        self.at = at
        self.lost: set[int] = set()
        #: The lost events of which no notice has been read, and those since the last answer to a ping.
        self.unreported: set[int] = set()
        self.unanswered: set[int] = set()


class SendQueueModel(RuleBasedStateMachine):
    """The Sender and the client at once: the queue is read after every step, and what goes out is received."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.page = Page(0)

    @initialize(
        policy=st.sampled_from(POLICIES),
        max_frames=st.integers(1, 8),
        max_bytes=st.sampled_from([300, 700, 1200, MUCH, MUCH]),
        deflate=st.booleans(),
        reports=st.sampled_from([True, True, True, False]),
    )
    def begin(self, policy: Policy, max_frames: int, max_bytes: int, deflate: bool, reports: bool) -> None:
        self.policy, self.max_frames, self.max_bytes, self.reports = policy, max_frames, max_bytes, reports
        self.deflate = deflate
        self.budget = QueueBudget()
        self.queue = SendQueue(policy, max_frames, max_bytes, deflate, notice if reports else None, self.budget)

    def made(self, kind: str, name: str, changes: dict[str, int]) -> Frame:
        """Return a new message as a frame, having noted that the client is to receive it."""
        self.number += 1
        numbered = kind not in ("answer", "local")
        type = {"answer": "answer", "other": "other", "local": "task.updated"}.get(kind, f"task.{kind}")
        data = {"task_id": name, "changes": changes, "task": "compressible" * 9 if self.number % 2 else ""}
        message = {"type": type, "id": self.number if numbered else str(self.number), "data": data}
        self.page.expected.append(message)
        return frame(
            message,
            number=self.number if numbered else 0,
            entity=("task", name) if type.startswith("task.") else None,
            merges=type == "task.updated",
            compress_min_size=150,
        )

    @rule(specs=SPECS)
    def extend(self, specs: list[tuple[str, str, dict[str, int]]]) -> None:
        self.queue.extend([self.made(*spec) for spec in specs])
        self.note_losses()

    @rule(rest=st.integers(0, 100))
    def relieve(self, rest: int) -> None:
        was_over, before = self.queue.over(rest), waiting(self.queue)
        relieved = self.queue.relieve(rest)
        after = waiting(self.queue)
        self.note_losses()
        assert relieved is (len(self.queue) <= self.max_frames and self.queue.bytes + rest <= self.max_bytes)
        assert relieved is not self.queue.over(rest)
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

    @invariant()
    def counts_in_its_budget_what_waits(self) -> None:
        assert self.budget.bytes == sum(each.held_bytes for each in self.queue._queue or ())
        assert all(each.holders == 1 for each in self.queue._queue or ())

    @rule(room=st.integers(0, 900))
    def send(self, room: int) -> None:
        pieces = self.queue.pieces(room)
        assert bool(pieces) is bool(len(self.queue))
        assert len(pieces) <= 1 or len(b"".join(pieces)) <= room
        self.queue.pop(len(pieces))
        self.receive(pieces)

    @rule(room=st.integers(0, 900), share=st.floats(0, 1))
    def send_short(self, room: int, share: float) -> None:
        pieces = self.queue.pieces(room)
        data = b"".join(pieces)
        taken = int(len(data) * share)
        before = len(self.queue)
        cut = self.queue.pop_sent(pieces, taken)
        rest = b"" if cut is None else cut[0].wire(self.deflate)[cut[1] :]
        if cut is not None:
            self.budget.release(cut[:1])
        begun = pieces[: before - len(self.queue)]
        assert data[:taken] + rest == b"".join(begun), "the rest completes the frame that was cut"
        assert bool(rest) is (taken not in itertools.accumulate(map(len, pieces), initial=0))
        self.receive(begun)

    @rule()
    def answer_a_ping(self) -> None:
        assert self.queue.incomplete is bool(self.page.unanswered)
        self.queue.incomplete = False
        self.page.unanswered.clear()

    @precondition(lambda self: len(self.queue) > 3)
    @rule()
    def clear(self) -> None:
        self.queue.clear()
        assert (len(self.queue), self.queue.bytes, self.queue.pieces(MUCH)) == (0, 0, [])
        self.queue.incomplete = False
        self.page = Page(self.number)

    def receive(self, pieces: Sequence[bytes]) -> None:
        """Read as the client does, and check what the queue promises."""
        page = self.page
        for message in map(read, pieces):
            page.received.append(message)
            if message["type"] == "pong":
                assert page.unreported, "a notice reports nothing new"
                page.unreported.clear()
            elif is_event(message) and self.reports:
                assert not [number for number in page.unreported if number < message["id"]], "read before the loss was reported"
            if not isinstance(message["id"], str):
                assert message["id"] > page.at, "the numbers do not grow"
                page.at = message["id"]

    def note_losses(self) -> None:
        """Find the events that neither wait nor went out."""
        page = self.page
        there = {each["id"] for each in [*page.received, *waiting(self.queue)] if is_event(each)}
        lost = {each["id"] for each in page.expected if is_event(each)} - there - page.lost
        page.lost |= lost
        page.unreported |= lost
        page.unanswered |= lost
        if self.policy == "drop_oldest" and lost:
            assert max(lost) < min([each["id"] for each in waiting(self.queue) if is_event(each)], default=MUCH)

    @invariant()
    def counts_what_waits(self) -> None:
        pieces = self.queue.pieces(MUCH)
        assert len(self.queue) == len(pieces) <= 256
        assert self.queue.bytes == len(b"".join(pieces))

    @invariant()
    def loses_only_events_and_only_where_that_is_the_policy(self) -> None:
        come = [*self.page.received, *waiting(self.queue)]
        assert [each["id"] for each in come if isinstance(each["id"], str)] == [
            each["id"] for each in self.page.expected if isinstance(each["id"], str)
        ]
        assert self.reports or not any(each["type"] == "pong" for each in come)
        if self.policy == "disconnect":
            assert come == self.page.expected

    @invariant()
    def brings_a_coalesced_client_to_the_right_last_state(self) -> None:
        if self.policy == "coalesce":
            come = [*self.page.received, *waiting(self.queue)]
            assert applied({}, come) == applied({}, self.page.expected)


SendQueueModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=200,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSendQueueAgainstASimpleModel = SendQueueModel.TestCase
