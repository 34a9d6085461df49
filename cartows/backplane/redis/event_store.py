"""Events in Redis: the names of its keys, an event as an entry of the stream, and the Lua scripts, which alone write events.

**Threads**: a Store belongs to the thread that uses it; everything else is a value.

**Locks**: none. Redis runs one script at a time, which numbers the events of all processes in one order.

**Blocks**: every method of a Store waits for the network.

The number of an event is part of its stream id, "<number>-0". Numbers grow by one from event to event and never decrease. An
epoch ends when the server has lost something: its data was flushed, or a replica took over that had not received everything.
The next epoch begins above every number that the process which begins it has seen. A process detects a loss by a number below
one that it has seen, or by another event under a number that it has read.

Where no process is left that has seen more, a server that is restored from an older copy gives numbers again, in the same
epoch; so do two servers that were separated. Each entry therefore has a *chain*: a hash of the chain before it and its own
origin and sequence number. Equal chains mean that everything up to there is the same. The mark in an event's id is the
beginning of its chain.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from ...rooms import Audience, Room
from ..base import Entry, OutgoingEvent
from .connect import Link
from .event_scripts import CHECK, STORE

__all__ = ["LAYOUT", "Checked", "Names", "Record", "Store", "Stored", "entry_of", "mark_of", "record_of"]

# The version of this layout: a process that finds another one changes nothing.
LAYOUT = "1"

# About how many events the stream keeps: much more than a second of traffic, and independent of a hub's history.
KEPT = 65536

# How long the last batch of an origin is remembered, in seconds: longer than any attempt at storing it takes to arrive.
REMEMBERED = 24 * 3600

# The bytes of the largest audience that is cached: most events are for a room or two.
_CACHED = 1024

# The length of a mark: wrong once in 16 million, and few bytes in each event.
_MARK = 6


class Stored(NamedTuple):
    """The numbers under which a batch is stored: the first ``size`` of its events, from ``number`` on."""

    epoch: str
    number: int
    size: int
    #: The chain before the first of them.
    chain: str = ""

    def ids(self, origin: str, first: int) -> Iterator[str]:
        """Yield the events' ids on the wire; ``first`` is the sequence number of the first."""
        chain = self.chain
        for place in range(self.size):
            chain = _chained(chain, origin, first + place)
            yield f"{self.epoch}.{self.number + place}-{mark_of(chain)}"


class Checked(NamedTuple):
    """The state of the stream after a reader's last entry, with the current epoch and the number of its last event.

    "fine": the next entry follows it. "changed": another process has begun another epoch. "lost": the broker had lost
    something, and this check has begun another epoch.
    """

    state: Literal["fine", "changed", "lost"]
    epoch: str
    number: int
    #: The chain up to that event.
    chain: str = ""


class Record(NamedTuple):
    """An entry of the stream: an event with its number, the process that it comes from, and its sequence number there."""

    number: int
    epoch: str
    origin: str
    seq: int
    event: OutgoingEvent
    #: The entry before it, as "origin:seq", and the chain up to that; both are empty for the first of all.
    previous: str = ""
    chain_before: str = ""
    #: The chain up to this entry.
    chain: str = ""

    def follows(self, last: Record | None, chain: str) -> bool:
        """Return whether the entry before this one is ``last``, and the chain up to there is this one."""
        if last is not None and self.previous != f"{last.origin}:{last.seq}":
            return False
        # An earlier version of cartows adds entries without a chain.
        return self.chain_before in ("", chain)


class Names:
    """The keys of one shard. Redis derives a key's slot from what is in braces, so all of them are in one slot."""

    def __init__(self, shard: str = "0") -> None:
        self.prefix = f"cartows:{{{shard}}}:"
        self.events = self.prefix + "events"
        self.meta = self.prefix + "meta"

    def origin(self, origin: str) -> str:
        """Return the key that describes the last batch of an origin."""
        return f"{self.prefix}origin:{origin}"


