-- Takes shards back whose objects are no longer there, to be made again, and corrects what the done ones hold.
-- ARGV: lock, its token, dataset, a text of this call's own (a repeated call changes nothing), groups, images and
-- skipped to add, how many of the shards were done when they were looked at (these come first), shards. One that was
-- not and is now was made meanwhile, and stays. Returns how many were done.
local ds = ARGV[3]
if redis.call('GET', ARGV[1]) ~= ARGV[2] then
  return redis.error_reply('REBUILDING of this job is another process by now; this one was too slow')
end
local state = state_of(ds)
if not state then return 0 end
if redis.call('HGET', job(ds), 'invalidated') == ARGV[4] then return 0 end
redis.call('HSET', job(ds), 'invalidated', ARGV[4])
redis.call('SREM', UNCOUNTED, ds)
redis.call('HDEL', job(ds), 'uncounted')
for n, name in ipairs({'groups', 'images', 'skipped'}) do redis.call('HINCRBY', job(ds), name, ARGV[4 + n]) end
if #ARGV > 8 and (state == 'SUCCEEDED' or (state == 'FAILED' and redis.call('HGET', job(ds), 'error') == '')) then
  redis.call('HSET', job(ds), 'state', 'RUNNING', 'end_time', '')
end
local undone = 0
for n = 9, #ARGV do
  local shard = ARGV[n]
  local was_done = n - 8 <= tonumber(ARGV[8]) and redis.call('SETBIT', done(ds), shard, 0) == 1
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
return undone
