-- Writes documents of client keys, unless newer ones are stored.
--
-- KEYS[1] keys             hash of documents, by id; `*` is the stamp of the last change
-- ARGV[1] stamp            of this change
-- ARGV[2], ARGV[3], ARGV[4], ...   id, revision and document of each key
--
-- Of two documents with the same revision the greater text counts, so that all instances agree. Returns the stamp before,
-- which is empty without one, and the stamp after.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local before, changed = redis.call('HGET', KEYS[1], '*') or '', false
for i = 2, #ARGV, 3 do
  local revision, known = tonumber(ARGV[i + 1]), -1
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if stored then
    local fine, document = pcall(cjson.decode, stored)
    if fine and type(document) == 'table' and type(document.revision) == 'number' then known = document.revision end
  end
  if revision > known or revision == known and ARGV[i + 2] > stored then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    changed = true
  end
end
if not changed and before ~= '' then return {before, before} end
redis.call('HSET', KEYS[1], '*', ARGV[1])
return {before, ARGV[1]}
