"""Two updates of one thing made into one: for a client that is too slow to be told of both, and before they are sent at all.

Threads: any; frames and snapshots never change, a merged one is new.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import msgspec

from .frames import Frame
from .message import OBJECT, Message

__all__ = ["merge", "merge_snapshots"]


def merge(older: Frame, newer: Frame) -> Frame:
    """Return the newer update with the ``changes`` of the older one laid beneath its own, key by key.

    All else is the newer's, and it is the newer frame itself, with its compressed twin, when the older one adds nothing: it has
    no changes or only keys that the newer one has too, or one of them is not written as events are.
    """
    try:
        message = OBJECT.decode(newer.payload)
        data = OBJECT.decode(message["data"])
        changes = _merged(_changes(OBJECT.decode(OBJECT.decode(older.payload)["data"])), _changes(data))
        if changes is None:
            return newer
        # A key that is there keeps its place.
        payload = msgspec.json.encode({**message, "data": {**data, "changes": changes}})
    except (msgspec.DecodeError, KeyError, UnicodeError, RecursionError):
        return newer
    return Frame(payload, number=newer.number, entity=newer.entity, merges=newer.merges)


def merge_snapshots(older: Message, newer: Message) -> Message | None:
    """Return one update that says what two snapshots of updates of one thing say, or None where no one update does.

    It is the newer one with the ``changes`` of the older one laid beneath its own, key by key. Two actions do not become one,
    and neither do changes and the lack of them, which says that all may be different.
    """
    before, after = older.data, newer.data
    if older.type != newer.type or before.action != after.action:
        return None
    if before.changes is None or after.changes is None:
        return newer if before.changes is after.changes else None
    try:
        changes = _merged(before.changes, after.changes)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if changes is None:
        return newer
    return msgspec.structs.replace(
        newer, data=msgspec.structs.replace(after, changes=msgspec.Raw(msgspec.json.encode(changes)))
    )


def _changes(data: dict[str, msgspec.Raw]) -> msgspec.Raw | None:
    found = data.get("changes")
    return None if found is None or bytes(found) == b"null" else found


def _merged(older: msgspec.Raw | None, newer: msgspec.Raw | None) -> msgspec.Raw | dict[str, msgspec.Raw] | None:
    """Return the changes both make, or None when they are the newer's. Raises DecodeError for what is not an object."""
    if older is None or newer is None:
        return older
    before, after = OBJECT.decode(older), OBJECT.decode(newer)
    return {**before, **after} if before.keys() - after.keys() else None
