-- Writes again what other instances had spent of accounts, after Redis has lost it.
--
-- KEYS[1] instances        hash, see book_budgets.lua
-- KEYS[2] changed          set of accounts by the time of their last change
-- ARGV[1] prefix           of accounts
-- then for each value: the account, its ttl in milliseconds or 0, the field (`s:INSTANCE` or `x:INSTANCE`), the value
--
-- Each value only grows while nothing is lost, so the larger one counts; and nothing is written unless the accounts were
-- lost, because an instance that came back has removed its `x`.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lost = tonumber(redis.call('HGET', KEYS[1], 'rebuilding') or 0) or 0
if lost < now then return 0 end
for i = 2, #ARGV, 4 do
  local key, field, value = ARGV[1] .. ARGV[i], ARGV[i + 2], tonumber(ARGV[i + 3])
  local more = value - (tonumber(redis.call('HGET', key, field) or 0) or 0)
  if more > 0 then
    local spent = (tonumber(redis.call('HGET', key, 'spent') or 0) or 0) + more
    redis.call('HSET', key, field, ARGV[i + 3], 'spent', string.format('%.0f', spent))
    if tonumber(ARGV[i + 1]) > 0 then redis.call('PEXPIRE', key, ARGV[i + 1]) end
    redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[i])
  end
end
return 1
