-- Returns the sessions whose kill orders have changed, the oldest change first.
--
-- KEYS[1] kills            set of sessions with orders, by the time of the last change
-- ARGV[1] since            milliseconds since 1970
-- ARGV[2] offset           entries to skip
-- ARGV[3] limit            entries to return at most
--
-- Returns {now, {session, time, session, time, ...}}.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' then return {now, {}} end
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[3])}
