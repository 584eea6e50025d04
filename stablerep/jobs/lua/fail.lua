-- Ends a lease with an error, if it is still the worker's own.
-- ARGV: dataset, shard, entry id, worker, most errors, error. Returns RETRY, DEAD or IGNORED.
local ds, shard, id, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not owns(worker, id) then return 'IGNORED' end
drop(id)
redis.call('HDEL', leased(ds), shard)
if not live(state_of(ds)) then return 'IGNORED' end
redis.call('HINCRBY', STATS, 'errors', 1)
if redis.call('HINCRBY', failures(ds), shard .. ':errors', 1) >= tonumber(ARGV[5]) then
  bury(ds, shard, ARGV[6])
  return 'DEAD'
end
put_back(ds, shard)
return 'RETRY'
