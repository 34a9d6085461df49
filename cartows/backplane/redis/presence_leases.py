"""Presence in Redis: its names, a person as it stands there, and the Lua scripts that are the only ones to write.

Threads: a Leases belongs to the thread that uses it; everything else here is a value.
Locks: none. A script runs alone in its server, so that a change and the news of it are one.
Blocks: every method of a Leases, on the network.

Below ``cartows:{0}:`` each process has a key ``lease:<process>`` that runs out unless it is kept, its name in the set
``procs``, and its people in the hash ``people:<process>``. What happens to them is told in the stream ``presence``. The id of
an entry there is "<era>-<number>": numbers grow by one within an era, which is the life of the stream, so that whoever finds
another era or a number left out knows that it has missed something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...presence.presence import PresenceEntry
from .connect import Link, Script
from .event_store import Names

__all__ = ["Leases", "Position", "Snapshot", "people_of", "text_of"]

# Entries that the stream keeps, about. Who has fallen behind further takes a snapshot.
KEPT = 16384

# What one entry tells at most: people, and bytes unless one person has more.
_MAX_CHANGES, _MAX_BYTES = 64, 32 * 1024

# Each script begins with this. Redis 5 has everything that is used here.
_OPENING = """
if redis.replicate_commands then redis.replicate_commands() end
local stream, procs, people, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function tell(...)
  local last, id = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last then
    local era, number = string.match(last[1], '^(%d+)-(%d+)$')
    id = era .. '-' .. string.format('%.0f', number + 1)
  else
    local now = redis.call('TIME')
    id = now[1] .. string.format('%06d', now[2]) .. '-1'
  end
  redis.call('XADD', stream, 'MAXLEN', '~', ARGV[1], id, ...)
end
local function held()
  return redis.call('EXISTS', lease) == 1 and redis.call('SISMEMBER', procs, ARGV[2]) == 1
end
"""

# ARGV of all: entries kept, process.

# ARGV: lease in milliseconds, then ref and text of each person. What a full server may refuse stands first.
_BEGIN = Script.of(
    _OPENING
    + """
redis.call('SET', lease, '1', 'PX', ARGV[3])
redis.call('SADD', procs, ARGV[2])
redis.call('DEL', people)
for i = 4, #ARGV, 2 do redis.call('HSET', people, ARGV[i], ARGV[i + 1]) end
tell('p', ARGV[2], 'op', 'here')
"""
)

# ARGV: lease in milliseconds. Returns whether there still was one.
_KEEP = Script.of(
    _OPENING
    + """
if not held() then return 0 end
return redis.call('PEXPIRE', lease, ARGV[3])
"""
)

# ARGV: ref and text of each person, "" for who has left. Returns whether there is a lease: without one nothing is changed.
_CHANGE = Script.of(
    _OPENING
    + """
