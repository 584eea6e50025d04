-- Names of the jobs that are still being planned.
local names = {}
for _, ds in ipairs(redis.call('SMEMBERS', JOBS)) do
  if state_of(ds) == 'PLANNING' then table.insert(names, ds) end
end
return names
