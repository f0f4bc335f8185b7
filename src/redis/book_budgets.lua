-- Stores what an instance has spent and holds of budgets; asked for more, grants it or says what is in its way.
--
-- An account is a hash: `spent` and `held` are sums over all instances; of each instance there are `s:INSTANCE`, what it has
-- spent, `h:INSTANCE`, what it holds, `f:INSTANCE`, what its open requests cost at least, and `x:INSTANCE`, what was charged
-- for them when it was gone. Of the first three only the instance writes new values, and always whole ones: a call that is
-- repeated changes nothing, and after a loss all of it can be written again.
--
-- KEYS[1] instances        hash: `until:INSTANCE`, when its lease ends; `seq:INSTANCE`, its last call; `rebuilding`, until
--                          when nothing is granted, because the accounts were lost
-- KEYS[2] changed          set of accounts by the time of their last change
-- KEYS[3] of               set of the accounts of which the instance holds something
-- ARGV[1] instance
-- ARGV[2] number           of the call; an earlier one that comes late changes nothing
-- ARGV[3] lease            in milliseconds
-- ARGV[4] mode             `ask`, `report`, or `leave` for the last report
-- ARGV[5] registered       1 if the instance has called before
-- ARGV[6] prefix           of accounts
-- ARGV[7] prefix           of the sets of instances
-- ARGV[8] sweeps           how many accounts of instances that are gone are looked after at most
-- then for each account: name, ttl in milliseconds or 0, spent, hold, floor, need, limit, most that is granted beyond
--
-- Returns {'late'}, {'spent' or 'held', position, spent, known}, or {'booked', known, then for each account spent, held,
-- granted}. `known` is 1 unless the instance was forgotten since its last call.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, mode = ARGV[1], ARGV[4]
local function text(number) return string.format('%.0f', number) end
local function get(key, field) return tonumber(redis.call('HGET', key, field) or 0) or 0 end
local function add(key, field, number)
  if number ~= 0 then redis.call('HSET', key, field, text(math.max(get(key, field) + number, 0))) end
end
local function touch(name) redis.call('ZADD', KEYS[2], text(now), name) end

if get(KEYS[1], 'seq:' .. me) >= tonumber(ARGV[2]) then return {'late'} end
local known = redis.call('HEXISTS', KEYS[1], 'until:' .. me)
if known == 0 and ARGV[5] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'rebuilding', text(now + 3000))
end

-- Instances that are gone: what they hold is released, what their requests cost at least is charged.
local instances, left = 1, tonumber(ARGV[8])
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local other = string.sub(fields[i], 1, 6) == 'until:' and string.sub(fields[i], 7)
  if other and other ~= me then
    instances = instances + 1
    if tonumber(fields[i + 1]) < now and left > 0 then
      local set = ARGV[7] .. other
      for _, name in ipairs(redis.call('SSCAN', set, '0', 'COUNT', '20')[2]) do
        local key = ARGV[6] .. name
        local held, floor = get(key, 'h:' .. other), get(key, 'f:' .. other)
        if held > 0 or floor > 0 then
          add(key, 'held', -held)
          add(key, 'spent', floor)
          add(key, 'x:' .. other, floor)
          redis.call('HSET', key, 'h:' .. other, '0', 'f:' .. other, '0')
          touch(name)
        end
        redis.call('SREM', set, name)
        left = left - 1
      end
      if redis.call('EXISTS', set) == 0 then
        redis.call('HDEL', KEYS[1], 'until:' .. other, 'seq:' .. other)
      end
    end
  end
end

local accounts = {}
for i = 9, #ARGV, 8 do
  local name = ARGV[i]
  local key = ARGV[6] .. name
  local account = {
    name = name, key = key, ttl = tonumber(ARGV[i + 1]), own = tonumber(ARGV[i + 2]), hold = tonumber(ARGV[i + 3]),
    floor = tonumber(ARGV[i + 4]), need = tonumber(ARGV[i + 5]), limit = tonumber(ARGV[i + 6]), most = tonumber(ARGV[i + 7])
  }
  -- An instance that comes back has not lost its requests.
  account.charged = get(key, 'x:' .. me)
  account.new = math.max(account.own - get(key, 's:' .. me), 0)
  account.had = get(key, 'h:' .. me)
  account.spent = get(key, 'spent') - account.charged + account.new
  account.held = get(key, 'held') - account.had
  accounts[#accounts + 1] = account
end
if mode == 'ask' then
  for i, account in ipairs(accounts) do
    if account.spent + account.need > account.limit then return {'spent', text(i), text(account.spent), text(known)} end
  end
  local is_rebuilding = get(KEYS[1], 'rebuilding') > now
  for i, account in ipairs(accounts) do
    if is_rebuilding or account.spent + account.held + account.hold > account.limit then
      return {'held', text(i), text(account.spent), text(known)}
    end
  end
end
redis.call('HSET', KEYS[1], 'seq:' .. me, ARGV[2], 'until:' .. me, text(now + tonumber(ARGV[3])))
local answer = {'booked', text(known)}
for _, account in ipairs(accounts) do
  local granted = account.hold
  if mode == 'ask' then
    local free = account.limit - account.spent - account.held - account.hold
    granted = granted + math.max(math.min(account.most, math.floor(free / 8 / instances)), 0)
  end
  redis.call('HSET', account.key, 'spent', text(account.spent), 'held', text(account.held + granted),
    'h:' .. me, text(granted), 'f:' .. me, text(account.floor))
  if account.new > 0 then redis.call('HSET', account.key, 's:' .. me, text(account.own)) end
  if account.charged > 0 then redis.call('HDEL', account.key, 'x:' .. me) end
  if account.ttl > 0 then redis.call('PEXPIRE', account.key, text(account.ttl)) else redis.call('PERSIST', account.key) end
  redis.call(granted > 0 and 'SADD' or 'SREM', KEYS[3], account.name)
  touch(account.name)
  answer[#answer + 1] = text(account.spent)
  answer[#answer + 1] = text(account.held + granted)
  answer[#answer + 1] = text(granted)
end
if mode == 'leave' and redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[1], 'until:' .. me, 'seq:' .. me)
end
return answer
