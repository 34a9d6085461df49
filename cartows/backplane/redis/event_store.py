"""Events in Redis: the names of its keys, an event as an entry of the stream, and the Lua scripts, which alone write events.

**Threads**: a Store belongs to the thread that uses it; everything else is a value.

**Locks**: none. Redis runs one script at a time, which numbers the events of all processes in one order.

**Blocks**: every method of a Store waits for the network.

The number of an event is part of its stream id, "<number>-0". Numbers grow by one from event to event and never decrease. An
epoch ends when the server has lost something: its data was flushed, or a replica took over that had not received everything.
The next epoch begins above every number that the process which begins it has seen. A process detects a loss by a number below
one that it has seen, or by another event under a number that it has read.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from ...rooms import Audience
from ..base import OutgoingEvent
from .connect import Link, Script

__all__ = ["LAYOUT", "Checked", "Names", "Record", "Store", "Stored", "record_of"]

# The version of this layout: a process that finds another one changes nothing.
LAYOUT = "1"

# About how many events the stream keeps: much more than a second of traffic, and independent of a hub's history.
KEPT = 65536

# How long the last batch of an origin is remembered, in seconds: longer than any attempt at storing it takes to arrive.
REMEMBERED = 24 * 3600

# Every script begins with this. Redis 5 has all commands that are used here.
_OPENING = """
-- Redis 5 and 6 may replicate a script's text, and then reject XINFO in it; later versions replicate its effects always.
if redis.replicate_commands then redis.replicate_commands() end
local events, meta = KEYS[1], KEYS[2]
local layout = redis.call('HGET', meta, 'version')
if layout and layout ~= ARGV[1] then
  return redis.error_reply('CARTOWSLAYOUT version ' .. layout .. ' of its layout, not ' .. ARGV[1])
end
local now = redis.call('HMGET', meta, 'epoch', 'number')
local epoch, number = now[1], tonumber(now[2] or '0')
local function text(value) return string.format('%.0f', value) end
-- The number of the entry that was added last, which the stream keeps even when it is empty.
local function last_added()
  local info = redis.pcall('XINFO', 'STREAM', events)
  if info.err then return 0 end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
  return 0
end
"""

# KEYS: events, meta, the origin's. ARGV: layout, a name for a new epoch, the highest number seen, events kept, seconds
# remembered, origin, seq of the first event, then five for each event. Returns the epoch, the first number, and how many.
_STORE = Script.of(
    _OPENING
    + """
local mine, origin, first = KEYS[3], ARGV[6], tonumber(ARGV[7])
local count = (#ARGV - 7) / 5
local had = redis.call('HMGET', mine, 'first', 'last', 'number', 'epoch')
if had[2] and tonumber(had[2]) >= first then
  local before = first - tonumber(had[1])
  if before < 0 then return redis.error_reply('CARTOWSOLD these events were stored before others that are') end
  return {had[4], tonumber(had[3]) + before, math.min(count, tonumber(had[2]) - first + 1)}
end
local seen = tonumber(ARGV[3])
if not epoch or number < seen then epoch, number = ARGV[2], math.max(number, seen) end
-- Each entry names the one before it, so that a reader detects every loss.
local function name(i) return origin .. ':' .. text(first + i) end
local previous = redis.call('HGET', meta, 'last') or ''
local function add(i)
  local at = 7 + 5 * i
  return redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[4], text(number + 1 + i) .. '-0',
    'e', epoch, 'o', origin, 's', text(first + i), 'p', i == 0 and previous or name(i - 1),
    'a', ARGV[at + 1], 't', ARGV[at + 2], 'b', ARGV[at + 3], 'm', ARGV[at + 4], 'k', ARGV[at + 5])
end
-- The first entry is the first write: when it is rejected nothing has changed, and once it is stored, the others follow.
local added = add(0)
if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller', 1, true) then
  epoch, number = ARGV[2], last_added()
  added = add(0)
end
if type(added) == 'table' and added.err then return added end
for i = 1, count - 1 do
  added = add(i)
  if type(added) == 'table' and added.err then return added end