class Store:
    """The store of events at the broker, for one thread. Every method raises BrokerError."""

    def __init__(self, link: Link, names: Names | None = None) -> None:
        self._link = link
        self._names = names or Names()

    def store(self, origin: str, first: int, events: Sequence[OutgoingEvent], seen: int) -> Stored:
        """Store a batch as a whole or not at all; ``first`` is the sequence number of its first event at its origin.

        A batch that is already stored is not stored again. Of one that overlaps with the last batch, ``size`` events are
        stored, and the rest is still to be. ``seen`` is the highest number that this process has seen.
        """
        names = self._names
        arguments: list[Any] = [LAYOUT, new_epoch(), seen, KEPT, REMEMBERED, origin, first]
        for event in events:
            arguments += _fields(event)
        keys = [names.events, names.meta, names.origin(origin)]
        epoch, number, size, chain = self._link.run("Storing events", STORE, keys, arguments)
        return Stored(epoch.decode(), int(number), int(size), chain.decode())

    def check(self, epoch: str, seen: int, last: Record | None = None) -> Checked:
        """Compare a reader's position with the stream: ``last`` is the last entry that it has read.

        With an epoch of "" return the current epoch, and begin the first one where there is none. ``seen`` is the highest
        number that this process has seen, in any epoch.
        """
        names = self._names
        arguments: list[Any] = [LAYOUT, new_epoch(), epoch, max(seen, last.number if last else 0)]
        arguments += ("", "", "", "") if last is None else (last.number, last.origin, last.seq, last.chain_before)
        state, current, number, chain = self._link.run("Reading events", CHECK, [names.events, names.meta], arguments)
        return Checked(state.decode(), current.decode(), int(number), chain.decode())

    def position(self) -> tuple[str, int]:
        """Return the epoch and the number of its last event; "" and 0 where nothing is stored yet."""
        epoch, number = self._link.call("Asking for the last event", "HMGET", self._names.meta, "epoch", "number")
        return (epoch or b"").decode(), int(number or 0)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._link.close()


def new_epoch() -> str:
    """Return a name for a new epoch."""
    return secrets.token_hex(4)


def record_of(id: bytes, fields: Mapping[bytes, bytes]) -> Record:
    """Return the record of a stream entry.

    Raises ValueError, KeyError, TypeError, AttributeError or RecursionError for one that cartows did not write.
    """
    number, _, rest = id.partition(b"-")
    if rest != b"0":
        raise ValueError(f"{id!r} is not the id of an event")
    entity, body = fields[b"m"], fields[b"b"]
    # The id of the event is put in at its end.
    if not (body.startswith(b"{") and body.endswith(b"}")):
        raise ValueError("its body is no JSON object")
    event = OutgoingEvent(
        type=fields[b"t"].decode(),
        body=body,
        audience=_audience(fields[b"a"]) if len(fields[b"a"]) <= _CACHED else _audience.__wrapped__(fields[b"a"]),
        entity=_entity(entity) if entity else None,
        merges=fields[b"k"] == b"1",
    )
    origin, seq, before = fields[b"o"].decode(), int(fields[b"s"]), fields.get(b"c", b"").decode()
    return Record(
        number=int(number),
        epoch=fields[b"e"].decode(),
        origin=origin,
        seq=seq,
        event=event,
        previous=fields[b"p"].decode(),
        chain_before=before,
        chain=_chained(before, origin, seq),
    )


def entry_of(record: Record, delivered: bool = False) -> Entry:
    """Return a record as the hub keeps it."""
    return Entry(record.number, record.event, delivered, mark_of(record.chain))


def mark_of(chain: str) -> str:
    """Return the mark of the event up to which a chain reaches."""
    return chain[:_MARK]


def _chained(before: str, origin: str, seq: int) -> str:
    """Return the chain up to an entry as the scripts calculate it; sha1 is the one hash that they have."""
    return hashlib.sha1(f"{before} {origin}:{seq}".encode(), usedforsecurity=False).hexdigest()[:16]


def _fields(event: OutgoingEvent) -> tuple[bytes | str, ...]:
    entity = json.dumps(event.entity) if event.entity is not None else ""
    return _text(event.audience), event.type, event.body, entity, "1" if event.merges else ""


# Most events are for few audiences; the cache is bounded for the others.
@lru_cache(maxsize=1024)
def _text(audience: Audience) -> str:
    return json.dumps({"r": audience.rooms, "u": audience.unfiltered, "e": audience.everyone}, separators=(",", ":"))


@lru_cache(maxsize=1024)
def _audience(text: bytes) -> Audience:
    match json.loads(text):
        # Only strings become keys of the hub: what else there is may have no hash, or all the same one.
        case {"r": list() as rooms, "u": bool() as unfiltered, "e": bool() as everyone}:
            return Audience(tuple(_room(*room) for room in rooms), unfiltered, everyone)
    raise ValueError("its audience is none")


def _room(key: str, value: str) -> Room:
    if not (isinstance(key, str) and isinstance(value, str)):
        raise ValueError("its audience has a room that is no pair of strings")
    return key, value


def _entity(text: bytes) -> tuple[str, ...]:
    found = json.loads(text)
    if not (isinstance(found, list) and all([isinstance(part, str) for part in found])):
        raise ValueError("its entity is no list of strings")
    return tuple(found)
