-- Adds a job with nothing planned yet. ARGV: dataset, priority, job_uid, images in a shard. Returns 1, 0 if it is there already,
-- or 2 if another of its name is.
local ds = ARGV[1]
ensure_group()
if redis.call('EXISTS', job(ds)) == 1 then return redis.call('HGET', job(ds), 'job_uid') == ARGV[3] and 0 or 2 end
redis.call('SADD', JOBS, ds)
redis.call('HSET', job(ds), 'state', 'PLANNING', 'priority', ARGV[2], 'planned', 0, 'next', 0, 'complete', 0,
  'done', 0, 'groups', 0, 'images', 0, 'skipped', 0, 'job_uid', ARGV[3], 'shard_images', ARGV[4], 'create_time', now(), 'end_time', '', 'error', '')
return 1
