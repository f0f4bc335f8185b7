-- Marks shares as covered by a record that has been written, and removes them.
--
-- KEYS[1] incarnation
-- ARGV[1] ttl in milliseconds, ARGV[2], ... names of the shares
local done = redis.call('HGET', KEYS[1], 'done') or ' '
for i = 2, #ARGV do
  local share = ARGV[i]
  redis.call('HDEL', KEYS[1], 'o:' .. share, 'c:' .. share, 'n:' .. share, 't:' .. share)
  if not string.find(done, ' ' .. share .. ' ', 1, true) then done = done .. share .. ' ' end
end
redis.call('HDEL', KEYS[1], 'record')
redis.call('HSET', KEYS[1], 'done', done)
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
