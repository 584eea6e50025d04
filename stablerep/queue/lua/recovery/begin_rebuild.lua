-- Begins a restore from the store. ARGV: token of the rebuild's lock. Returns the jobs to restore; none: all of them,
-- of which the queue forgets the leases and the shards that wait.
if redis.call('GET', REBUILD) ~= ARGV[1] then
  return redis.error_reply('REBUILDING is another process by now; this one was too slow')
end
local damaged = redis.call('SMEMBERS', DAMAGED)
if #damaged > 0 and has_group() and redis.call('SISMEMBER', DAMAGED, EVERY_JOB) == 0 then return damaged end
redis.call('DEL', READY, DELAYED)
return {}
