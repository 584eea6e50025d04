-- Records a shard whose tar and index are in the store, by whatever worker, however late.
-- ARGV: dataset, shard, entry id, groups, images, skipped. Returns 1 if it was not done before.
local ds, shard, id = ARGV[1], ARGV[2], ARGV[3]
drop(id)
-- Handed out anew since then: that worker's renewal will find its lease lost, and stop.
local other = redis.call('HGET', leased(ds), shard)
if other and other ~= id then drop(other) end
redis.call('HDEL', leased(ds), shard)
if redis.call('EXISTS', job(ds)) == 0 then return 0 end
redis.call('SREM', retry(ds), shard)
redis.call('HDEL', failures(ds), shard .. ':errors', shard .. ':lost')
redis.call('HDEL', dead(ds), shard)
local first = redis.call('SETBIT', done(ds), shard, 1) == 0
if first then
  redis.call('HINCRBY', job(ds), 'groups', ARGV[4])
  redis.call('HINCRBY', job(ds), 'images', ARGV[5])
  redis.call('HINCRBY', job(ds), 'skipped', ARGV[6])
end
settle(ds)
return first and 1 or 0
