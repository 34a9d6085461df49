"""The message envelope and the typed events that it carries, encoded once per event with msgspec.

Go counterpart: ``message.go``.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from .encoding import AppJson, exact_datetime, to_json
from .errors import MessageError
from .nesting import MAX_DEPTH, MAX_INBOUND_DEPTH, is_deeper

__all__ = [
    "BoardEvent",
    "ErrorEvent",
    "Message",
    "MessageType",
    "ProjectEvent",
    "TaskEvent",
    "new_board_updated_message",
    "new_error_message",
    "new_message",
    "new_project_created_message",
    "new_project_updated_message",
    "new_task_created_message",
    "new_task_deleted_message",
    "new_task_updated_message",
]

EncodeHook = Callable[[Any], Any]

# How many levels are searched for the value that could not be serialised.
_MAX_SEARCH_DEPTH = 20


class MessageType(enum.StrEnum):
    """The types of messages that cartows itself sends or handles. An application's own types are plain strings."""

    TASK_CREATED = "task.created"
    TASK_UPDATED = "task.updated"
    TASK_DELETED = "task.deleted"
    PROJECT_CREATED = "project.created"
    PROJECT_UPDATED = "project.updated"
    BOARD_UPDATED = "board.updated"
    CONNECTED = "connected"
    DISCONNECT = "disconnect"
    PING = "ping"
    PONG = "pong"
    ERROR = "error"
    SUBSCRIBE = "subscribe"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBE = "unsubscribe"
    UNSUBSCRIBED = "unsubscribed"
    AUTH_REFRESH = "auth.refresh"
    AUTH_REFRESHED = "auth.refreshed"
    PRESENCE_STATE = "presence.state"
    PRESENCE_DIFF = "presence.diff"
    DEGRADED = "degraded"
    RESTORED = "restored"


#: The actions that an event of each type may name.
ACTIONS: dict[str, tuple[str, ...]] = {
    MessageType.TASK_CREATED.value: ("created",),
    MessageType.TASK_UPDATED.value: ("updated", "moved"),
    MessageType.TASK_DELETED.value: ("deleted",),
    MessageType.PROJECT_CREATED.value: ("created",),
    MessageType.PROJECT_UPDATED.value: ("updated",),
    MessageType.BOARD_UPDATED.value: ("updated", "reordered"),
}

#: The types that cartows itself sends or handles. No application broadcasts them: clients would take them for the server's.
CONTROL_TYPES = frozenset(each.value for each in MessageType) - ACTIONS.keys()

#: The codes of an ``error`` message.
ERROR_CODES = ("INVALID_MESSAGE", "UNKNOWN_TYPE", "FORBIDDEN", "RATE_LIMITED", "INTERNAL")

# Any value that msgspec can encode. The schema describes what it is on the wire.
_Id = Annotated[Any, msgspec.Meta(extra_json_schema={"type": ["string", "number"]})]
_Changes = Annotated[Any, msgspec.Meta(extra_json_schema={"type": "object"})]


class TaskEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ``data`` of ``task.created``, ``task.updated`` and ``task.deleted``.

    Args:
        task_id: The id of the task.
        board_id: The id of its board.
        project_id: The id of its project, if there is one.
        action: "created", "updated", "moved" or "deleted".
        changes: A mapping from field names to new values, if they are known.
        task: The whole task: anything that can be encoded as JSON.
    """

    task_id: _Id
    board_id: _Id
    project_id: _Id = None
    action: str
    changes: _Changes = None
    task: Any = None


class ProjectEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ``data`` of ``project.created`` and ``project.updated``.

    Args:
        project_id: The id of the project.
        action: "created" or "updated".
        changes: A mapping from field names to new values, if they are known.
        project: The whole project: anything that can be encoded as JSON.
    """

    project_id: _Id
    action: str
    changes: _Changes = None
    project: Any = None


class BoardEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ``data`` of ``board.updated``.

    Args:
        board_id: The id of the board.
        project_id: The id of its project, if there is one.
        action: "updated" or "reordered".
        changes: A mapping from field names to new values, if they are known.
        board: The whole board: anything that can be encoded as JSON.
    """

    board_id: _Id
    project_id: _Id = None
    action: str
    changes: _Changes = None
    board: Any = None


class ErrorEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The ``data`` of ``error``.

    Args:
        code: What kind of error it is, e.g. "FORBIDDEN".
        message: A sentence about it.
        details: What the error is about, e.g. the name of a field.
    """

    code: str
    message: str
    details: str = ""


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The envelope of every message that is sent or received; Go's ``Message``.

    Args:
        type: The type of the message, e.g. "task.created".
        timestamp: When it was made, now by default. It is converted to UTC; a naive time is taken as UTC.
        id: The id of an event, or the client's position in an answer. Only the hub sets it.
        data: What the message carries: anything that can be encoded as JSON.
        error: A sentence, in an ``error`` message.
        ref: In an answer, the ``ref`` of the message that it answers.
    """

    type: str
    timestamp: dt.datetime = msgspec.field(default_factory=lambda: dt.datetime.now(dt.UTC))
    id: str | None = None
    data: Any = None
    error: str | None = None
    ref: str | None = None

    def __post_init__(self) -> None:
        zone = self.timestamp.tzinfo
        if zone is not dt.UTC:
            aware = self.timestamp.replace(tzinfo=dt.UTC) if zone is None else self.timestamp
            self.timestamp = aware.astimezone(dt.UTC)
        self.timestamp = exact_datetime(self.timestamp)

    def encode(self, enc_hook: EncodeHook | None = None) -> bytes:
        """Return the message as one JSON object in UTF-8. Any thread.

        Args:
            enc_hook: Called with each object that JSON does not support; returns one that it does. None by default.

        Raises:
            MessageError: If a value cannot be serialised; the message names its place in ``data``. Also if it is nested deeper
                than 512 levels.
        """
        try:
            if type(enc_hook) is AppJson and enc_hook.has_own_form():
                body = to_json(msgspec.structs.replace(self, data=_own_form(self.data, enc_hook)), enc_hook)
            else:
                body = to_json(self, enc_hook)
        except RecursionError:
            body = None
        except Exception as error:
            place, reason = _failing_value(self.data, enc_hook) or ("data", error)
            raise MessageError(
                f"Cannot serialise a message of type {self.type!r}: at {place}: {reason}. Pass plain values, or convert others "
                "with Hub(enc_hook=...)"
            ) from error
        # A level takes two bytes at least, so that nothing is spent on most events.
        if body is None or (len(body) > 2 * MAX_DEPTH and is_deeper(body, MAX_DEPTH)):
            raise MessageError(
                f"Cannot serialise a message of type {self.type!r}: it is nested too deeply, or contains itself. At most "
                f"{MAX_DEPTH} levels are sent"
            )
        return body


def _own_form(data: Any, app_json: AppJson) -> Any:
    """Return data as the app's JSON provider has it; of a typed event, its fields."""
    if entity_of(data) is None:
        return app_json.form(data)
    fields = {name: app_json.form(getattr(data, name)) for name in data.__struct_fields__}
    return msgspec.structs.replace(data, **fields)


def _failing_value(data: Any, enc_hook: EncodeHook | None, place: str = "data", depth: int = 0) -> tuple[str, Exception] | None:
    """Return the place of the innermost value that cannot be encoded, and its error. Called only after encoding has failed."""
    try:
        to_json(enc_hook.form(data) if type(enc_hook) is AppJson and enc_hook.has_own_form() else data, enc_hook)
        return None
    except Exception as error:
        own = error
    inner: list[tuple[str, Any]] = []
    if isinstance(data, Mapping):
        inner = [(f"{place}[{key!r}]", value) for key, value in data.items()]
    elif isinstance(data, (list, tuple, set, frozenset)):
        inner = [(f"{place}[{index}]", value) for index, value in enumerate(data)]
    elif isinstance(data, msgspec.Struct):
        inner = [(f"{place}.{name}", getattr(data, name)) for name in data.__struct_fields__]
    elif hasattr(data, "__dataclass_fields__"):
        inner = [(f"{place}.{name}", getattr(data, name, None)) for name in data.__dataclass_fields__]
    for where, value in inner if depth < _MAX_SEARCH_DEPTH else ():
        found = _failing_value(value, enc_hook, where, depth + 1)
        if found is not None:
            return found
    return f"{place} ({type(data).__name__})", own


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()

# Decodes one level and keeps the values below as they were written, so that a number that no float can hold is not changed.
OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])

