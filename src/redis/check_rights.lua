-- Runs commands and reports those that the user may not run. Any other error is ignored.
--
-- KEYS[1] key
-- ARGV    commands; the word KEY is replaced by KEYS[1]
--
-- Returns the commands that were refused.
local refused = {}
for _, line in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(line, '%S+') do words[#words + 1] = word == 'KEY' and KEYS[1] or word end
  local answer = redis.pcall(unpack(words))
  local fault = type(answer) == 'table' and answer.err or ''
  if string.find(fault, 'ACL failure', 1, true) or string.find(fault, 'NOPERM', 1, true)
    or string.find(fault, 'The user executing the script', 1, true) then
    refused[#refused + 1] = line
  end
end
return refused
