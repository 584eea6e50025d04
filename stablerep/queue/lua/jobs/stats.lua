-- Says how the whole queue is, at one moment; changes nothing. Returns JSON (see stats.py, which reads it).
local found = {jobs = {}, ended = {}, dead = 0, workers = {}, stats = {}, oldest_lease = 0}

-- Not the score itself: JSON numbers have 14 digits here. What is in no backlog waits in the stream, before all others.
local function turn_of(ds, priority)
  local score = redis.call('ZSCORE', BACKLOG, ds)
  return score and tonumber(score) + priority * TURNS or -1
end

for _, ds in ipairs(redis.call('SMEMBERS', JOBS)) do
  local fields = redis.call('HMGET', job(ds), 'state', 'planned', 'priority', 'shard_images', 'complete')
  local state = fields[1]
  if state then
    local dead_shards = redis.call('HLEN', dead(ds))
    found.dead = found.dead + dead_shards
    if live(state) then
      table.insert(found.jobs, {ds, state, tonumber(fields[2]), redis.call('BITCOUNT', done(ds)),
        redis.call('HLEN', leased(ds)), dead_shards, tonumber(fields[3]) or 0, tonumber(fields[4]) or 1, fields[5] == '1',
        turn_of(ds, tonumber(fields[3]) or 0)})
    else
      found.ended[state] = (found.ended[state] or 0) + 1
    end
  end
end

-- The pending list is in the order in which shards were put up for lease: its first is the oldest.
if has_group() then
  local first = redis.call('XPENDING', READY, GROUP, '-', '+', 1)[1]
  if first then
    local since = tonumber(string.match(first[1], '^%d+'))
    found.oldest_lease = math.max(0, math.floor(tonumber(now()) * 1000) - since)
  end
  for _, worker in ipairs(redis.call('XINFO', 'CONSUMERS', READY, GROUP)) do
    table.insert(found.workers, {worker[4], worker[6]})  -- leases it holds, ms since it was heard of
  end
end

local stats = redis.call('HGETALL', STATS)
for n = 1, #stats, 2 do found.stats[stats[n]] = tonumber(stats[n + 1]) end
found.now = now_ms()
return cjson.encode(found)
