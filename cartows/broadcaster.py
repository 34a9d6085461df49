"""The ``broadcast_*`` methods, whatever stands behind them: each makes a message, says who hears it and publishes it.

Threads: any, a request handler's most of all.
Locks: ``_unplaced_lock`` guards the boards that were already warned about.
Blocks: as long as ``publish`` does: ``publish_timeout`` at most.

Go counterpart: the ``Broadcast*`` methods of ``hub.go``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from .backplane.base import OutgoingEvent
from .errors import MessageError, PublishRejected
from .message import (
    ACTIONS,
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
from .rooms import EVERYONE, Audience, room_value

__all__ = ["ENVELOPE", "Broadcaster", "PublishResult", "RejectionLog", "prepare_event"]

# Boards whose missing project is remembered as said; one beyond that is said again rather than memory growing.
_MAX_UNPLACED = 1000


class PublishResult(NamedTuple):
    """Say what became of a broadcast.

    ``status`` is "queued" when it was handed to the hub, "stored" when it is where all hubs read, and "spooled" when it
    waits in this process until that is so; ``reason`` says why it was not accepted.
    """

    accepted: bool
    status: Literal["queued", "stored", "spooled"] | None = None
    id: str | None = None
    reason: str | None = None

    def raise_for_rejected(self) -> None:
        """Raise PublishRejected unless the broadcast was accepted."""
        if not self.accepted:
            raise PublishRejected(self.reason)


class Broadcaster:
    """Offer every broadcast in terms of one method, ``publish``.

    All of them return a PublishResult, raise MessageError in the caller's thread for what cannot be serialised and HubClosed
    after ``shutdown``, and may be called on any thread. Ids may be of any type that JSON can carry; filters compare as text.
    """

    logger: logging.Logger

    def __init__(self) -> None:
        #: The app's own knowledge of which project a board belongs to.
        self.project_of_board: Callable[[Any], Any] | None = None
        self._unplaced: set[str] = set()
        self._unplaced_lock = threading.Lock()

    @property
    def filter_keys(self) -> Collection[str]:
        """The keys that clients may filter by."""
        raise NotImplementedError

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Hand a message on to those who may hear it."""
        raise NotImplementedError

    def _has_filter(self, key: str) -> bool:
        raise NotImplementedError

    def broadcast_message(self, message: Message) -> PublishResult:
        """Send a message to every client, whatever its filters; Go's ``BroadcastMessage``."""
        return self.publish(message, EVERYONE)

    def broadcast_to_filtered(self, message: Message, key: str, value: Any) -> PublishResult:
        """Send a message to the clients that hold this filter, and to no others; Go's ``BroadcastToFiltered``."""
        self._check_keys((key,))
        return self.publish(message, Audience(((key, room_value(value)),), unfiltered=False))

    def broadcast(self, type: str, data: Any = None, *, filters: Mapping[str, Any] | None = None) -> PublishResult:
        """Send an event of the app's own, e.g. ``broadcast("comment.added", {...}, filters={"board_id": "b1"})``.

        It goes to the clients that hold one of the filters (a value may be a list) and to those that hear everything. Without
        ``filters`` it carries no value, so only those who hear everything hear it: ``broadcast_message`` reaches every client.
        Raises ValueError for a key that no client can filter by.
        """
        self._check_keys(filters or ())
        return self.publish(new_message(type, data), Audience(_rooms(filters or {})))

    def broadcast_task_created(self, task_id: Any, board_id: Any, task: Any, *, project_id: Any = None) -> PublishResult:
        """Send ``task.created`` to whoever follows the task's board or project; Go's ``BroadcastTaskCreated``.

        Without ``project_id`` the project is taken from the task's own ``project_id``, where it has one.
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
        """Send ``task.updated``, ``action`` being "updated" or "moved"; Go's ``BroadcastTaskUpdated``."""
        _check_action(MessageType.TASK_UPDATED, action)
        project = self._project(board_id, task, project_id)
        message = new_task_updated_message(task_id, board_id, changes, task, project_id=project, action=action)
        return self.publish(message, _about(project_id=project, board_id=board_id))

    def broadcast_task_deleted(self, task_id: Any, board_id: Any, *, project_id: Any = None) -> PublishResult:
        """Send ``task.deleted``; Go's ``BroadcastTaskDeleted``."""
        project = self._project(board_id, None, project_id)
        message = new_task_deleted_message(task_id, board_id, project_id=project)
        return self.publish(message, _about(project_id=project, board_id=board_id))

    def broadcast_project_created(self, project_id: Any, project: Any) -> PublishResult:
        """Send ``project.created``; Go's ``BroadcastProjectCreated``."""
        return self.publish(new_project_created_message(project_id, project), _about(project_id=project_id))

    def broadcast_project_updated(self, project_id: Any, changes: Any, project: Any = None) -> PublishResult:
        """Send ``project.updated``; Go's ``BroadcastProjectUpdated``."""
        return self.publish(new_project_updated_message(project_id, changes, project), _about(project_id=project_id))

    def broadcast_board_updated(
        self, board_id: Any, project_id: Any, changes: Any, board: Any = None, *, action: str = "updated"
    ) -> PublishResult:
        """Send ``board.updated``, ``action`` being "updated" or "reordered"; Go's ``BroadcastBoardUpdated``."""
        _check_action(MessageType.BOARD_UPDATED, action)
        message = new_board_updated_message(board_id, project_id, changes, board, action=action)
        return self.publish(message, _about(project_id=project_id, board_id=board_id))

    def _project(self, board_id: Any, task: Any, project_id: Any) -> Any:
        """Return the project that a task event belongs to, or say once per board that none is known.

        What the app's ``project_of_board`` raises is logged: the board's subscribers get the event all the same.
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
                said = board in self._unplaced
                if len(self._unplaced) >= _MAX_UNPLACED:
                    self._unplaced.clear()
                self._unplaced.add(board)
            if not said:
                self.logger.warning(
                    "cartows: a task event of board %r names no project, so clients that filter by project_id do not get it; "
                    "pass project_id=, put project_id into the task, or say it with @ws.project_of_board",
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


def _about(**filters: Any) -> Audience:
    return Audience(_rooms(filters))


def _rooms(filters: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    rooms: dict[tuple[str, str], None] = {}
    for key, value in filters.items():
        several = isinstance(value, (list, tuple, set, frozenset))
        for each in value if several else (value,):
            if each is not None:
                rooms[key, room_value(each)] = None
    return tuple(rooms)


#: Room for the id and the frame's header beside an encoded event.
ENVELOPE = 64


def prepare_event(message: Message, audience: Audience, enc_hook: EncodeHook | None, send_queue_bytes: int) -> OutgoingEvent:
    """Return a message as it is published, without an id.

    Raises MessageError for what cannot be serialised or is larger than any client could be sent.
    """
    if message.id is not None or message.ref is not None:
        message = Message(type=message.type, timestamp=message.timestamp, data=message.data, error=message.error)
    body = message.encode(enc_hook)
    if len(body) + ENVELOPE > send_queue_bytes:
        raise MessageError(
            f"Cannot send a message of type {message.type!r}: it has {len(body)} bytes, and no client is sent more than "
            f"CARTOWS_SEND_QUEUE_BYTES={send_queue_bytes} less {ENVELOPE}. Send less, e.g. an id to fetch by"
        )
    entity = entity_of(message.data)
    return OutgoingEvent(message.type, body, audience, entity, entity is not None and message.type.endswith(".updated"))


class RejectionLog:
    """Log the first event that is refused, and the first that is taken after that."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._refusing = False

    def note(self, type: str, reason: str | None, count: Callable[[], int]) -> None:
        """Say what has changed, if anything has.

        ``reason`` is None for an event that was taken; ``count`` tells how many were not so far.
        """
        refused = reason is not None
        if self._refusing == refused:
            return
        with self._lock:
            fresh, self._refusing = self._refusing != refused, refused
        if fresh and refused:
            self._logger.warning("cartows: %r was not sent: %s. Said once until events are taken again", type, reason)
        elif fresh:
            self._logger.warning("cartows: events are taken again; %d were refused so far", count())
