-- Writes a share, unless it is closed or a newer version of it is stored, and extends the lifetime of the keys.
--
-- KEYS[1] incarnation, KEYS[2] session, KEYS[3] ids
-- ARGV[1] share
-- ARGV[2] version          of the share; increases with each write
-- ARGV[3] last activity    milliseconds since 1970
-- ARGV[4] document         of the share
-- ARGV[5] ttl              of incarnation and session, in milliseconds
-- ARGV[6] ttl of ids       in milliseconds
-- ARGV[7] member           of KEYS[3]
-- ARGV[8] document         of the session, written if KEYS[2] is missing; empty to be asked for it
-- ARGV[9] age              of the session in milliseconds; empty if another instance opened it
--
-- Lifetimes are extended, never shortened: while a change is rolled out, instances may have different settings.
-- Returns the end of the incarnation, an empty string while it is active, or `missing` if KEYS[2] is and ARGV[8] is empty.
if redis.call('HEXISTS', KEYS[1], 'c:' .. ARGV[1]) == 0
  and (tonumber(redis.call('HGET', KEYS[1], 'n:' .. ARGV[1])) or 0) < tonumber(ARGV[2]) then
  if redis.call('HEXISTS', KEYS[1], 'o:' .. ARGV[1]) == 0 then
    local time = redis.call('TIME')
    redis.call('HSET', KEYS[1], 'rebuilt', time[1])
    if ARGV[9] ~= '' then
      local opened = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[9]
      redis.call('HSETNX', KEYS[1], 'opened', string.format('%.0f', opened))
    end
  end
  redis.call('HSET', KEYS[1], 'o:' .. ARGV[1], ARGV[4], 'n:' .. ARGV[1], ARGV[2], 't:' .. ARGV[1], ARGV[3])
end
local function prolong(key, ttl)
  local left = redis.call('PTTL', key)
  if left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
  return left
end
prolong(KEYS[1], ARGV[5])
local ended = redis.call('HGET', KEYS[1], 'end')
local missing = not ended and prolong(KEYS[2], ARGV[5]) == -2
if missing and ARGV[8] ~= '' then
  redis.call('SET', KEYS[2], ARGV[8], 'PX', ARGV[5], 'NX')
  missing = false
end
redis.call('SADD', KEYS[3], ARGV[7])
prolong(KEYS[3], ARGV[6])
return missing and 'missing' or ended or ''
