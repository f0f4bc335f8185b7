//! What runs inside Redis, whole or not at all.
//!
//! An incarnation is a hash. Of each instance that has it, it holds a share under `o:INSTANCE:N` while
//! legs may still join there (until its first flush as it was opened, or empty), and under `c:INSTANCE:N` for good when none
//! can; `n:` is the number of the share's last version, `t:` when something moved last (milliseconds),
//! `end` why and when the incarnation ended, `record` who writes its record and `done` the shares that a record tells of,
//! each between two spaces. `rebuilt` is when (seconds of Redis' clock) an instance last wrote what the hash should have
//! held: Redis was wiped or failed over to a copy, and shares of others may be missing, too. Whatever is asked twice,
//! because an answer was lost, changes nothing the second time.

use super::order_scripts::{CHANGED, NOTE, ORDER, TRIM};
use crate::redis::Script;

/// The scripts, with their digests.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) admit: Script,
    pub(super) abandon: Script,
    pub(super) flush: Script,
    pub(super) end: Script,
    pub(super) close: Script,
    pub(super) again: Script,
    pub(super) done: Script,
    pub(super) order: Script,
    pub(super) note: Script,
    pub(super) changed: Script,
    pub(super) trim: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            admit: Script::new(ADMIT),
            abandon: Script::new(ABANDON),
            flush: Script::new(FLUSH),
            end: Script::new(END),
            close: Script::new(CLOSE),
            again: Script::new(AGAIN),
            done: Script::new(DONE),
            order: Script::new(ORDER),
            note: Script::new(NOTE),
            changed: Script::new(CHANGED),
            trim: Script::new(TRIM),
        }
    }
}

/// KEYS session, killed, ids, incarnation. ARGV now, most bytes, ttl, retention of ids, prefix of incarnations, share,
/// uid, member, document up to its incarnation. Gives how it went, the document, when something moved
/// last, and the kill orders: of more than 64 those that stand. What has been over for a minute is taken out, so that
/// only what stands counts against the bound.
const ADMIT: &str = r#"
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
    if left and left <= now - 60000 then over[#over + 1] = field
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
redis.call('HSET', hash, 't:' .. ARGV[6], ARGV[1])
redis.call('PEXPIRE', hash, ARGV[3])
redis.call('SADD', KEYS[3], ARGV[8])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'new', text, ARGV[1], orders}
"#;

/// KEYS session, incarnation, ids. ARGV share, uid, member. Takes back a share nothing joined.
const ABANDON: &str = r#"
redis.call('HDEL', KEYS[2], 'o:' .. ARGV[1], 't:' .. ARGV[1], 'n:' .. ARGV[1])
if redis.call('HLEN', KEYS[2]) > redis.call('HEXISTS', KEYS[2], 'rebuilt') then return 0 end
redis.call('DEL', KEYS[2])
local text = redis.call('GET', KEYS[1])
local fine, known = pcall(cjson.decode, text or '')
if fine and type(known) == 'table' and known.uid == ARGV[2] then redis.call('DEL', KEYS[1]) end
redis.call('SREM', KEYS[3], ARGV[3])
return 1
"#;

/// KEYS incarnation, session, ids. ARGV share, number, last activity, document, ttl, retention of ids,
/// member, document of the session. Prolongs the keys and never shortens them: instances may be configured
/// with different times while a change is rolled out. Gives the incarnation's end, if it has ended.
const FLUSH: &str = r#"
if redis.call('HEXISTS', KEYS[1], 'c:' .. ARGV[1]) == 0
  and (tonumber(redis.call('HGET', KEYS[1], 'n:' .. ARGV[1])) or 0) < tonumber(ARGV[2]) then
  if redis.call('HEXISTS', KEYS[1], 'o:' .. ARGV[1]) == 0 then
    redis.call('HSET', KEYS[1], 'rebuilt', redis.call('TIME')[1])
  end
  redis.call('HSET', KEYS[1], 'o:' .. ARGV[1], ARGV[4], 'n:' .. ARGV[1], ARGV[2], 't:' .. ARGV[1], ARGV[3])
end
local function prolong(key, ttl)
  local left = redis.call('PTTL', key)
  if left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
  return left
end
prolong(KEYS[1], ARGV[5])
local ended = redis.call('HGET', KEYS[1], 'end')
if not ended and prolong(KEYS[2], ARGV[5]) == -2 then
  redis.call('SET', KEYS[2], ARGV[8], 'PX', ARGV[5], 'NX')
end
redis.call('SADD', KEYS[3], ARGV[7])
prolong(KEYS[3], ARGV[6])
return ended or ''
"#;

/// KEYS incarnation, session. ARGV uid, end, state, ttl, since. Ends the incarnation, unless something
/// moved after `since` (empty: whatever moved). Gives `ended` or `busy`, and the end or the last movement.
const END: &str = r#"
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
"#;

/// KEYS incarnation. ARGV instance, ttl, seconds, then for each share its name and its last document (empty: the
/// one that was flushed last). Closes the shares; the one who closes the last share of an ended
/// incarnation gets all that no record tells of, to write the record; again, when the answer was lost. Where a share
/// was missing, those of others may be, too: then nobody gets it for so many seconds, in which they write theirs.
const CLOSE: &str = r#"
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
"#;

/// KEYS incarnation. ARGV ttl, share, document. Closes a share that was closed already, unless a record tells of it.
/// Claims nothing.
const AGAIN: &str = r#"
local done = redis.call('HGET', KEYS[1], 'done') or ''
if string.find(done, ' ' .. ARGV[2] .. ' ', 1, true) then return 0 end
redis.call('HDEL', KEYS[1], 'o:' .. ARGV[2], 'n:' .. ARGV[2])
if redis.call('HSET', KEYS[1], 'c:' .. ARGV[2], ARGV[3]) == 1 then
  redis.call('HSET', KEYS[1], 'rebuilt', redis.call('TIME')[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
"#;

/// KEYS incarnation. ARGV ttl, then the shares that the record tells of. It is written: what it was made of may go.
const DONE: &str = r#"
local done = redis.call('HGET', KEYS[1], 'done') or ' '
for i = 2, #ARGV do
  local share = ARGV[i]
  redis.call('HDEL', KEYS[1], 'o:' .. share, 'c:' .. share, 'n:' .. share, 't:' .. share)
  if not string.find(done, ' ' .. share .. ' ', 1, true) then done = done .. share .. ' ' end
end
redis.call('HDEL', KEYS[1], 'record')
redis.call('HSET', KEYS[1], 'done', done)
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
"#;
