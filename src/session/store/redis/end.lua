-- Ends an incarnation, unless it has been active after a given time.
--
-- KEYS[1] incarnation, KEYS[2] session
-- ARGV[1] uid
-- ARGV[2] end              JSON with the reason and the time
-- ARGV[3] state            final state of the session
-- ARGV[4] ttl              in milliseconds
-- ARGV[5] since            milliseconds since 1970; empty ends the incarnation in any case
--
-- Returns {'ended', end} with the end that is stored, which may be an earlier one, or {'busy', last activity}.
local known = redis.call('HGET', KEYS[1], 'end')
if known then return {'ended', known} end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], 'rebuilt', redis.call('TIME')[1]) end
if ARGV[5] ~= '' then
  local last = 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 2) == 't:' then
      last = math.max(last, tonumber(redis.call('HGET', KEYS[1], field)) or 0)
    end
  end
  if last > tonumber(ARGV[5]) then return {'busy', string.format('%.0f', last)} end
end
redis.call('HSET', KEYS[1], 'end', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local text = redis.call('TYPE', KEYS[2]).ok == 'string' and redis.call('GET', KEYS[2]) or ''
local fine, session = pcall(cjson.decode, text)
if fine and type(session) == 'table' and session.uid == ARGV[1] then
  text = string.gsub(text, '"state":"active"', '"state":"' .. ARGV[3] .. '"', 1)
  redis.call('SET', KEYS[2], text, 'PX', ARGV[4])
end
return {'ended', ARGV[2]}
