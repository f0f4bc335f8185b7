-- Closes shares. The instance that closes the last share of an ended incarnation receives all shares that no record
-- covers yet, in order to write the record. It receives them again if it repeats the call because an answer was lost.
--
-- KEYS[1] incarnation
-- ARGV[1] instance
-- ARGV[2] ttl              in milliseconds
-- ARGV[3] grace            in seconds
-- ARGV[4], ARGV[5], ...    name and last document of each share; an empty document keeps the one flushed last
--
-- If a share was missing, shares of other instances may be missing as well. Nobody receives the shares during the
-- grace period, so that each instance can write its own again.
--
-- Returns {'active'}, {'waiting'}, {'recorded'}, {'claimed', instance} or {'record', fields, 1 if another record
-- covers other shares}.
local now = redis.call('TIME')[1]
local done = redis.call('HGET', KEYS[1], 'done') or ''
local function is_told(share) return string.find(done, ' ' .. share .. ' ', 1, true) end
for i = 4, #ARGV, 2 do
  local share, text = ARGV[i], ARGV[i + 1]
  if text ~= '' and not is_told(share) and redis.call('HEXISTS', KEYS[1], 'o:' .. share) == 0
    and redis.call('HEXISTS', KEYS[1], 'c:' .. share) == 0 then
    redis.call('HSET', KEYS[1], 'rebuilt', now)
  end
  if text == '' then text = redis.call('HGET', KEYS[1], 'o:' .. share) or '' end
  redis.call('HDEL', KEYS[1], 'o:' .. share, 'n:' .. share)
  if text ~= '' and not is_told(share) then redis.call('HSET', KEYS[1], 'c:' .. share, text) end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('HEXISTS', KEYS[1], 'end') == 0 then return {'active'} end
local fields = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local kind = string.sub(field, 1, 2)
  if kind == 'o:' then return {'waiting'} end
  if kind == 'c:' and not is_told(string.sub(field, 3)) or field == 'end' then
    fields[#fields + 1] = field
    fields[#fields + 1] = redis.call('HGET', KEYS[1], field)
  end
end
if done ~= '' and #fields == 2 then return {'recorded'} end
local rebuilt = tonumber(redis.call('HGET', KEYS[1], 'rebuilt'))
if rebuilt and tonumber(now) - rebuilt <= tonumber(ARGV[3]) then return {'waiting'} end
local by = redis.call('HGET', KEYS[1], 'record')
if by and by ~= ARGV[1] then return {'claimed', by} end
redis.call('HSET', KEYS[1], 'record', ARGV[1])
return {'record', fields, done == '' and 0 or 1}
