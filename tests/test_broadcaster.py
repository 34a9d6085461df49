"""The broadcast methods: what each one publishes, for which recipients, and what it rejects in the caller's thread."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import logging
import threading
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cartows import Message, Options, PublishRejected, PublishResult, new_message
from cartows.broadcaster import Broadcaster
from cartows.rooms import EVERYONE, Audience

ACCEPTED = PublishResult(True, "queued", "e.1")

# How long a test waits for what must not happen, and for another thread, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0


class RecordingBroadcaster(Broadcaster):
    """A broadcaster that keeps what would be published."""

    def __init__(self, *, held: tuple[str, ...] = (), options: Options | None = None) -> None:
        super().__init__()
        self.logger = logging.getLogger("cartows.test")
        self.published: list[tuple[Message, Audience]] = []
        self._held = held
        self._given = options or Options()

    @property
    def filter_keys(self) -> tuple[str, ...]:
        return self._given.filter_keys

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        self.published.append((message, audience))
        return ACCEPTED

    def _has_filter(self, key: str) -> bool:
        return key in self._held

    def only(self) -> tuple[str, Any, set[tuple[str, str]], bool, bool]:
        """Return the one event that was published: its type and data, the rooms, and its other recipients."""
        ((message, audience),) = self.published
        data = json.loads(message.encode()).get("data")
        return message.type, data, set(audience.rooms), audience.unfiltered, audience.everyone


@pytest.fixture
def hub() -> RecordingBroadcaster:
    return RecordingBroadcaster()


# Events and their recipients --------------------------------------------------------------------------------------

BOARD, PROJECT = ("board_id", "b1"), ("project_id", "p1")

CALLS: dict[str, tuple[Callable[[RecordingBroadcaster], PublishResult], str, dict[str, Any], set[tuple[str, str]]]] = {
    "a task is created": (
        lambda hub: hub.broadcast_task_created("t1", "b1", {"title": "x"}, project_id="p1"),
        "task.created",
        {"task_id": "t1", "board_id": "b1", "project_id": "p1", "action": "created", "task": {"title": "x"}},
        {BOARD, PROJECT},
    ),
    "a task is created in no known project": (
        lambda hub: hub.broadcast_task_created("t1", "b1", {"title": "x"}),
        "task.created",
        {"task_id": "t1", "board_id": "b1", "action": "created", "task": {"title": "x"}},
        {BOARD},
    ),
    "a task is updated": (
        lambda hub: hub.broadcast_task_updated("t1", "b1", {"title": "y"}, {"id": "t1"}, project_id="p1"),
        "task.updated",
        {
            "task_id": "t1",
            "board_id": "b1",
            "project_id": "p1",
            "action": "updated",
            "changes": {"title": "y"},
            "task": {"id": "t1"},
        },
        {BOARD, PROJECT},
    ),
    "a task is moved": (
        lambda hub: hub.broadcast_task_updated("t1", "b1", {"column": 2}, action="moved"),
        "task.updated",
        {"task_id": "t1", "board_id": "b1", "action": "moved", "changes": {"column": 2}},
        {BOARD},
    ),
    "a task is deleted": (
        lambda hub: hub.broadcast_task_deleted("t1", "b1", project_id="p1"),
        "task.deleted",
        {"task_id": "t1", "board_id": "b1", "project_id": "p1", "action": "deleted"},
        {BOARD, PROJECT},
    ),
    "a project is created": (
        lambda hub: hub.broadcast_project_created("p1", {"name": "x"}),
        "project.created",
        {"project_id": "p1", "action": "created", "project": {"name": "x"}},
        {PROJECT},
    ),
    "a project is updated": (
        lambda hub: hub.broadcast_project_updated("p1", {"name": "y"}, {"id": "p1"}),
        "project.updated",
        {"project_id": "p1", "action": "updated", "changes": {"name": "y"}, "project": {"id": "p1"}},
        {PROJECT},
    ),
    "a board is updated": (
        lambda hub: hub.broadcast_board_updated("b1", "p1", {"name": "y"}, {"id": "b1"}),
        "board.updated",
        {"board_id": "b1", "project_id": "p1", "action": "updated", "changes": {"name": "y"}, "board": {"id": "b1"}},
        {BOARD, PROJECT},
    ),
    "a board of no known project is reordered": (
        lambda hub: hub.broadcast_board_updated("b1", None, {"order": [2, 1]}, action="reordered"),
        "board.updated",
        {"board_id": "b1", "action": "reordered", "changes": {"order": [2, 1]}},
        {BOARD},
    ),
}


@pytest.mark.parametrize("call, type_, data, rooms", CALLS.values(), ids=CALLS)
def test_an_event_goes_to_its_board_its_project_and_those_without_a_filter(
    hub: RecordingBroadcaster,
    call: Callable[[RecordingBroadcaster], PublishResult],
    type_: str,
    data: dict[str, Any],
    rooms: set[tuple[str, str]],
) -> None:
    assert call(hub) is ACCEPTED
    assert hub.only() == (type_, data, rooms, True, False)


def test_a_message_goes_to_everyone(hub: RecordingBroadcaster) -> None:
    message = new_message("notice", "x")
    assert hub.broadcast_message(message) is ACCEPTED
    assert hub.published == [(message, EVERYONE)]


def test_a_filtered_message_goes_to_clients_with_that_filter_and_to_no_others(hub: RecordingBroadcaster) -> None:
    assert hub.broadcast_to_filtered(new_message("notice", "x"), "board_id", "b1") is ACCEPTED
    assert hub.only() == ("notice", "x", {BOARD}, False, False)


def test_an_event_of_the_apps_own_goes_by_its_filters_and_to_clients_without_a_filter(hub: RecordingBroadcaster) -> None:
    assert hub.broadcast("comment.added", filters={"board_id": "b1", "project_id": ["p1", "p2"]}) is ACCEPTED
    assert hub.only() == ("comment.added", None, {BOARD, PROJECT, ("project_id", "p2")}, True, False)


def test_an_event_that_carries_no_value_goes_to_no_room(hub: RecordingBroadcaster) -> None:
    given: list[Any] = [None, {}, {"board_id": None}, {"board_id": []}, {"board_id": [None]}]
    for filters in given:
        hub.published.clear()
        assert hub.broadcast("comment.added", {"text": "x"}, filters=filters) is ACCEPTED
        assert hub.only() == ("comment.added", {"text": "x"}, set(), True, False), filters


class Column(enum.Enum):
    FIRST = "b1"


def test_filters_compare_as_strings(hub: RecordingBroadcaster) -> None:
    texts = {5: "5", 0: "0", uuid.UUID(int=1): "00000000-0000-0000-0000-000000000001", Column.FIRST: "b1"}
    for value, text in texts.items():
        hub.published.clear()
        hub.broadcast("x", filters={"board_id": value})
        hub.broadcast_to_filtered(new_message("x"), "board_id", value)
        hub.broadcast_task_deleted("t1", value)
        hub.broadcast_board_updated(value, None, {})
        assert {audience.rooms for _, audience in hub.published} == {(("board_id", text),)}, value


def test_a_filter_may_have_several_values(hub: RecordingBroadcaster) -> None:
    given: list[Any] = [["b1", 2, None, "b1"], ("b1", 2), {"b1", 2}, frozenset({"b1", "2"})]
    for several in given:
        hub.published.clear()
        hub.broadcast("x", filters={"board_id": several})
        assert hub.only()[2] == {BOARD, ("board_id", "2")}, several


# Which project a task belongs to ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    project_id: Any


class Packed(msgspec.Struct):
    project_id: Any


TASKS = [{"project_id": "p1"}, Row("p1"), Packed("p1")]


@pytest.mark.parametrize("task", TASKS, ids=["mapping", "dataclass", "struct"])
def test_a_tasks_project_is_the_one_it_names(task: Any) -> None:
    hub = RecordingBroadcaster(held=("project_id",))
    hub.broadcast_task_created("t1", "b1", task)
    hub.broadcast_task_updated("t1", "b1", {"x": 1}, task)
    for message, audience in hub.published:
        assert set(audience.rooms) == {BOARD, PROJECT}
        assert message.data.project_id == "p1"


@pytest.mark.parametrize("task", TASKS, ids=["mapping", "dataclass", "struct"])
def test_a_project_that_is_given_wins_over_the_tasks_own(hub: RecordingBroadcaster, task: Any) -> None:
    hub.broadcast_task_created("t1", "b1", task, project_id="other")
    hub.broadcast_task_updated("t1", "b1", {}, task, project_id="other")
    for message, audience in hub.published:
        assert set(audience.rooms) == {BOARD, ("project_id", "other")}
        assert message.data.project_id == "other"


def test_a_task_without_a_project_goes_to_its_board(hub: RecordingBroadcaster) -> None:
    tasks: list[Any] = [None, {}, {"project_id": None}, SimpleNamespace(), Row(None), "text"]
    for task in tasks:
        hub.published.clear()
        hub.broadcast_task_created("t1", "b1", task)
        ((message, audience),) = hub.published
        assert set(audience.rooms) == {BOARD} and audience.unfiltered, task
        assert message.data.project_id is None, task


def test_a_missing_project_is_logged_once_per_board(caplog: pytest.LogCaptureFixture) -> None:
    hub = RecordingBroadcaster(held=("project_id",))
    for _ in range(3):
        hub.broadcast_task_created("t1", "b1", {})
        hub.broadcast_task_updated("t1", "b1", {})
        hub.broadcast_task_deleted("t1", "b1")
        hub.broadcast_task_deleted("t1", 2)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "'b1'" in caplog.messages[0] and "'2'" in caplog.messages[1]
    assert all("project_id=" in message for message in caplog.messages)
    assert len(hub.published) == 12


def test_a_missing_project_is_not_logged_where_no_client_filters_by_one(caplog: pytest.LogCaptureFixture) -> None:
    RecordingBroadcaster(held=("board_id",)).broadcast_task_created("t1", "b1", {})
    RecordingBroadcaster(held=("project_id",)).broadcast_task_created("t1", "b1", {}, project_id="p1")
    RecordingBroadcaster(held=("project_id",)).broadcast_task_created("t1", "b1", {"project_id": 0})
    assert not caplog.records


def test_a_missing_project_is_logged_once_when_two_threads_find_it_at_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = RecordingBroadcaster(held=("project_id",))
    both = threading.Barrier(2)

    class Slow(set[str]):
        def __contains__(self, board: object) -> bool:
            found = super().__contains__(board)
            # A thread that wrongly looks before another has recorded the board has this long to come here.
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(A_MOMENT)
            return found

    hub._unplaced = Slow()
    threads = [threading.Thread(target=hub.broadcast_task_deleted, args=("t1", "b1")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(AT_MOST)
    assert len(hub.published) == 2
    assert len(caplog.records) == 1


def test_the_boards_that_were_logged_do_not_grow_without_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    hub = RecordingBroadcaster(held=("project_id",))
    for board in range(3000):
        hub.broadcast_task_deleted("t1", board)
    assert max(len(held) for held in vars(hub).values() if isinstance(held, set)) <= 1000


# What is rejected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, allowed",
    [
        (lambda hub: hub.broadcast_task_updated("t1", "b1", {}, action="reordered"), ("updated", "moved")),
        (lambda hub: hub.broadcast_task_updated("t1", "b1", {}, action=""), ("updated", "moved")),
        (lambda hub: hub.broadcast_board_updated("b1", "p1", {}, action="moved"), ("updated", "reordered")),
    ],
)
def test_an_unknown_action_is_rejected(hub: RecordingBroadcaster, call: Any, allowed: tuple[str, str]) -> None:
    with pytest.raises(ValueError) as raised:
        call(hub)
    assert all(action in str(raised.value) for action in allowed)
    assert not hub.published


@pytest.mark.parametrize("filters", [{"team": "x"}, {"board_id": "b1", "team": "x"}], ids=str)
def test_a_filter_that_no_client_can_hold_is_rejected(hub: RecordingBroadcaster, filters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'team'.*board_id, project_id.*CARTOWS_FILTER_KEYS"):
        hub.broadcast("x", filters=filters)
    with pytest.raises(ValueError, match=r"'team'.*board_id, project_id.*CARTOWS_FILTER_KEYS"):
        hub.broadcast_to_filtered(new_message("x"), "team", "x")
    assert not hub.published


def test_the_filters_that_clients_can_hold_are_a_setting() -> None:
    hub = RecordingBroadcaster(options=Options(filter_keys=("team",)))
    hub.broadcast("x", filters={"team": "red"})
    assert hub.only()[2] == {("team", "red")}
    with pytest.raises(ValueError, match="'board_id'"):
        hub.broadcast("x", filters={"board_id": "b1"})


# The result -------------------------------------------------------------------------------------------------------


def test_a_result_raises_only_where_it_was_rejected() -> None:
    ACCEPTED.raise_for_rejected()
    with pytest.raises(PublishRejected, match="the queue stayed full"):
        PublishResult(False, reason="the queue stayed full").raise_for_rejected()


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        ACCEPTED.accepted = False  # type: ignore[misc]
    assert PublishResult(False) == PublishResult(False, None, None, None)
