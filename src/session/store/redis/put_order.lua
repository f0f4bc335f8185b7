-- Writes a kill order or its lifting, unless a newer one is stored.
--
-- KEYS[1] killed           hash of kill orders of the session
-- ARGV[1] field            `*` for the session, else the name of the agent
-- ARGV[2] revision
-- ARGV[3] 1 to replace what is stored in any case, with a higher revision
-- ARGV[4] document         without its keys `v` and `rev`
--
-- Returns the revision that is stored. Fields that expired more than a minute ago are removed; the key expires with
-- the last of the fields that remain.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local revision, known = tonumber(ARGV[2]), 0
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored then
  local fine, order = pcall(cjson.decode, stored)
  if fine and type(order) == 'table' and type(order.rev) == 'number' then known = order.rev end
end
if known >= revision then
  if ARGV[3] ~= '1' then return string.format('%.0f', known) end
  revision = known + 1
end
redis.call('HSET', KEYS[1], ARGV[1], '{"v":1,"rev":' .. string.format('%.0f', revision) .. ',' .. ARGV[4])
local last, over, fields = 0, {}, redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local fine, order = pcall(cjson.decode, fields[i + 1])
  local ends = math.huge
  if fine and type(order) == 'table' then
    -- Older versions wrote liftings without an end; their revision is the time.
    if order.lifted then ends = tonumber(order.forget_ms) or (tonumber(order.rev) or now) + 2592000000
    else ends = tonumber(order.until_ms) or math.huge end
  end
  if fields[i] ~= ARGV[1] and ends <= now - 60000 then over[#over + 1] = fields[i]
  else last = math.max(last, ends) end
end
for i = 1, #over, 1000 do redis.call('HDEL', KEYS[1], unpack(over, i, math.min(i + 999, #over))) end
if last == math.huge then redis.call('PERSIST', KEYS[1])
else redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(1, last - now))) end
return string.format('%.0f', revision)
