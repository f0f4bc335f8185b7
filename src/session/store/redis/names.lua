-- Returns a page of the incarnations of an id.
--
-- KEYS[1] ids              set of the incarnations of the id
-- ARGV[1] cursor           0 at the beginning
-- ARGV[2] count            entries to return, about
--
-- Returns {now in milliseconds since 1970, cursor of the next page or 0, incarnations}.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local page = redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
return {now, page[1], page[2]}
