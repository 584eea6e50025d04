-- Forgets a job and ends its leases. ARGV: dataset. Returns 1 if it was there.
-- Its unread entries are dropped when they are read: deleting them unread would break the group's count of its lag.
local ds = ARGV[1]
local there = redis.call('EXISTS', job(ds))
for _, id in ipairs(redis.call('HVALS', leased(ds))) do drop(id) end
for _, field in ipairs(redis.call('HKEYS', failures(ds))) do
  local shard = string.match(field, '^(%d+):errors$')
  if shard then redis.call('ZREM', DELAYED, delayed_name(ds, shard)) end
end
redis.call('UNLINK', job(ds), done(ds), dead(ds), leased(ds), retry(ds), failures(ds))
redis.call('SREM', JOBS, ds)
redis.call('SREM', UNCOUNTED, ds)
redis.call('ZREM', BACKLOG, ds)
return there
