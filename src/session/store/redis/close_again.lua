-- Closes a share once more, unless a record covers it. Never claims the record.
--
-- KEYS[1] incarnation
-- ARGV[1] ttl in milliseconds, ARGV[2] share, ARGV[3] document
local done = redis.call('HGET', KEYS[1], 'done') or ''
if string.find(done, ' ' .. ARGV[2] .. ' ', 1, true) then return 0 end
redis.call('HDEL', KEYS[1], 'o:' .. ARGV[2], 'n:' .. ARGV[2])
if redis.call('HSET', KEYS[1], 'c:' .. ARGV[2], ARGV[3]) == 1 then
  redis.call('HSET', KEYS[1], 'rebuilt', redis.call('TIME')[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
