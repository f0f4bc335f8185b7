-- Compares the principals' key of an instance with the one in Redis, and writes it if asked to.
--
-- KEYS[1] principals       the key
-- KEYS[2] agreed           hash: `of`, the digest of the key that `ms` refers to; `ms`, since when a fleet has agreed on
--                          that key; `other:DIGEST`, when an instance with another key was last seen
-- ARGV[1] own key
-- ARGV[2] since            when a fleet agreed on the own key, milliseconds since 1970; 0 if unknown
-- ARGV[3] other key        what to do if Redis has another key: `look` does nothing, `note` records that two keys are in
--                          use, `replace` replaces one that a fleet agreed on later, else does the same as `note`
-- ARGV[4] missing key      what to do if Redis has none: `keep` or `write`
--
-- Returns {outcome, key in force, since, 1 if two keys were in use within the last day}. The outcome is `same`,
-- `written`, `replaced`, `other` or `missing`.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own, since = ARGV[1], tonumber(ARGV[2])
local digest = redis.sha1hex(own)
for _, key in ipairs(KEYS) do
  local kind, wanted = redis.call('TYPE', key).ok, key == KEYS[1] and 'string' or 'hash'
  if kind ~= 'none' and kind ~= wanted then redis.call('DEL', key) end
end
local function agreed(at)
  redis.call('HSET', KEYS[2], 'of', digest, 'ms', string.format('%.0f', at))
end
local kept = redis.call('GET', KEYS[1])
local how, theirs = 'same', 0
if kept then
  local of = redis.sha1hex(kept)
  if redis.call('HGET', KEYS[2], 'of') == of then theirs = tonumber(redis.call('HGET', KEYS[2], 'ms')) or 0 end
end
if not kept then
  if ARGV[4] ~= 'write' then return {'missing', '', '0', 0} end
  how, theirs = 'written', since > 0 and since or now
  redis.call('SET', KEYS[1], own)
  agreed(theirs)
elseif kept == own then
  local first = theirs
  if first == 0 then first = since > 0 and since or now end
  if since > 0 and since < first then first = since end
  if first ~= theirs then agreed(first) end
  theirs = first
elseif ARGV[3] == 'replace' and since > 0 and (theirs == 0 or since < theirs) then
  how, theirs = 'replaced', since
  redis.call('SET', KEYS[1], own)
  agreed(since)
  redis.call('HSET', KEYS[2], 'other:' .. redis.sha1hex(kept), string.format('%.0f', now))
else
  how = 'other'
  if ARGV[3] ~= 'look' then redis.call('HSET', KEYS[2], 'other:' .. digest, string.format('%.0f', now)) end
end
local mixed, all = 0, redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 6) == 'other:' then
    if (tonumber(all[i + 1]) or 0) < now - 86400000 then redis.call('HDEL', KEYS[2], all[i]) else mixed = 1 end
  end
end
return {how, how == 'other' and kept or own, string.format('%.0f', theirs), mixed}
