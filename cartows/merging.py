"""Two updates of one thing made into one, for a client that is too slow to be told of both.

Threads: any; frames never change, a merged one is new.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import msgspec

from .frames import Frame

__all__ = ["merge"]

# Opens one level and leaves what is below as it was written: a number that no float can hold passes unharmed.
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def merge(older: Frame, newer: Frame) -> Frame:
    """Return the newer update with the ``changes`` of the older one laid beneath its own, key by key.

    All else is the newer's, and it is the newer frame itself, with its compressed twin, when the older one adds nothing: it has
    no changes or only keys that the newer one has too, or one of them is not written as events are.
    """
    try:
        message = _OBJECT.decode(newer.payload)
        data = _OBJECT.decode(message["data"])
        changes = _merged(_changes(_OBJECT.decode(_OBJECT.decode(older.payload)["data"])), _changes(data))
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


def _merged(older: msgspec.Raw | None, newer: msgspec.Raw | None) -> msgspec.Raw | dict[str, msgspec.Raw] | None:
    """Return the changes both make, or None when they are the newer's. Raises DecodeError for what is not an object."""
    if older is None or newer is None:
        return older
    before, after = _OBJECT.decode(older), _OBJECT.decode(newer)
    return {**before, **after} if before.keys() - after.keys() else None