if not held() then return 0 end
local news = {}
local function note(ref, text) news[#news + 1] = ref; news[#news + 1] = text end
for i = 3, #ARGV, 2 do
  local ref, text = ARGV[i], ARGV[i + 1]
  if text == '' then
    if redis.call('HDEL', people, ref) == 1 then note(ref, text) end
  else
    redis.call('HSET', people, ref, text)
    note(ref, text)
  end
end
if #news > 0 then tell('p', ARGV[2], 'op', 'change', unpack(news)) end
return 1
"""
)

# ARGV: name of the command, its text.
_COMMAND = Script.of(_OPENING + "tell('p', ARGV[2], 'op', ARGV[3], 'd', ARGV[4])")

_END = Script.of(
    _OPENING
    + """
redis.call('DEL', lease, people)
if redis.call('SREM', procs, ARGV[2]) == 1 then tell('p', ARGV[2], 'op', 'gone') end
"""
)

# ARGV: what the keys begin with. The keys of processes that the set names are in the same slot as those that are given.
_LOOK = Script.of(
    _OPENING
    + """
local gone = 0
for _, process in ipairs(redis.call('SMEMBERS', procs)) do
  if redis.call('EXISTS', ARGV[3] .. 'lease:' .. process) == 0 then
    redis.call('DEL', ARGV[3] .. 'people:' .. process)
    redis.call('SREM', procs, process)
    tell('p', process, 'op', 'gone')
    gone = gone + 1
  end
end
return gone
"""
)

# ARGV: what the keys begin with. Returns the id of the last entry, then of each process its name, whether it has a lease, and
# its hash.
_SNAPSHOT = Script.of(
    _OPENING
    + """
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
local found = {last and last[1] or '0-0'}
for _, process in ipairs(redis.call('SMEMBERS', procs)) do
  local leased = redis.call('EXISTS', ARGV[3] .. 'lease:' .. process)
  found[#found + 1] = {process, leased, redis.call('HGETALL', ARGV[3] .. 'people:' .. process)}
end
return found
"""
)


class Position(NamedTuple):
    """Be a place in the stream."""

    era: int = 0
    number: int = 0

    def precedes(self, other: Position) -> bool:
        """Return whether an entry is the next one."""
        return other == (self.era, self.number + 1)


class Snapshot(NamedTuple):
    """Be the people of all processes, as they were when the entry at ``position`` was the last."""

    position: Position
    people: Mapping[str, Mapping[bytes, bytes]]
    #: The processes that have a lease.
    leased: frozenset[str]


class Leases:
    """Keep one process's people in Redis, and read those of the others. Every method raises BrokerError."""

    def __init__(self, link: Link, process: str, lease: float, names: Names | None = None) -> None:
        self._link = link
        self._process = process
        self._lease = max(1, round(lease * 1000))
        self._prefix = (names or Names()).prefix
        self._stream = self._prefix + "presence"
        self._keys = [self._stream, f"{self._prefix}procs", f"{self._prefix}people:{process}", f"{self._prefix}lease:{process}"]

    def _run(self, attempted: str, script: Script, *arguments: Any) -> Any:
        return self._link.run(attempted, script, self._keys, [KEPT, self._process, *arguments])

    # Writing ------------------------------------------------------------------------------------------------------

    def begin(self, people: Sequence[PresenceEntry]) -> None:
        """Take a lease, and tell that these are the people of the process, and nobody else."""
        arguments = [argument for person in people for argument in (person.ref, text_of(person))]
        self._run("Telling who is here", _BEGIN, self._lease, *arguments)

    def keep(self) -> bool:
        """Make the lease last; False when it has run out, and the others have been told or will be that everybody has left."""
        return bool(self._run("Keeping the lease of a process", _KEEP, self._lease))

    def change(self, changes: Mapping[str, PresenceEntry | None]) -> bool:
        """Tell who has come, has another meta, or has left; False when the lease has run out."""
        return all(self._run("Telling who has come and gone", _CHANGE, *batch) for batch in _batches(changes))

    def command(self, name: str, text: str) -> None:
        """Tell the other processes to do something."""
        self._run("Telling the other processes of a user", _COMMAND, name, text)

    def look(self) -> int:
        """Take out the people of every process whose lease has run out; returns how many processes those were."""
        return int(self._run("Looking for processes that have died", _LOOK, self._prefix))

    def end(self) -> None:
        """Give the lease up, and tell that everybody has left."""
        self._run("Taking the people of a process out", _END)

    # Reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the people of all processes, and their place in the stream."""
        last, *found = self._run("Asking who is there", _SNAPSHOT, self._prefix)
        people = {name.decode(errors="replace"): dict(zip(flat[::2], flat[1::2], strict=True)) for name, _, flat in found}
        return Snapshot(
            _position(last), people, frozenset(name.decode(errors="replace") for name, leased, _ in found if leased)
        )

    def hash_of(self, process: str) -> Mapping[bytes, bytes]:
        """Return the people of a process: as they are now, which may be ahead of the stream."""
        found: Mapping[bytes, bytes] = self._link.call("Asking who is there", "HGETALL", f"{self._prefix}people:{process}")
        return found

    def last(self) -> Position:
        """Return the place of the last entry."""
        found = self._link.call("Subscriptions who comes and goes", "XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        return _position(found[0][0]) if found else Position()

    def read(self, after: Position, block: float) -> list[tuple[Position, dict[bytes, bytes]]]:
        """Return the entries behind a place, as soon as there is one, or nothing after so many seconds."""
        block_ms, start = max(1, round(block * 1000)), f"{after.era}-{after.number}"
        found = self._link.call(
            "Subscriptions who comes and goes", "XREAD", "COUNT", 256, "BLOCK", block_ms, "STREAMS", self._stream, start
        )
        return [(_position(id), fields) for _, entries in found or () for id, fields in entries]

    def close(self) -> None:
        """Close the connection; the next use makes another."""
        self._link.close()


def text_of(person: PresenceEntry) -> str:
    """Return a person as it stands in Redis, below its ref."""
    return json.dumps([*person.room, person.identity, person.meta], separators=(",", ":"))


def people_of(fields: Mapping[bytes, bytes]) -> dict[str, PresenceEntry | None]:
    """Return the people that stand in a hash or an entry, by ref.

    Raises ValueError, or RecursionError, for what cartows did not write.
    """
    found: dict[str, PresenceEntry | None] = {}
    for key, text in fields.items():
        ref = key.decode()
        if not text:
            found[ref] = None
            continue
        # Others than processes of this version may write there, or nobody would need to look.
        match json.loads(text):
            case [str() as name, str() as value, str() as identity, dict() as meta]:
                found[ref] = PresenceEntry(ref, (name, value), identity, meta)
            case _:
                raise ValueError(f"{ref!r} is not what a person looks like")
    return found


def _batches(changes: Mapping[str, PresenceEntry | None]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for ref, person in changes.items():
        text = "" if person is None else text_of(person)
        size += len(ref) + len(text)
        if batch and (len(batch) >= 2 * _MAX_CHANGES or size > _MAX_BYTES):
            yield batch
            batch, size = [], len(ref) + len(text)
        batch += [ref, text]
    if batch:
        yield batch


def _position(id: bytes) -> Position:
    era, _, number = id.partition(b"-")
    return Position(int(era), int(number))
