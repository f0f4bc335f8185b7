-- Removes accounts that are gone from the set of changes, in one part of it.
--
-- KEYS[1] changed          set of accounts by the time of their last change
-- ARGV[1] from             where the part begins: milliseconds since 1970
-- ARGV[2] minimum age      in milliseconds: instances that run have read older changes
-- ARGV[3] limit            changes to look at
-- ARGV[4] prefix           of accounts
--
-- Returns where the next part begins, or 0 after the last one.
local time = redis.call('TIME')
local until_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2])
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], until_ms, 'WITHSCORES', 'LIMIT', '0', ARGV[3])
local last, removed = tonumber(ARGV[1]), 0
for i = 1, #found, 2 do
  if redis.call('EXISTS', ARGV[4] .. found[i]) == 0 then removed = removed + redis.call('ZREM', KEYS[1], found[i]) end
  last = tonumber(found[i + 1])
end
if #found < 2 * ARGV[3] then return '0' end
-- More accounts than fit may have changed in one millisecond.
if last == tonumber(ARGV[1]) and removed == 0 then last = last + 1 end
return string.format('%.0f', last)
