"""The ``broadcast*`` methods that a Hub and a Publisher share: each makes a message, chooses its recipients and publishes it.

**Threads**: any, most of all that of a request.

**Locks**: ``_unplaced_lock`` guards the boards whose missing project was logged.

**Blocks**: as long as ``publish`` does, ``publish_timeout`` at most.

Go counterpart: the ``Broadcast*`` methods of ``hub.go``.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from .backplane.base import OutgoingEvent
from .errors import MessageError, PublishRejected
from .message import (
    ACTIONS,
    CONTROL_TYPES,
    EncodeHook,
    Message,
    MessageType,
    entity_of,
    given,
    new_board_updated_message,
    new_message,
    new_project_created_message,
    new_project_updated_message,
    new_task_created_message,
    new_task_deleted_message,
    new_task_updated_message,
)
from .rooms import EVERYONE, Audience, room_value, room_values

__all__ = ["Broadcaster", "PublishResult", "RejectionLog", "prepare_event"]

# How many boards without a known project are remembered. One more clears them: logging twice is better than memory that grows.
_MAX_UNPLACED = 1000

# Room for the id and the frame header beside an encoded event, in bytes.
_EVENT_OVERHEAD = 64


class PublishResult(NamedTuple):
    """The result of a broadcast."""

    #: Whether the event was accepted: now, or to wait for a commit, which decides.
    accepted: bool
    #: "queued" when the event was handed to the hub, "stored" when it is at the broker, from which all hubs read, and "spooled"
    #: when it waits in this process until the broker is back. None when it was rejected, or waits for a commit.
    status: Literal["queued", "stored", "spooled"] | None = None
    #: The event's id, where it has one already.
    id: str | None = None
    #: Why the event was rejected, in a sentence.
    reason: str | None = None

    def raise_for_rejected(self) -> None:
        """Raise an exception unless the broadcast was accepted.

        Raises:
            PublishRejected: The event was rejected; the text is the ``reason``.
        """
        if not self.accepted:
            raise PublishRejected(self.reason)


class Broadcaster:
    """The ``broadcast*`` methods, in terms of ``publish``: the base of Hub and Publisher.

    All of them may be called on any thread, return a PublishResult, and wait for ``publish_timeout`` seconds at most. Ids may
    be of any type that JSON can carry; filters compare as strings.

    Raises:
        MessageError: By every ``broadcast*``, in the caller's thread: the event cannot be serialised, or is larger than any
            client could be sent. Nothing is queued.
        HubClosed: By every ``broadcast*`` of a Hub, after ``shutdown``; in ``on_disconnect`` the result says so instead.
        PublisherClosed: By every ``broadcast*`` of a Publisher, after ``close``.
    """

    #: The logger of rejected events and of boards without a known project.
    logger: logging.Logger

    def __init__(self) -> None:
        #: A function of the app that returns the project of a board id; set by ``@ws.project_of_board``.
        self.project_of_board: Callable[[Any], Any] | None = None
        self._unplaced: set[str] = set()
        self._unplaced_lock = threading.Lock()

    @property
    def filter_keys(self) -> Collection[str]:
        """The keys that clients may filter by."""
        raise NotImplementedError

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Publish a message to an audience; every ``broadcast*`` ends here."""
        raise NotImplementedError

    def _has_filter(self, key: str) -> bool:
        """Return whether a client may hold a filter of that key now."""
        raise NotImplementedError

    def broadcast_message(self, message: Message) -> PublishResult:
        """Send a message to every client, whatever its filters.

        Runs on the caller's thread. Go counterpart: ``BroadcastMessage``.

        Args:
            message: The message. Its own ``id`` and ``ref`` are left out.

        Returns:
            The result of the broadcast.

        Raises:
            ValueError: Messages of this type are sent by cartows itself.
        """
        _check_type(message.type)
        return self.publish(message, EVERYONE)

    def broadcast_to_filtered(self, message: Message, key: str, value: Any) -> PublishResult:
        """Send a message to the clients that hold a filter, and to no others.

        Clients without a filter, which receive every other event, do not receive it. Runs on the caller's thread. Go
        counterpart: ``BroadcastToFiltered``.

        Args:
            message: The message. Its own ``id`` and ``ref`` are left out.
            key: The filter's key, e.g. ``"board_id"``.
            value: The filter's value, or an iterable of several.

        Returns:
            The result of the broadcast.

        Raises:
            ValueError: No client can filter by ``key`` or hold the value, or messages of this type are sent by cartows itself.
        """
        _check_type(message.type)
        self._check_keys((key,))
        return self.publish(message, Audience(_rooms({key: value}), unfiltered=False))

    def broadcast(self, type: str, data: Any = None, *, filters: Mapping[str, Any] | None = None) -> PublishResult:
        """Send an event of the app's own, e.g. ``broadcast("comment.added", {...}, filters={"board_id": "b1"})``.

        With ``filters`` it goes to the clients that hold one of them, and to those without a filter. Without, it goes to every
        client, whatever its filters. Runs on the caller's thread.

        Args:
            type: The event's type: a string that is not one of cartows' own, such as ``"disconnect"`` or ``"error"``.
            data: The event's data: whatever JSON can carry. Default: none.
            filters: Values by key; a value may be an iterable of several. Default: none, which means every client.

        Returns:
            The result of the broadcast.

        Raises:
            TypeError: ``type`` is not a string.
            ValueError: ``type`` cannot be used. Or ``filters`` is empty, has a key that no client can filter by, or a value
                that stands for no room: None, an empty iterable, or bytes.
        """
        _check_type(type)
        if filters is None:
            return self.publish(new_message(type, data), EVERYONE)
        if not filters:
            raise ValueError("filters={} names no room: leave filters out to reach every client, or name at least one")
        self._check_keys(filters)
        return self.publish(new_message(type, data), Audience(_rooms(filters)))

    def broadcast_task_created(self, task_id: Any, board_id: Any, task: Any, *, project_id: Any = None) -> PublishResult:
        """Send ``task.created`` to the clients that filter by the task's board or project, and to those without a filter.

        Runs on the caller's thread. Go counterpart: ``BroadcastTaskCreated``.

        Args:
            task_id: The task's id.
            board_id: The id of the board that the task is on.
            task: The task, as clients are to receive it.
            project_id: The id of the task's project. Default: the task's own ``project_id``, else that of
                ``@ws.project_of_board``. Where none is known, clients that filter by project do not receive the event, which is
                logged once for each board.

        Returns:
            The result of the broadcast.
        """
        project = self._project(board_id, task, project_id)
        message = new_task_created_message(task_id, board_id, task, project_id=project)
        return self.publish(message, _about(project_id=project, board_id=board_id))

    def broadcast_task_updated(
        self,
        task_id: Any,
        board_id: Any,
        changes: Any,
        task: Any = None,
        *,
        project_id: Any = None,
        action: str = "updated",
    ) -> PublishResult:
        """Send ``task.updated`` to the clients that filter by the task's board or project, and to those without a filter.

        Runs on the caller's thread. Go counterpart: ``BroadcastTaskUpdated``.

        Args:
            task_id: The task's id.
            board_id: The id of the board that the task is on.
            changes: The changed fields and their new values.
            task: The task as it is now. Default: none.
            project_id: The id of the task's project. Default: as in ``broadcast_task_created``.
            action: ``"updated"``, the default, or ``"moved"``.

        Returns:
            The result of the broadcast.

        Raises:
            ValueError: ``action`` is another.
        """
        _check_action(MessageType.TASK_UPDATED, action)
        project = self._project(board_id, task, project_id)
        message = new_task_updated_message(task_id, board_id, changes, task, project_id=project, action=action)
        return self.publish(message, _about(project_id=project, board_id=board_id))

    def broadcast_task_deleted(self, task_id: Any, board_id: Any, *, project_id: Any = None) -> PublishResult:
        """Send ``task.deleted`` to the clients that filter by the task's board or project, and to those without a filter.

        Runs on the caller's thread. Go counterpart: ``BroadcastTaskDeleted``.

        Args:
            task_id: The task's id.
            board_id: The id of the board that the task was on.
            project_id: The id of the task's project. Default: that of ``@ws.project_of_board``.

        Returns:
            The result of the broadcast.
        """
        project = self._project(board_id, None, project_id)
        message = new_task_deleted_message(task_id, board_id, project_id=project)
        return self.publish(message, _about(project_id=project, board_id=board_id))

    def broadcast_project_created(self, project_id: Any, project: Any) -> PublishResult:
        """Send ``project.created`` to the clients that filter by the project, and to those without a filter.

        Runs on the caller's thread. Go counterpart: ``BroadcastProjectCreated``.

        Args:
            project_id: The project's id.
            project: The project, as clients are to receive it.

        Returns:
            The result of the broadcast.
        """
        return self.publish(new_project_created_message(project_id, project), _about(project_id=project_id))

    def broadcast_project_updated(self, project_id: Any, changes: Any, project: Any = None) -> PublishResult:
        """Send ``project.updated`` to the clients that filter by the project, and to those without a filter.

        Runs on the caller's thread. Go counterpart: ``BroadcastProjectUpdated``.

        Args:
            project_id: The project's id.
            changes: The changed fields and their new values.
            project: The project as it is now. Default: none.

        Returns:
            The result of the broadcast.
        """
        return self.publish(new_project_updated_message(project_id, changes, project), _about(project_id=project_id))

    def broadcast_board_updated(
        self, board_id: Any, project_id: Any, changes: Any, board: Any = None, *, action: str = "updated"
    ) -> PublishResult:
        """Send ``board.updated`` to the clients that filter by the board or its project, and to those without a filter.

        Runs on the caller's thread. Go counterpart: ``BroadcastBoardUpdated``.

        Args:
            board_id: The board's id.
            project_id: The id of the board's project, or None where it is not known.
            changes: The changed fields and their new values.
            board: The board as it is now. Default: none.
            action: ``"updated"``, the default, or ``"reordered"``.

        Returns:
            The result of the broadcast.

        Raises:
            ValueError: ``action`` is another.
        """
        _check_action(MessageType.BOARD_UPDATED, action)
        message = new_board_updated_message(board_id, project_id, changes, board, action=action)
        return self.publish(message, _about(project_id=project_id, board_id=board_id))

    def _project(self, board_id: Any, task: Any, project_id: Any) -> Any:
        """Return the project that a task event belongs to; log once per board that none is known.

        An exception of the app's ``project_of_board`` is logged: the board's subscribers receive the event all the same.
        """
        project_id = given(project_id)
        if project_id is None and task is not None:
            project_id = given(task.get("project_id") if isinstance(task, Mapping) else getattr(task, "project_id", None))
        if project_id is None and self.project_of_board is not None:
            try:
                project_id = given(self.project_of_board(board_id))
            except Exception:
                self.logger.exception("cartows: project_of_board failed for board %r", board_id)
        if project_id is None and self._has_filter("project_id"):
            board = room_value(board_id)
            with self._unplaced_lock:
                logged = board in self._unplaced
                if len(self._unplaced) >= _MAX_UNPLACED:
                    self._unplaced.clear()
                self._unplaced.add(board)
            if not logged:
                self.logger.warning(
                    "cartows: a task event of board %r names no project, so clients that filter by project_id do not receive "
                    "it; pass project_id=, put project_id into the task, or register @ws.project_of_board",
                    board,
                )
        return project_id

    def _check_keys(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self.filter_keys:
                allowed = ", ".join(sorted(self.filter_keys))
                raise ValueError(f"No client can hold a filter {key!r}; filter keys are {allowed} (CARTOWS_FILTER_KEYS)")


def _check_action(type: MessageType, action: str) -> None:
    allowed = ACTIONS[type.value]
    if action not in allowed:
        raise ValueError(f"action={action!r} is not one of {', '.join(allowed)}")


def _check_type(type: Any) -> None:
    name = type.value if isinstance(type, enum.Enum) else type
    if name is not None and not isinstance(name, str):
        raise TypeError(f"An event cannot have the type {type!r}: the type of an event is a string, e.g. 'comment.added'")
    if not name:
        raise ValueError(f"An event cannot have the type {type!r}: it must be a string that is not empty, e.g. 'comment.added'")
    if name in CONTROL_TYPES:
        raise ValueError(
            f"An event cannot have the type {name!r}: clients take it for the server's own. Take another, e.g. 'app.{name}'"
        )


def _about(project_id: Any, board_id: Any = None) -> Audience:
    """Return the recipients of a typed event, which may leave its project or board out."""
    if type(project_id) is str and type(board_id) is str:
        return Audience((("project_id", project_id), ("board_id", board_id)))
    filters = {"project_id": project_id, "board_id": board_id}
    return Audience(_rooms({key: value for key, value in filters.items() if value is not None}))


def _rooms(filters: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    rooms: dict[tuple[str, str], None] = {}
    for key, value in filters.items():
        for each in room_values(key, value):
            rooms[key, each] = None
    return tuple(rooms)


def prepare_event(message: Message, audience: Audience, enc_hook: EncodeHook | None, send_queue_bytes: int) -> OutgoingEvent:
    """Return a message encoded for a backplane, without an id.

    Raises MessageError for what cannot be serialised or is larger than any client could be sent.
    """
    if message.id is not None or message.ref is not None:
        message = Message(type=message.type, timestamp=message.timestamp, data=message.data, error=message.error)
    body = message.encode(enc_hook)
    if len(body) + _EVENT_OVERHEAD > send_queue_bytes:
        raise MessageError(
            f"Cannot send a message of type {message.type!r}: it has {len(body)} bytes, and no client is sent more than "
            f"CARTOWS_SEND_QUEUE_BYTES={send_queue_bytes} less {_EVENT_OVERHEAD}. Send less, e.g. an id to fetch by"
        )
    entity = entity_of(message.data)
    return OutgoingEvent(message.type, body, audience, entity, entity is not None and message.type.endswith(".updated"))


class RejectionLog:
    """The log of rejected events: the first one, and the first accepted one after it."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._rejecting = False

    def note(self, type: str, reason: str | None, count: Callable[[], int]) -> None:
        """Log a change between accepting and rejecting, if there is one.

        ``reason`` is None for an event that was accepted; ``count`` returns how many were rejected so far.
        """
        rejected = reason is not None
        if self._rejecting == rejected:
            return
        with self._lock:
            fresh, self._rejecting = self._rejecting != rejected, rejected
        if fresh and rejected:
            self._logger.warning("cartows: %r was not sent: %s. Logged once until events are accepted again", type, reason)
        elif fresh:
            self._logger.warning("cartows: events are accepted again; %d were rejected so far", count())