# The fields that identify a typed event: strings and numbers, which do not change.
_IDENTIFYING = frozenset({"task_id", "board_id", "project_id", "action"})


def snapshot(message: Message, body: bytes) -> Message:
    """Return the message that was encoded as ``body``, with the encoded values in place of the objects that it was made of.

    Later changes of those objects do not affect it. Typed events stay typed; their ids and actions are not replaced.
    """
    written = OBJECT.decode(body)
    data = message.data
    if entity_of(data) is not None:
        parts = OBJECT.decode(written["data"])
        fields = zip(data.__struct_fields__, data.__struct_encode_fields__, strict=True)
        encoded = {name: parts[key] for name, key in fields if key in parts and name not in _IDENTIFYING}
        data = msgspec.structs.replace(data, **encoded)
    elif data is not None:
        data = written["data"]
    return msgspec.structs.replace(message, data=data)


def merge_snapshots(older: Message, newer: Message) -> Message | None:
    """Return one update in place of two snapshots of updates of one entity, or None where they cannot be merged.

    It is the newer one with the ``changes`` of the older one beneath its own, key by key. Updates with different actions are
    not merged, nor one with ``changes`` and one without, which means that any field may be different.
    """
    before, after = older.data, newer.data
    if older.type != newer.type or before.action != after.action:
        return None
    if before.changes is None or after.changes is None:
        return newer if before.changes is after.changes else None
    try:
        changes = merged_changes(before.changes, after.changes)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if changes is None:
        return newer
    return msgspec.structs.replace(
        newer, data=msgspec.structs.replace(after, changes=msgspec.Raw(msgspec.json.encode(changes)))
    )


def merged_changes(older: msgspec.Raw | None, newer: msgspec.Raw | None) -> msgspec.Raw | dict[str, msgspec.Raw] | None:
    """Return the changes of both, or None when they are those of the newer. Raises DecodeError for what is not an object."""
    if older is None or newer is None:
        return older
    before, after = OBJECT.decode(older), OBJECT.decode(newer)
    return {**before, **after} if before.keys() - after.keys() else None


class InboundMessage(msgspec.Struct):
    """A message of a client, one level of it decoded: a large value costs nothing until it is wanted.

    Args:
        type: The type as JSON, empty where there is none; so are the others.
        data: What the message carries.
        ref: The client's own name for the message.
    """

    type: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    ref: msgspec.Raw = msgspec.Raw()


_INBOUND = msgspec.json.Decoder(InboundMessage)
_STRING = msgspec.json.Decoder(str)


def decode_inbound(data: str | bytes) -> InboundMessage | None:
    """Return the message that a client sent, or None for what is not a JSON object."""
    try:
        return _INBOUND.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def decode_string(text: msgspec.Raw) -> str | None:
    """Return the string in a part of a client's message, or None when it is anything else, which is not decoded."""
    try:
        return _STRING.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None


