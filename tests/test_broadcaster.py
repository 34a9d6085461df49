"""The broadcast methods: what each one publishes, for which recipients, and what it rejects in the caller's thread."""

from __future__ import annotations

import collections
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

from cartows import Message, MessageType, Options, PublishRejected, PublishResult, new_message
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


class Level(enum.IntEnum):
    HIGH = 3


class Kind(enum.StrEnum):
    ADDED = "comment.added"


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


def test_an_event_without_filters_goes_to_everyone(hub: RecordingBroadcaster) -> None:
    assert hub.broadcast("notice", {"text": "x"}) is ACCEPTED
    assert hub.only() == ("notice", {"text": "x"}, set(), True, True)


class Row:
    """A row of an ORM, which has no string but that of ``repr``."""

    def __repr__(self) -> str:
        return "<Board b1>"


NO_ROOM: dict[str, Any] = {
    "None": None,
    "None among others": ["b1", None],
    "nothing": [],
    "an iterator at its end": iter(()),
    "bytes": b"b1",
    "bytes among others": [b"b1"],
    "bytes that can change": bytearray(b"b1"),
    "a row": Row(),
    "a list in a list": [["b1"]],
}


@pytest.mark.parametrize("value", NO_ROOM.values(), ids=NO_ROOM)
def test_a_filter_that_no_client_could_hold_is_rejected(hub: RecordingBroadcaster, value: Any) -> None:
    with pytest.raises(ValueError, match="The filter 'board_id' has"):
        hub.broadcast("comment.added", filters={"project_id": "p1", "board_id": value})
    with pytest.raises(ValueError, match="The filter 'board_id' has"):
        hub.broadcast_to_filtered(
            new_message("x"), "board_id", list(value) if value is NO_ROOM["an iterator at its end"] else value
        )
    assert not hub.published


def test_filters_that_name_no_room_are_rejected(hub: RecordingBroadcaster) -> None:
    with pytest.raises(ValueError, match="leave filters out to reach every client"):
        hub.broadcast("comment.added", filters={})
    assert not hub.published


def test_the_id_of_a_typed_event_may_not_be_bytes(hub: RecordingBroadcaster) -> None:
    with pytest.raises(ValueError, match="b'b1'"):
        hub.broadcast_task_deleted("t1", b"b1")
    assert not hub.published


CONTROL = ["connected", "disconnect", "ping", "pong", "error", "subscribe", "subscribed", "unsubscribe", "unsubscribed"]
CONTROL += ["auth.refresh", "auth.refreshed", "presence.state", "presence.diff", "degraded", "restored"]


@pytest.mark.parametrize("type_", [*CONTROL, MessageType.DISCONNECT, None, "", 5, b"x", Level.HIGH], ids=repr)
def test_a_type_that_is_cartows_own_or_none_at_all_is_rejected(hub: RecordingBroadcaster, type_: Any) -> None:
    calls: list[Callable[[], PublishResult]] = [
        lambda: hub.broadcast(type_, {"code": 3503}),
        lambda: hub.broadcast(type_, filters={"board_id": "b1"}),
        lambda: hub.broadcast_message(Message(type=type_)),
        lambda: hub.broadcast_to_filtered(Message(type=type_), "board_id", "b1"),
    ]
    for call in calls:
        kind = ValueError if type_ is None or isinstance(type_, str) else TypeError
        with pytest.raises(kind, match="An event cannot have the type"):
            call()
    assert not hub.published


def test_a_type_may_be_a_string_enum_or_that_of_a_typed_event(hub: RecordingBroadcaster) -> None:
    types: list[Any] = [Kind.ADDED, MessageType.TASK_CREATED, "disconnected"]
    for each in types:
        assert hub.broadcast(each) is ACCEPTED
    assert [message.type for message, _ in hub.published] == ["comment.added", "task.created", "disconnected"]


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
    boards = {"b1": "First", 2: "Second"}
    given: list[Callable[[], Any]] = [
        lambda: ["b1", 2, "b1"],
        lambda: ("b1", 2),
        lambda: {"b1", 2},
        lambda: frozenset({"b1", "2"}),
        boards.keys,
        lambda: boards,
        lambda: (each for each in boards),
        lambda: map(str, boards),
        lambda: collections.deque(boards),
    ]
    for several in given:
        hub.published.clear()
        hub.broadcast("x", filters={"board_id": several()})
        hub.broadcast_to_filtered(new_message("x"), "board_id", several())
        for _, audience in hub.published:
            assert set(audience.rooms) == {BOARD, ("board_id", "2")}, several()


# Which project a task belongs to ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Item:
    project_id: Any


class Packed(msgspec.Struct):
    project_id: Any


TASKS = [{"project_id": "p1"}, Item("p1"), Packed("p1")]


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
    tasks: list[Any] = [None, {}, {"project_id": None}, SimpleNamespace(), Item(None), "text"]
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
