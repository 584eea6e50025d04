-- Puts dead shards back to be tried again. ARGV: dataset, shards (none: all that are dead). Returns the state or false.
-- A job that failed by its dead shards runs again; one that was cancelled, or failed with an error, stays as it is.
local ds = ARGV[1]
local fields = redis.call('HMGET', job(ds), 'state', 'error')
local state = fields[1]
if not state or state == 'CANCELLED' or (state == 'FAILED' and fields[2] ~= '') then return state end
local shards = {}
for n = 2, #ARGV do shards[n - 1] = ARGV[n] end
if #shards == 0 then shards = redis.call('HKEYS', dead(ds)) end
local any = false
for _, shard in ipairs(shards) do
  if redis.call('HDEL', dead(ds), shard) == 1 then
    forget_failures(ds, shard)
    redis.call('SADD', retry(ds), shard)
    any = true
  end
end
if any and state == 'FAILED' then redis.call('HSET', job(ds), 'state', 'RUNNING', 'end_time', '') end
enroll(ds)
return state_of(ds)
