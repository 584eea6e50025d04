-- Hands a lease back without a mark against the shard, if it is still the worker's own.
-- ARGV: dataset, shard, entry id, worker. Returns 1 if it was.
local ds, shard, id, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not owns(worker, id) then return 0 end
drop(id)
redis.call('HDEL', leased(ds), shard)
if live(state_of(ds)) then put_back(ds, shard) end
return 1
