"""Presence in Redis: the names of its keys, how an entry is stored, and the Lua scripts, which alone write there.

**Threads**: a PresenceLeases belongs to the thread that uses it; everything else is a value.

**Locks**: none. Redis runs one script at a time, so that a change and its announcement are one.

**Blocks**: every method of a PresenceLeases waits for the network.

Below ``cartows:{0}:`` each process has a key ``lease:<process>`` that expires unless it is renewed, its name in the set
``procs``, and its entries in the hash ``people:<process>``. Changes are announced in the stream ``presence``. Its ids are
"<era>-<number>". Numbers grow by one within an era, which is the life of the stream: a process that finds another era or a gap
in the numbers has missed something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...nesting import MAX_INBOUND_DEPTH, is_deeper
from ...presence.presence import PresenceEntry
from .connect import Link, Script
from .event_store import Names

__all__ = ["RETRIES", "Periods", "Position", "PresenceLeases", "PresenceSnapshot", "decode_entries", "encode_entry"]

# About how many announcements the stream keeps. A process that has fallen further behind takes a snapshot.
KEPT = 16384

# The bounds of one announcement: presence entries, and bytes unless a single entry has more.
_MAX_CHANGES, _MAX_BYTES = 64, 32 * 1024

# The first and the last bound of the wait between two attempts, in seconds: see Backoff.
RETRIES = (0.1, 5.0)

# Each script begins with this. Redis 5 has all commands that are used here.
_OPENING = """
if redis.replicate_commands then redis.replicate_commands() end
local stream, procs, entries, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function add(run, id, ...) return run('XADD', stream, 'MAXLEN', '~', ARGV[1], id, ...) end
local function in_new_era(...)
  local now = redis.call('TIME')
  add(redis.call, now[1] .. string.format('%06d', now[2]) .. '-1', ...)
end
local function announce(...)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not last then return in_new_era(...) end
  local era, number = string.match(last[1], '^(%d+)-(%d+)$')
  local id = era .. '-' .. string.format('%.0f', number + 1)
  local added = add(redis.pcall, id, ...)
  if type(added) ~= 'table' or not added.err then return end
  -- Something else has added an entry at the end of the range, and none can follow. Every process finds the new era.
  for _, text in ipairs({'equal or smaller', 'exhausted', 'Invalid stream ID'}) do
    if string.find(added.err, text, 1, true) then
      redis.call('DEL', stream)
      return in_new_era(...)
    end
  end
  add(redis.call, id, ...)
end
local function held()
  return redis.call('EXISTS', lease) == 1 and redis.call('SISMEMBER', procs, ARGV[2]) == 1
end
"""

# ARGV of all: entries kept, process.

# ARGV: lease in milliseconds, then ref and text of each entry. The write that a full server may reject comes first.
_BEGIN = Script.of(
    _OPENING
    + """
redis.call('SET', lease, '1', 'PX', ARGV[3])
redis.call('SADD', procs, ARGV[2])
redis.call('DEL', entries)
for i = 4, #ARGV, 2 do redis.call('HSET', entries, ARGV[i], ARGV[i + 1]) end
announce('p', ARGV[2], 'op', 'here')
"""
)

# ARGV: lease in milliseconds. Returns whether there still was one.
_RENEW = Script.of(
    _OPENING
    + """
if not held() then return 0 end
return redis.call('PEXPIRE', lease, ARGV[3])
"""
)

# ARGV: ref and text of each entry, "" for one that has left. Returns whether there is a lease: without one nothing is changed.
_CHANGE = Script.of(
    _OPENING
    + """
