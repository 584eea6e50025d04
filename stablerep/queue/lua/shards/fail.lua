-- Ends a lease with an error, if it is still the worker's own.
-- ARGV: dataset, shard, entry id, worker, most errors, error, ms to wait after the first error, factor for each
-- further one. Returns RETRY, DEAD or IGNORED.
local ds, shard, id, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not owns(worker, id) then return 'IGNORED' end
drop(id)
redis.call('HDEL', leased(ds), shard)
if not live(state_of(ds)) then return 'IGNORED' end
redis.call('HINCRBY', STATS, 'errors', 1)
local errors = redis.call('HINCRBY', failures(ds), shard .. ':errors', 1)
if errors >= tonumber(ARGV[5]) then
  dead_letter(ds, shard, ARGV[6])
  return 'DEAD'
end
redis.call('HSET', failures(ds), shard .. ':error', ARGV[6])
put_back_later(ds, shard, ARGV[7] * ARGV[8] ^ (errors - 1))
return 'RETRY'