def decode_value(data: str | bytes | msgspec.Raw) -> Any:
    """Return the value of a JSON text of a client; None where there is none.

    Raises:
        ValueError: It is not JSON, or nested deeper than 256 levels.
    """
    if not len(data):
        return None
    text = data if isinstance(data, str) else bytes(data)
    try:
        if is_deeper(text, MAX_INBOUND_DEPTH):
            raise ValueError(f"nested deeper than {MAX_INBOUND_DEPTH} levels")
        return _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def decode_object(data: str | bytes | msgspec.Raw) -> dict[str, Any] | None:
    """Return the JSON object of a client, or None when it is anything else, or nested deeper than 256 levels."""
    try:
        found = decode_value(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def size_of(text: str | bytes) -> int:
    """Return the bytes of a message."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode(errors="replace"))


def encoded_size(value: Any) -> int:
    """Return the size in bytes, as JSON, of a value that was decoded from JSON."""
    return len(_ENCODER.encode(value))


def entity_of(data: Any) -> tuple[str, str] | None:
    """Return the kind and the id, as strings, of what a typed event is about; None for any other data."""
    if isinstance(data, TaskEvent):
        return "task", str(data.task_id)
    if isinstance(data, ProjectEvent):
        return "project", str(data.project_id)
    if isinstance(data, BoardEvent):
        return "board", str(data.board_id)
    return None


def encode_text(text: str) -> bytes:
    """Return a text message in UTF-8. Raises MessageError for lone surrogates, which a text frame must not carry."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"Cannot send a text message: {error}") from error


def given(value: Any) -> Any:
    """Return None for a value that is left out on the wire: an empty string, mapping or list."""
    kind = type(value)
    # The usual ones first: asking whether something is a Mapping takes several times as long.
    if kind is str or kind is dict:
        return value or None
    return None if value is not None and isinstance(value, (str, list, tuple, Mapping)) and not value else value


def new_message(type: str, data: Any = None, *, ref: str | None = None) -> Message:
    """Return a message of any type; Go's ``NewMessage``.

    Args:
        type: The type: a string of the application's own, or a ``MessageType``.
        data: What the message carries: anything that can be encoded as JSON. None by default, which leaves it out.
        ref: The ``ref`` of the message that this one answers.
    """
    return Message(type=str(type.value if isinstance(type, enum.Enum) else type), data=data, ref=ref)


def new_error_message(code: str, message: str, details: str = "", *, ref: str | None = None) -> Message:
    """Return an ``error`` message, with the sentence both in ``error`` and in ``data``; Go's ``NewErrorMessage``.

    Args:
        code: What kind of error it is, e.g. "FORBIDDEN".
        message: A sentence about it.
        details: What the error is about, e.g. the name of a field. Empty by default.
        ref: The ``ref`` of the message that this one answers.
    """
    event = ErrorEvent(code=code, message=message, details=details)
    return Message(type=MessageType.ERROR.value, data=event, error=given(message), ref=ref)


def new_task_created_message(task_id: Any, board_id: Any, task: Any, *, project_id: Any = None) -> Message:
    """Return a ``task.created`` message; Go's ``NewTaskCreatedMessage``. See ``TaskEvent`` for the arguments."""
    event = TaskEvent(task_id=task_id, board_id=board_id, project_id=given(project_id), action="created", task=given(task))
    return Message(type=MessageType.TASK_CREATED.value, data=event)


def new_task_updated_message(
    task_id: Any, board_id: Any, changes: Any, task: Any = None, *, project_id: Any = None, action: str = "updated"
) -> Message:
    """Return a ``task.updated`` message; Go's ``NewTaskUpdatedMessage``. See ``TaskEvent`` for the arguments.

    Args:
        action: "updated", the default, or "moved".
    """
    event = TaskEvent(
        task_id=task_id,
        board_id=board_id,
        project_id=given(project_id),
        action=action,
        changes=given(changes),
        task=given(task),
    )
    return Message(type=MessageType.TASK_UPDATED.value, data=event)


def new_task_deleted_message(task_id: Any, board_id: Any, *, project_id: Any = None) -> Message:
    """Return a ``task.deleted`` message; Go's ``NewTaskDeletedMessage``. See ``TaskEvent`` for the arguments."""
    event = TaskEvent(task_id=task_id, board_id=board_id, project_id=given(project_id), action="deleted")
    return Message(type=MessageType.TASK_DELETED.value, data=event)


def new_project_created_message(project_id: Any, project: Any) -> Message:
    """Return a ``project.created`` message; Go's ``NewProjectCreatedMessage``. See ``ProjectEvent`` for the arguments."""
    event = ProjectEvent(project_id=project_id, action="created", project=given(project))
    return Message(type=MessageType.PROJECT_CREATED.value, data=event)


def new_project_updated_message(project_id: Any, changes: Any, project: Any = None) -> Message:
    """Return a ``project.updated`` message; Go's ``NewProjectUpdatedMessage``. See ``ProjectEvent`` for the arguments."""
    event = ProjectEvent(project_id=project_id, action="updated", changes=given(changes), project=given(project))
    return Message(type=MessageType.PROJECT_UPDATED.value, data=event)


def new_board_updated_message(
    board_id: Any, project_id: Any, changes: Any, board: Any = None, *, action: str = "updated"
) -> Message:
    """Return a ``board.updated`` message; Go's ``NewBoardUpdatedMessage``. See ``BoardEvent`` for the arguments.

    Args:
        action: "updated", the default, or "reordered".
    """
    event = BoardEvent(
        board_id=board_id, project_id=given(project_id), action=action, changes=given(changes), board=given(board)
    )
    return Message(type=MessageType.BOARD_UPDATED.value, data=event)
