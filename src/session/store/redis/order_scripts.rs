//! What runs inside Redis about kill orders. A hash for each session (`killed:NAME`) has a field for each order:
//! `v`, its revision `rev`, and `order` with `until_ms`, or `lifted` with `forget_ms`. A set (`kills`) has the sessions
//! whose orders changed, by Redis' own clock.

/// KEYS killed. ARGV field, revision, 1 to win in any case, document without its version and revision.
/// Writes an order or its lifting, unless a newer one stands. Gives the revision. Fields that have been over for a
/// minute leave, and the key expires with the last of those that are left.
pub(super) const ORDER: &str = r#"
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
    -- A lifting without an end was written by an older version: its revision is its time.
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
"#;

/// KEYS kills. ARGV sessions. Notes by Redis' own clock that their orders changed.
pub(super) const NOTE: &str = r#"
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
for _, session in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, session) end
return now
"#;

/// KEYS kills. ARGV since, how many at that time to pass over, most. Gives the time, and the sessions whose orders
/// changed since, each with the time of it, the oldest first.
pub(super) const CHANGED: &str = r#"
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' then return {now, {}} end
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[3])}
"#;

/// KEYS kills. ARGV age, then sessions, each with the time at which it was noted. Takes those out that were not noted
/// again and are at least that old. Gives how many.
pub(super) const TRIM: &str = r#"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = 0
for i = 2, #ARGV, 2 do
  local score = tonumber(ARGV[i + 1])
  -- ZSCORE is no right that older versions asked for.
  if score <= now - ARGV[1] and tonumber(redis.call('ZADD', KEYS[1], 'XX', 'INCR', '0', ARGV[i]) or '') == score then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return gone
"#;
