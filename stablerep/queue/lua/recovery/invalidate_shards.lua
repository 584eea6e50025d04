-- Takes shards back whose objects are no longer there, to be made again, and corrects what the done ones hold.
-- ARGV: lock, its token, dataset, job_uid and restore_time of the job that was looked at, a text of this call's own
-- (a repeated call changes nothing), groups, images, skipped and worker_ms to add (the last to an uncounted job alone:
-- the time of shards that are lost was spent all the same), how many of the shards were done when they were looked at
-- (these come first), shards. One that was not and is now was made meanwhile, and stays.
-- Returns 1; 0 if the job was deleted or restored since it was looked at: it is another's counts that it has now.
local ds = ARGV[3]
if redis.call('GET', ARGV[1]) ~= ARGV[2] then
  return redis.error_reply('REBUILDING of this job is another process by now; this one was too slow')
end
local state = state_of(ds)
if not state or job_uid(ds) ~= ARGV[4] or (redis.call('HGET', job(ds), 'restore_time') or '') ~= ARGV[5] then return 0 end
if redis.call('HGET', job(ds), 'invalidated') == ARGV[6] then return 1 end
redis.call('HSET', job(ds), 'invalidated', ARGV[6])
redis.call('SREM', UNCOUNTED, ds)
if redis.call('HDEL', job(ds), 'uncounted') == 1 then redis.call('HINCRBY', job(ds), 'worker_ms', ARGV[10]) end
for n, name in ipairs({'groups', 'images', 'skipped'}) do redis.call('HINCRBY', job(ds), name, ARGV[6 + n]) end
if #ARGV > 11 and (state == 'SUCCEEDED' or (state == 'FAILED' and redis.call('HGET', job(ds), 'error') == '')) then
  redis.call('HSET', job(ds), 'state', 'RUNNING', 'end_time', '')
end
local undone = 0
for n = 12, #ARGV do
  local shard = ARGV[n]
  local was_done = n - 11 <= tonumber(ARGV[11]) and redis.call('SETBIT', done(ds), shard, 0) == 1
  local was_dead = redis.call('HDEL', dead(ds), shard) == 1
  if was_done then undone = undone + 1 end
  if was_done or was_dead then
    forget_failures(ds, shard)
    redis.call('SADD', retry(ds), shard)
  end
end
if undone > 0 then redis.call('HINCRBY', job(ds), 'done', -undone) end
enroll(ds)
settle(ds)
return 1
