-- Puts a job in place as the store has it; shards that are dead follow (restore_dead.lua). ARGV: token, dataset,
-- bitmap of done shards, then fields and values of the job's hash. With a token the caller must hold the lock of the
-- rebuild, and what was there of the job is replaced. Without, nothing happens to a job that is there already.
-- Returns 1 if it was put in place.
local token, ds, bits = ARGV[1], ARGV[2], ARGV[3]
if token ~= '' and redis.call('GET', REBUILD) ~= token then
  return redis.error_reply('REBUILDING is another process by now; this one was too slow')
end
if token == '' and redis.call('EXISTS', job(ds)) == 1 then
  redis.call('SADD', JOBS, ds)  -- the set was lost; whether the job is whole, the next inspection says
  return 0
end
ensure_group()
redis.call('DEL', job(ds), done(ds), leased(ds), retry(ds), failures(ds), dead(ds))
redis.call('ZREM', BACKLOG, ds)
redis.call('SADD', JOBS, ds)
redis.call('HSET', job(ds), 'next', 0, 'done', 0, 'restore_time', now(), unpack(ARGV, 4))
if #bits > 0 then
  redis.call('SET', done(ds), bits)
  redis.call('HSET', job(ds), 'done', redis.call('BITCOUNT', done(ds)), 'uncounted', 1)
  redis.call('SADD', UNCOUNTED, ds)
end
-- Leases of the job survive with their entries; so do entries that wait, which `lease` drops where they are double.
for _, entry in ipairs(redis.call('XRANGE', READY, '-', '+')) do
  local id, fields = entry[1], entry[2]
  if fields[2] == ds and fields[6] == job_uid(ds) and wanted(ds, fields[4]) then
    if #redis.call('XPENDING', READY, GROUP, id, id, 1) > 0 then redis.call('HSET', leased(ds), fields[4], id) end
  end
end
settle(ds)
enroll(ds)
return 1
