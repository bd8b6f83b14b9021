"""The Lua scripts of the Redis store, each of which Redis runs atomically (`EVALSHA`).

Each script is idempotent, so that it can be sent again after a lost reply.
"""

from __future__ import annotations

PREFIX = "torchship:"
TURN, WAIT, FULL = 0, 1, 2

# KEYS: live, state, mark, line, alive. ARGV: token, lease ms, idle ms, opening, most.
ENTER = f"""
local live, state, mark, line, alive = unpack(KEYS)
local token, lease, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A delayed call: its turn is over, and nobody waits for the reply.
if redis.call('GET', alive) == 'left' then return {{{WAIT}}} end
redis.call('SET', alive, 1, 'PX', lease)
if not redis.call('LPOS', line, token) then redis.call('RPUSH', line, token) end
redis.call('PEXPIRE', line, 2 * lease)
local head = redis.call('LINDEX', line, 0)
while head ~= token and redis.call('EXISTS', '{PREFIX}alive:' .. head) == 0 do
  redis.call('LPOP', line)
  head = redis.call('LINDEX', line, 0)
end
if head ~= token then return {{{WAIT}}} end
redis.call('ZREMRANGEBYSCORE', live, '-inf', now)
local found = redis.call('EXISTS', state) == 1
if found then
  redis.call('PEXPIRE', state, math.max(idle, 2 * lease))
  redis.call('ZADD', live, now + math.max(idle, 2 * lease), state)
elseif ARGV[4] == '1' then
  if redis.call('ZCARD', live) >= tonumber(ARGV[5]) then
    redis.call('LREM', line, 1, token)
    redis.call('DEL', alive)
    return {{{FULL}}}
  end
  redis.call('ZADD', live, now + 2 * lease, state)
end
local data = ''
if found then
  data = redis.pcall('GET', state)
  if type(data) ~= 'string' then data = '?' end -- not a string: not our key
end
return {{{TURN}, data, redis.call('EXISTS', mark), now}}
"""

# KEYS as above. ARGV: token, change, idle ms, marked ms, receipt ms, deadline in ms, state.
# Returns 1 if the token had the turn and the change is made, even if by an earlier call whose
# reply was lost.
LEAVE = """
local live, state, mark, line, alive = unpack(KEYS)
local token, change, idle = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = redis.call('LINDEX', line, 0) == token
redis.call('LREM', line, 1, token)
if redis.call('GET', alive) == 'left' then return 1 end
redis.call('DEL', alive)
if not own then return redis.call('GET', mark) == token and 1 or 0 end
if change ~= 'none' then
  if now > tonumber(ARGV[6]) then return 0 end
  redis.call('SET', alive, 'left', 'PX', ARGV[5])
end
if change == 'keep' then
  redis.call('SET', state, ARGV[7])
  redis.call('SET', mark, token)
elseif change == 'end' then
  redis.call('DEL', state, mark)
end
if redis.call('EXISTS', state) == 1 then
  redis.call('PEXPIRE', state, idle)
  redis.call('SET', mark, 1, 'NX')
  redis.call('PEXPIRE', mark, idle + tonumber(ARGV[4]))
  redis.call('ZADD', live, now + idle, state)
else
  redis.call('ZREM', live, state)
end
return 1
"""

# KEYS as above. ARGV: token, idle ms, marked ms, the state before the turn ('' for none).
# Reverts what a turn wrote, unless another turn has written since. A write of this turn that
# arrives later is refused, because the token no longer has the turn.
TAKE_BACK = """
local live, state, mark, line, alive = unpack(KEYS)
local token, idle, before = ARGV[1], tonumber(ARGV[2]), ARGV[4]
redis.call('LREM', line, 1, token)
local left = redis.call('GET', alive) == 'left'
redis.call('DEL', alive)
local last = redis.call('GET', mark)
local ended = left and not last and redis.call('EXISTS', state) == 0
if last ~= token and not ended then return 0 end
if before == '' then
  redis.call('DEL', state, mark)
  redis.call('ZREM', live, state)
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('SET', state, before, 'PX', idle)
  redis.call('SET', mark, 1, 'PX', idle + tonumber(ARGV[3]))
  redis.call('ZADD', live, now + idle, state)
end
return 1
"""

# KEYS as above. ARGV: token, lease ms, idle ms.
RENEW = """
local live, state, mark, line, alive = unpack(KEYS)
local lease, idle = tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('LINDEX', line, 0) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', alive, 1, 'PX', lease)
redis.call('PEXPIRE', line, 2 * lease)
redis.call('PEXPIRE', state, math.max(idle, 2 * lease))
redis.call('ZADD', live, 'XX', now + math.max(idle, 2 * lease), state)
return 1
"""
