"""Two updates of one thing made into one: for a client that is too slow to be told of both, and before they are sent at all.

Threads: any; frames and snapshots never change, a merged one is new.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import msgspec

from ..message import OBJECT, merged_changes
from ..websocket.frames import Frame

__all__ = ["merge"]


def merge(older: Frame, newer: Frame) -> Frame:
    """Return the newer update with the ``changes`` of the older one laid beneath its own, key by key.

    All else is the newer's, and it is the newer frame itself, with its compressed twin, when the older one adds nothing: it has
    no changes or only keys that the newer one has too, or one of them is not written as events are.
    """
    try:
        message = OBJECT.decode(newer.payload)
        data = OBJECT.decode(message["data"])
        changes = merged_changes(_changes(OBJECT.decode(OBJECT.decode(older.payload)["data"])), _changes(data))
        if changes is None:
            return newer
        # A key that is there keeps its place.
        payload = msgspec.json.encode({**message, "data": {**data, "changes": changes}})
    except (msgspec.DecodeError, KeyError, UnicodeError, RecursionError):
        return newer
    return Frame(payload, number=newer.number, entity=newer.entity, merges=newer.merges)


def _changes(data: dict[str, msgspec.Raw]) -> msgspec.Raw | None:
    found = data.get("changes")
    return None if found is None or bytes(found) == b"null" else found
