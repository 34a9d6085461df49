"""The Lua scripts that store and check events: they alone write events, and Redis runs one at a time."""

from __future__ import annotations

from .connect import Script

__all__ = ["CHECK", "STORE"]

# Every script begins with this. Redis 5 has all commands that are used here.
_OPENING = """
-- Redis 5 and 6 may replicate a script's text, and then reject XINFO in it; later versions replicate its effects always.
if redis.replicate_commands then redis.replicate_commands() end
local events, meta = KEYS[1], KEYS[2]
local layout = redis.call('HGET', meta, 'version')
if layout and layout ~= ARGV[1] then
  return redis.error_reply('CARTOWSLAYOUT version ' .. layout .. ' of its layout, not ' .. ARGV[1])
end
local now = redis.call('HMGET', meta, 'epoch', 'number', 'last', 'chained', 'chain')
local epoch, number, previous = now[1], tonumber(now[2] or '0'), now[3] or ''
-- Lua calculates with doubles: numbers much above it could not be told apart.
local limit = 2 ^ 52
-- What cartows did not write there counts as lost.
if not number or number < 0 or number > limit or number % 1 ~= 0 or epoch and not string.match(epoch, '^%x+$') then
  epoch, number = nil, 0
end
-- An earlier version of cartows adds entries without a chain.
local chain = now[4] == previous and now[5] or ''
local function text(value) return string.format('%.0f', value) end
local function chained(before, name) return string.sub(redis.sha1hex(before .. ' ' .. name), 1, 16) end
-- The number of the entry that was added last, which the stream keeps even when it is empty. Behind one that cartows did not
-- write and that is near the end of the range nothing could be added any more. Only a new epoch asks for this number, and
-- the events of the one before are of no use any more: the stream begins again.
local function last_added()
  local info = redis.pcall('XINFO', 'STREAM', events)
  if info.err then return 0 end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local last = tonumber(string.match(info[i + 1], '^%d+'))
      if last <= limit / 2 then return last end
      redis.call('DEL', events)
    end
  end
  return 0
end
"""

# KEYS: events, meta, the origin's. ARGV: layout, a name for a new epoch, the highest number seen, events kept, seconds
# remembered, origin, seq of the first event, then five for each event. Returns the epoch, the first number, how many, and the
# chain before the first.
STORE = Script.of(
    _OPENING
    + """
local mine, origin, first = KEYS[3], ARGV[6], tonumber(ARGV[7])
local count = (#ARGV - 7) / 5
local function name(i) return origin .. ':' .. text(first + i) end
local had = redis.call('HMGET', mine, 'first', 'last', 'number', 'epoch', 'chain')
if had[2] and tonumber(had[2]) >= first then
  local before = first - tonumber(had[1])
  if before < 0 then return redis.error_reply('CARTOWSOLD these events were stored before others that are') end
  local reached = had[5] or ''
  for i = -before, -1 do reached = chained(reached, name(i)) end
  return {had[4], tonumber(had[3]) + before, math.min(count, tonumber(had[2]) - first + 1), reached}
end
local seen, start = tonumber(ARGV[3]), chain
if not epoch or number < seen then epoch, number = ARGV[2], math.max(number, seen) end
-- Each entry names the one before it, so that a reader detects every loss.
local function add(i)
  local at = 7 + 5 * i
  return redis.pcall('XADD', events, 'MAXLEN', '~', ARGV[4], text(number + 1 + i) .. '-0',
    'e', epoch, 'o', origin, 's', text(first + i), 'p', i == 0 and previous or name(i - 1), 'c', chain,
    'a', ARGV[at + 1], 't', ARGV[at + 2], 'b', ARGV[at + 3], 'm', ARGV[at + 4], 'k', ARGV[at + 5])
end
-- The first entry is the first write: when it is rejected nothing has changed, and once it is stored, the others follow. Redis
-- reports in two ways that something is there which cartows did not add: in the range, and at its end.
local added = add(0)
if type(added) == 'table' and added.err
  and (string.find(added.err, 'equal or smaller', 1, true) or string.find(added.err, 'exhausted', 1, true)) then
  epoch, number = ARGV[2], math.max(number, last_added())
  added = add(0)
end
if type(added) == 'table' and added.err then return added end
chain = chained(chain, name(0))
for i = 1, count - 1 do
  added = add(i)
  if type(added) == 'table' and added.err then return added end
  chain = chained(chain, name(i))
end
local last = name(count - 1)
redis.call('HSET', meta, 'version', ARGV[1], 'epoch', epoch, 'number', text(number + count), 'last', last,
  'chained', last, 'chain', chain)
redis.call('HSET', mine, 'first', text(first), 'last', text(first + count - 1), 'number', text(number + 1), 'epoch', epoch,
  'chain', start)
redis.call('EXPIRE', mine, ARGV[5])
return {epoch, number + 1, count, start}
"""
)

# KEYS: events, meta. ARGV: layout, a name for a new epoch, then epoch, highest number seen, and number, origin, seq and chain
# before it of the last entry read ("" for none). Returns the state, the epoch, and number and chain of its last event.
CHECK = Script.of(
    _OPENING
    + """
local seen = tonumber(ARGV[4])
local function begin(above)
  redis.call('HSET', meta, 'version', ARGV[1], 'epoch', ARGV[2], 'number', text(above))
  return {ARGV[3] == '' and 'changed' or 'lost', ARGV[2], above, chain}
end
if not epoch then return begin(math.max(seen, last_added())) end
if number < seen then return begin(seen) end
if epoch ~= ARGV[3] then return {'changed', epoch, number, chain} end
if ARGV[6] ~= '' then
  local at = ARGV[5] .. '-0'
  for _, entry in ipairs(redis.call('XRANGE', events, at, at)) do
    local has = {}
    for i = 1, #entry[2], 2 do has[entry[2][i]] = entry[2][i + 1] end
    if has.o ~= ARGV[6] or has.s ~= ARGV[7] or (has.c or '') ~= ARGV[8] then
      return begin(math.max(number, last_added()))
    end
  end
end
return {'fine', epoch, number, chain}
"""
)
