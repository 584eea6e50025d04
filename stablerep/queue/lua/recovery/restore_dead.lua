-- Marks shards of a restored job as dead, as the store has them. ARGV: token of the rebuild's lock or '', dataset,
-- then shard and error of each. A shard that is done stays done.
local ds = ARGV[2]
if ARGV[1] ~= '' and redis.call('GET', REBUILD) ~= ARGV[1] then
  return redis.error_reply('REBUILDING is another process by now; this one was too slow')
end
for at = 3, #ARGV, 2 do
  if redis.call('GETBIT', done(ds), ARGV[at]) == 0 then redis.call('HSET', dead(ds), ARGV[at], ARGV[at + 1]) end
end
settle(ds)
return 1