end
redis.call('HSET', meta, 'version', ARGV[1], 'epoch', epoch, 'number', text(number + count), 'last', name(count - 1))
redis.call('HSET', mine, 'first', text(first), 'last', text(first + count - 1), 'number', text(number + 1), 'epoch', epoch)
redis.call('EXPIRE', mine, ARGV[5])
return {epoch, number + 1, count}
"""
)

# KEYS: events, meta. ARGV: layout, a name for a new epoch, then epoch, highest number seen, and number, origin and seq of the
# last entry read ("" for none). Returns the state, the epoch and the number of its last event.
_CHECK = Script.of(
    _OPENING
    + """
local seen = tonumber(ARGV[4])
local function begin(above)
  redis.call('HSET', meta, 'version', ARGV[1], 'epoch', ARGV[2], 'number', text(above))
  return {ARGV[3] == '' and 'changed' or 'lost', ARGV[2], above}
end
if not epoch then return begin(math.max(seen, last_added())) end
if number < seen then return begin(seen) end
if epoch ~= ARGV[3] then return {'changed', epoch, number} end
if ARGV[6] ~= '' then
  local at = ARGV[5] .. '-0'
  for _, entry in ipairs(redis.call('XRANGE', events, at, at)) do
    local has = {}
    for i = 1, #entry[2], 2 do has[entry[2][i]] = entry[2][i + 1] end
    if has.o ~= ARGV[6] or has.s ~= ARGV[7] then return begin(math.max(number, last_added())) end
  end
end
return {'fine', epoch, number}
"""
)


class Stored(NamedTuple):
    """The numbers under which a batch is stored: the first ``size`` of its events, from ``number`` on."""

    epoch: str
    number: int
    size: int


class Checked(NamedTuple):
    """The state of the stream after a reader's last entry, with the current epoch and the number of its last event.

    "fine": the next entry follows it. "changed": another process has begun another epoch. "lost": the broker had lost
    something, and this check has begun another epoch.
    """

    state: Literal["fine", "changed", "lost"]
    epoch: str
    number: int


class Record(NamedTuple):
    """An entry of the stream: an event with its number, the process that it comes from, and its sequence number there."""

    number: int
    epoch: str
    origin: str
    seq: int
    event: OutgoingEvent
    #: The entry before it, as "origin:seq"; empty for the first of all.
    previous: str = ""


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
        epoch, number, size = self._link.run("Storing events", _STORE, keys, arguments)
        return Stored(epoch.decode(), int(number), int(size))

    def check(self, epoch: str, seen: int, last: tuple[int, str, int] | None = None) -> Checked:
        """Compare a reader's position with the stream: ``last`` is number, origin and seq of the last entry that it has read.

        With an epoch of "" return the current epoch, and begin the first one where there is none. ``seen`` is the highest
        number that this process has seen, in any epoch.
        """
        names = self._names
        arguments = [LAYOUT, new_epoch(), epoch, max(seen, last[0] if last else 0), *(last or ("", "", ""))]
        state, current, number = self._link.run("Reading events", _CHECK, [names.events, names.meta], arguments)
        return Checked(state.decode(), current.decode(), int(number))

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
    """Return the record of a stream entry. Raises ValueError or KeyError for one that cartows did not write."""
    number, _, rest = id.partition(b"-")
    if rest != b"0":
        raise ValueError(f"{id!r} is not the id of an event")
    entity = fields[b"m"]
    event = OutgoingEvent(
        type=fields[b"t"].decode(),
        body=fields[b"b"],
        audience=_audience(fields[b"a"]),
        entity=tuple(json.loads(entity)) if entity else None,
        merges=fields[b"k"] == b"1",
    )
    return Record(int(number), fields[b"e"].decode(), fields[b"o"].decode(), int(fields[b"s"]), event, fields[b"p"].decode())


def _fields(event: OutgoingEvent) -> tuple[bytes | str, ...]:
    entity = json.dumps(event.entity) if event.entity is not None else ""
    return _text(event.audience), event.type, event.body, entity, "1" if event.merges else ""


# Most events are for few audiences; the cache is bounded for the others.
@lru_cache(maxsize=1024)
def _text(audience: Audience) -> str:
    return json.dumps({"r": audience.rooms, "u": audience.unfiltered, "e": audience.everyone}, separators=(",", ":"))


@lru_cache(maxsize=1024)
def _audience(text: bytes) -> Audience:
    found = json.loads(text)
    return Audience(tuple((key, value) for key, value in found["r"]), found["u"], found["e"])
