-- Removes a share that no request has joined, and the incarnation if that was its only share.
--
-- KEYS[1] session, KEYS[2] incarnation, KEYS[3] ids
-- ARGV[1] share, ARGV[2] uid, ARGV[3] member of KEYS[3]
--
-- Returns 1 when the incarnation was removed, else 0.
redis.call('HDEL', KEYS[2], 'o:' .. ARGV[1], 't:' .. ARGV[1], 'n:' .. ARGV[1])
local notes = redis.call('HEXISTS', KEYS[2], 'rebuilt') + redis.call('HEXISTS', KEYS[2], 'opened')
if redis.call('HLEN', KEYS[2]) > notes then return 0 end
redis.call('DEL', KEYS[2])
local text = redis.call('GET', KEYS[1])
local fine, known = pcall(cjson.decode, text or '')
if fine and type(known) == 'table' and known.uid == ARGV[2] then redis.call('DEL', KEYS[1]) end
redis.call('SREM', KEYS[3], ARGV[3])
return 1