if not held() then return 0 end
local changes = {}
local function note(ref, text) changes[#changes + 1] = ref; changes[#changes + 1] = text end
for i = 3, #ARGV, 2 do
  local ref, text = ARGV[i], ARGV[i + 1]
  if text == '' then
    if redis.call('HDEL', entries, ref) == 1 then note(ref, text) end
  else
    redis.call('HSET', entries, ref, text)
    note(ref, text)
  end
end
if #changes > 0 then announce('p', ARGV[2], 'op', 'change', unpack(changes)) end
return 1
"""
)

# ARGV: name of the command, its text.
_COMMAND = Script.of(_OPENING + "announce('p', ARGV[2], 'op', ARGV[3], 'd', ARGV[4])")

_END = Script.of(
    _OPENING
    + """
redis.call('DEL', lease, entries)
if redis.call('SREM', procs, ARGV[2]) == 1 then announce('p', ARGV[2], 'op', 'gone') end
"""
)

# ARGV: the keys' prefix. The keys of the processes in the set are in the same slot as the keys that are given.
_SWEEP = Script.of(
    _OPENING
    + """
local gone = 0
for _, process in ipairs(redis.call('SMEMBERS', procs)) do
  if redis.call('EXISTS', ARGV[3] .. 'lease:' .. process) == 0 then
    redis.call('DEL', ARGV[3] .. 'people:' .. process)
    redis.call('SREM', procs, process)
    announce('p', process, 'op', 'gone')
    gone = gone + 1
  end
end
return gone
"""
)

# ARGV: the keys' prefix. Returns the id of the last announcement, then for each process its name, whether it has a lease, and
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


class Periods(NamedTuple):
    """How long things take, in seconds.

    The entries of a process that was killed have left after ``lease`` + 1.2 ``sweep`` at the latest. Those of all others have
    left a process that lost Redis after ``lease`` + ``timeout`` + 5. Both are less than 60 s, with room for a slow machine. A
    lease outlives two renewals that fail.
    """

    lease: float = 40.0
    renew: float = 13.0
    #: Between two searches for expired leases.
    sweep: float = 10.0
    #: After it has taken a lease, a process removes no others for so long: after an outage all leases may have expired.
    grace: float = 20.0
    #: How long the listener waits for an announcement; less than ``timeout``.
    block: float = 5.0
    #: How long any answer may take.
    timeout: float = 10.0


class Position(NamedTuple):
    """A position in the stream of announcements."""

    era: int = 0
    number: int = 0

    def precedes(self, other: Position) -> bool:
        """Return whether ``other`` is the next position."""
        return other == (self.era, self.number + 1)


class PresenceSnapshot(NamedTuple):
    """The entries of all processes, as they were when the announcement at ``position`` was the last."""

    position: Position
    entries: Mapping[str, Mapping[bytes, bytes]]
    #: The processes that have a lease.
    leased: frozenset[str]


class PresenceLeases:
    """One process's presence in Redis, and its view of the others, for one thread. Every method raises BrokerError."""

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

    def begin(self, entries: Sequence[PresenceEntry]) -> None:
        """Take a lease, and announce that these are all entries of the process."""
        arguments = [argument for entry in entries for argument in (entry.ref, encode_entry(entry))]
        self._run("Announcing presence", _BEGIN, self._lease, *arguments)

    def renew(self) -> bool:
        """Renew the lease; return False when it has expired, so that the others remove this process's entries."""
        return bool(self._run("Renewing the lease of a process", _RENEW, self._lease))

    def change(self, changes: Mapping[str, PresenceEntry | None]) -> bool:
        """Announce new and changed entries by ref, None for those that have left; return False when the lease has expired."""
        return all(self._run("Announcing presence", _CHANGE, *batch) for batch in _batches(changes))

    def command(self, name: str, text: str) -> None:
        """Send a command to the other processes."""
        self._run("Sending a command to the other processes", _COMMAND, name, text)

    def sweep(self) -> int:
        """Remove the entries of every process whose lease has expired; return how many processes those were."""
        return int(self._run("Looking for processes that have died", _SWEEP, self._prefix))

    def end(self) -> None:
        """Give up the lease, and announce that all entries have left."""
        self._run("Removing the presence of a process", _END)

    # Reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> PresenceSnapshot:
        """Return the entries of all processes, and their position in the stream."""
        last, *found = self._run("Reading presence", _SNAPSHOT, self._prefix)
        entries = {name.decode(errors="replace"): dict(zip(flat[::2], flat[1::2], strict=True)) for name, _, flat in found}
        return PresenceSnapshot(
            _position(last), entries, frozenset(name.decode(errors="replace") for name, leased, _ in found if leased)
        )

    def hash_of(self, process: str) -> Mapping[bytes, bytes]:
        """Return the entries of a process as they are now, which may be ahead of the stream."""
        found: Mapping[bytes, bytes] = self._link.call("Reading presence", "HGETALL", f"{self._prefix}people:{process}")
        return found

    def last(self) -> Position:
        """Return the position of the last announcement."""
        found = self._link.call("Reading presence", "XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        return _position(found[0][0]) if found else Position()

    def read(self, after: Position, block: float) -> list[tuple[Position, dict[bytes, bytes]]]:
        """Return the announcements after a position as soon as there are any, or none after ``block`` seconds."""
        block_ms, start = max(1, round(block * 1000)), f"{after.era}-{after.number}"
        found = self._link.call("Reading presence", "XREAD", "COUNT", 256, "BLOCK", block_ms, "STREAMS", self._stream, start)
        return [(_position(id), fields) for _, entries in found or () for id, fields in entries]

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._link.close()


def encode_entry(entry: PresenceEntry) -> str:
    """Return an entry as it is stored in Redis, below its ref."""
    return json.dumps([*entry.room, entry.identity, entry.meta], separators=(",", ":"))


def decode_entries(fields: Mapping[bytes, bytes]) -> dict[str, PresenceEntry | None]:
    """Return the entries of a hash or an announcement, by ref.

    Raises ValueError, or RecursionError, for what cartows did not write.
    """
    found: dict[str, PresenceEntry | None] = {}
    for key, text in fields.items():
        ref = key.decode()
        if not text:
            found[ref] = None
            continue
        # Another application, or another version of cartows, may write there.
        if is_deeper(text, MAX_INBOUND_DEPTH):
            raise ValueError(f"{ref!r} is nested too deeply")
        match json.loads(text):
            case [str() as name, str() as value, str() as identity, dict() as meta]:
                found[ref] = PresenceEntry(ref, (name, value), identity, meta)
            case _:
                raise ValueError(f"{ref!r} is not a presence entry")
    return found


def _batches(changes: Mapping[str, PresenceEntry | None]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for ref, entry in changes.items():
        text = "" if entry is None else encode_entry(entry)
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
