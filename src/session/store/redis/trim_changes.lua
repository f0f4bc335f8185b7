-- Removes sessions from the set of changes if they have not changed again and the change is old enough.
--
-- KEYS[1] kills            set of sessions with orders, by the time of the last change
-- ARGV[1] minimum age      in milliseconds
-- ARGV[2], ARGV[3], ...    each session and the time of its change as it was read
--
-- Returns how many were removed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = 0
for i = 2, #ARGV, 2 do
  local score = tonumber(ARGV[i + 1])
  -- ZADD instead of ZSCORE: users created for older versions lack the right to call ZSCORE.
  if score <= now - ARGV[1] and tonumber(redis.call('ZADD', KEYS[1], 'XX', 'INCR', '0', ARGV[i]) or '') == score then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return gone
