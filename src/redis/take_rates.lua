-- Takes units of rates for one request, of all or of none, and grants the instance more for the next ones.
--
-- A rate is a hash: `level` in units x milliseconds of the period at the time `at`, as in `limits/bucket.rs`; `held`, the sum
-- of what instances were granted and have not reported as taken; `h:INSTANCE`, what one was granted; `s:WRITER`, what a
-- counter of an instance has taken in all. An instance always writes its whole sum, so that a repeated call changes nothing.
-- The level and what is held together never pass the burst.
--
-- KEYS[1] instances        hash: `until:INSTANCE`, when its lease ends; `seq:INSTANCE`, its last call; `rebuilding`, until
--                          when nothing is taken, because the levels were lost
-- KEYS[2] of               set of the rates of which the instance was granted something
-- ARGV[1] instance
-- ARGV[2] number           of the call; an earlier one that comes late changes nothing
-- ARGV[3] lease            in milliseconds
-- ARGV[4] mode             `ask`, `report`, or `leave` for the last report
-- ARGV[5] registered       1 if the instance has called before
-- ARGV[6] prefix           of rates
-- ARGV[7] prefix           of the sets of instances
-- ARGV[8] sweeps           how many rates of instances that are gone are looked after at most
-- then for each rate: name, writer, count, burst, period, taken in all, of it reported, level as the instance knows it, what
-- it keeps of its grant, cost, longest wait, most that is granted
--
-- Returns {'late'}, {'rebuilding', known}, {'refused', position, wait, known}, or {'taken', known, instances, then for each
-- rate level, grant, wait}. `known` is 1 unless the instance was forgotten since its last call.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, mode, most_level = ARGV[1], ARGV[4], 9007199254740992
local function text(number) return string.format('%.0f', number) end
local function get(key, field) return tonumber(redis.call('HGET', key, field) or 0) or 0 end

if get(KEYS[1], 'seq:' .. me) >= tonumber(ARGV[2]) then return {'late'} end
local known = redis.call('HEXISTS', KEYS[1], 'until:' .. me)
if known == 0 and ARGV[5] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'rebuilding', text(now + 3000))
end
local is_rebuilding = get(KEYS[1], 'rebuilding') > now

-- Instances that are gone: what they were granted counts as taken.
local instances, left = 1, tonumber(ARGV[8])
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local other = string.sub(fields[i], 1, 6) == 'until:' and string.sub(fields[i], 7)
  if other and other ~= me then
    if tonumber(fields[i + 1]) >= now then
      instances = instances + 1
    elseif left > 0 then
      local set = ARGV[7] .. other
      for _, name in ipairs(redis.call('SSCAN', set, '0', 'COUNT', '20')[2]) do
        local key = ARGV[6] .. name
        local had, period = get(key, 'h:' .. other), get(key, 'period')
        if had > 0 then
          redis.call('HSET', key, 'held', text(math.max(get(key, 'held') - had, 0)),
            'level', text(math.min(get(key, 'level') + had * period, most_level)))
          redis.call('HDEL', key, 'h:' .. other)
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

local rates = {}
for i = 9, #ARGV, 12 do
  local function number(place) return tonumber(ARGV[i + place]) end
  local key, writer = ARGV[6] .. ARGV[i], 's:' .. ARGV[i + 1]
  local count, burst, period, own, saved = number(2), number(3), number(4), number(5), number(6)
  local at = tonumber(redis.call('HGET', key, 'at') or now)
  local level = math.max(get(key, 'level') - math.max(now - at, 0) * count, 0)
  -- The clock of a server that takes over may be behind.
  at = math.max(at, now)
  local stored = tonumber(redis.call('HGET', key, writer) or false)
  if is_rebuilding or (not stored and saved ~= 0) then level = math.max(level, number(7)) end
  level = math.max(math.min(level + (own - (stored or saved)) * period, most_level), 0)
  local others = math.max(get(key, 'held') - get(key, 'h:' .. me), 0)
  local rate = {
    name = ARGV[i], key = key, writer = writer, count = count, period = period, own = own, level = level, others = others,
    at = at, keep = number(8), cost = number(9), ahead = number(10), most = number(11), full = burst * period, wait = 0
  }
  local room = rate.full - math.min(rate.cost, burst) * period
  local over = level + (others + rate.keep) * period - room
  if over > 0 then rate.wait = math.ceil(over / count) end
  rates[#rates + 1] = rate
end
if mode == 'ask' then
  if is_rebuilding then return {'rebuilding', text(known)} end
  for i, rate in ipairs(rates) do
    if rate.wait > rate.ahead then return {'refused', text(i), text(rate.wait), text(known)} end
  end
end
redis.call('HSET', KEYS[1], 'seq:' .. me, ARGV[2], 'until:' .. me, text(now + tonumber(ARGV[3])))
local answer = {'taken', text(known), text(instances)}
for _, rate in ipairs(rates) do
  local grant = rate.keep
  if mode == 'ask' then
    rate.level = math.min(rate.level + rate.cost * rate.period, most_level)
    rate.own = rate.own + rate.cost
    local free = math.floor((rate.full - rate.level) / rate.period) - rate.others
    grant = math.max(math.min(rate.most, math.floor(free / 8 / instances)), 0)
  end
  local held = rate.others + grant
  redis.call('HSET', rate.key, 'level', text(rate.level), 'at', text(rate.at), 'held', text(held),
    'h:' .. me, text(grant), rate.writer, text(rate.own), 'period', text(rate.period))
  -- As long as something is in it, and as what is held may still be taken.
  redis.call('PEXPIRE', rate.key, text(math.ceil((rate.level + held * rate.period) / rate.count) + 60000))
  redis.call(grant > 0 and 'SADD' or 'SREM', KEYS[2], rate.name)
  answer[#answer + 1] = text(rate.level)
  answer[#answer + 1] = text(grant)
  answer[#answer + 1] = text(rate.wait)
end
if mode == 'leave' and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HDEL', KEYS[1], 'until:' .. me, 'seq:' .. me)
end
return answer
