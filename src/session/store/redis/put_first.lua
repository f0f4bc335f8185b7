-- Writes a document, unless this or a newer revision of it is stored.
--
-- KEYS[1] documents        hash of documents, by id; `*` is the stamp of the last change
-- ARGV[1] stamp            of this change
-- ARGV[2], ARGV[3], ARGV[4]   id, revision and document
--
-- Returns 1 if it was written. The same call again, because its answer was lost, also returns 1.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if stored == ARGV[4] then return 1 end
if stored then
  local fine, document = pcall(cjson.decode, stored)
  local is_known = fine and type(document) == 'table' and type(document.revision) == 'number'
  if is_known and document.revision >= tonumber(ARGV[3]) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4], '*', ARGV[1])
return 1
