-- Records, by the clock of Redis, that the kill orders of sessions have changed.
--
-- KEYS[1] kills            set of sessions with orders, by the time of the last change
-- ARGV                     sessions
--
-- Returns the time in milliseconds since 1970.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
for _, session in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, session) end
return now
