-- Admits a request: checks the kill orders, then joins the active incarnation of the session or opens a new one.
--
-- KEYS[1] session          JSON of the newest incarnation
-- KEYS[2] killed           hash of kill orders against the session and its agents
-- KEYS[3] ids              set of the incarnations of the id
-- KEYS[4] incarnation      hash of the proposed incarnation (the script builds the name itself; a cluster routes by it)
-- ARGV[1] now              milliseconds since 1970, by the clock of Redis as far as the instance knows it
-- ARGV[2] largest value    in bytes; a larger value was not written by ELIDA
-- ARGV[3] ttl              of the incarnation, in milliseconds
-- ARGV[4] ttl of ids       in milliseconds
-- ARGV[5] prefix           of the names of incarnations of this session
-- ARGV[6] share            INSTANCE:NUMBER
-- ARGV[7] uid              of the proposed incarnation
-- ARGV[8] member           of KEYS[3]
-- ARGV[9] document         of the proposed incarnation, up to its key "incarnation"
--
-- Returns {outcome, document, last activity, kill orders}. The outcome is `new`, `join`, `killed`, or `unreadable`
-- with the name of the key. If the hash has more than 64 orders, only those in force are returned. Orders that expired
-- more than a minute ago by the clock of Redis are removed: an instance whose clock is ahead removes none that holds
-- elsewhere. Only orders in force count against the bound of 1024.
local time = redis.call('TIME')
local here = time[1] * 1000 + math.floor(time[2] / 1000)
local now, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local orders, standing = {}, 0
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' then
  if kind ~= 'hash' then return {'unreadable', KEYS[2]} end
  local many, over = redis.call('HLEN', KEYS[2]) > 64, {}
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if redis.call('HSTRLEN', KEYS[2], field) > most then return {'unreadable', KEYS[2]} end
    local text = redis.call('HGET', KEYS[2], field)
    local fine, order = pcall(cjson.decode, text)
    fine = fine and type(order) == 'table' and order.v == 1
    local left = fine and not order.lifted and tonumber(order.until_ms)
    local stands = not fine or not (order.lifted or left and left <= now)
    if field == '*' and not fine then return {'unreadable', KEYS[2]} end
    if field == '*' and stands then standing = math.huge end
    if stands then standing = standing + 1 end
    if left and left <= here - 60000 then over[#over + 1] = field
    elseif stands or not many or field == '*' then
      orders[#orders + 1] = field
      orders[#orders + 1] = text
    end
  end
  for i = 1, #over, 1000 do redis.call('HDEL', KEYS[2], unpack(over, i, math.min(i + 999, #over))) end
  if standing == math.huge then return {'killed', '', '', orders} end
  if standing > 1024 then return {'unreadable', KEYS[2]} end
end
local incarnation, previous = 1, 'null'
kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' then
  if kind ~= 'string' or redis.call('STRLEN', KEYS[1]) > most then return {'unreadable', KEYS[1]} end
  local text = redis.call('GET', KEYS[1])
  local fine, known = pcall(cjson.decode, text)
  if not fine or type(known) ~= 'table' or known.v ~= 1 or type(known.uid) ~= 'string'
    or type(known.incarnation) ~= 'number' then
    return {'unreadable', KEYS[1]}
  end
  if known.state == 'active' then
    local hash, last = ARGV[5] .. known.uid, 0
    local is = redis.call('TYPE', hash).ok
    if is ~= 'none' and is ~= 'hash' then return {'unreadable', hash} end
    if redis.call('HEXISTS', hash, 'end') == 0 then
      for _, field in ipairs(redis.call('HKEYS', hash)) do
        if string.sub(field, 1, 2) == 't:' then
          last = math.max(last, tonumber(redis.call('HGET', hash, field)) or 0)
        end
      end
      if is == 'none' then redis.call('HSET', hash, 'rebuilt', redis.call('TIME')[1]) end
      redis.call('HSETNX', hash, 'o:' .. ARGV[6], '')
      if redis.call('PTTL', hash) < tonumber(ARGV[3]) then redis.call('PEXPIRE', hash, ARGV[3]) end
      return {'join', text, string.format('%.0f', last), orders}
    end
  end
  incarnation, previous = known.incarnation + 1, cjson.encode(known.uid)
end
local text = ARGV[9] .. ',"incarnation":' .. string.format('%d', incarnation) .. ',"previous_id":' .. previous .. '}'
redis.call('SET', KEYS[1], text, 'PX', ARGV[3])
local hash = ARGV[5] .. ARGV[7]
redis.call('HSETNX', hash, 'o:' .. ARGV[6], text)
redis.call('HSET', hash, 't:' .. ARGV[6], ARGV[1], 'opened', string.format('%.0f', here))
redis.call('PEXPIRE', hash, ARGV[3])
redis.call('SADD', KEYS[3], ARGV[8])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'new', text, ARGV[1], orders}
