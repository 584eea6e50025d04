-- Records a shard whose tar and index are in the store, by whatever worker, however late.
-- ARGV: dataset, shard, entry id, groups, images, skipped, job_uid of the job, milliseconds it took to generate. Returns 1 if it was not done before.
local ds, shard, id = ARGV[1], ARGV[2], ARGV[3]
drop(id)
local holder = redis.call('HGET', leased(ds), shard)
if redis.call('EXISTS', job(ds)) == 0 or job_uid(ds) ~= ARGV[7] then
  -- Deleted, or another job of that name by now; or restored after Redis lost all: then the next worker finds the tar.
  if holder == id then redis.call('HDEL', leased(ds), shard) end
  return 0
end
-- Leased again since then: that worker's renewal will find its lease lost, and stop.
if holder and holder ~= id then drop(holder) end
redis.call('HDEL', leased(ds), shard)
redis.call('SREM', retry(ds), shard)
redis.call('ZREM', DELAYED, delayed_name(ds, shard))
forget_failures(ds, shard)
redis.call('HDEL', dead(ds), shard)
local first = redis.call('SETBIT', done(ds), shard, 1) == 0
if first then
  redis.call('HINCRBY', job(ds), 'done', 1)
  redis.call('HINCRBY', job(ds), 'groups', ARGV[4])
  redis.call('HINCRBY', job(ds), 'images', ARGV[5])
  redis.call('HINCRBY', job(ds), 'skipped', ARGV[6])
  redis.call('HINCRBY', job(ds), 'worker_ms', ARGV[8])
end
if first and id ~= '0-0' then observe_pace(tonumber(ARGV[5])) end  -- that of a repair was made at another time
settle(ds)
return first and 1 or 0
