-- Looks for what no step leaves behind: keys that were deleted or evicted, or a last second that a failover lost.
-- Ends the epoch if it finds any, until what is lost is restored. ARGV: most shards of a job to look at one by one.
-- Returns what is wrong, a text for each finding; nothing without an epoch.
local most = tonumber(ARGV[1])
local FIELDS = {'state', 'priority', 'planned', 'next', 'complete', 'done', 'groups', 'images', 'skipped', 'job_uid',
  'create_time', 'shard_images'}
local problems = {}
local function problem(ds, text)
  damage(ds)
  table.insert(problems, ds == EVERY_JOB and text or ds .. ': ' .. text)
end

if redis.call('EXISTS', EPOCH) == 0 then return problems end
if not has_group() then problem(EVERY_JOB, 'the stream of ready shards is missing') end

-- Shards that wait in the stream or are leased there, by job; a pending entry has a lease.
local streamed, entries = {}, {}
if #problems == 0 then
  for _, entry in ipairs(redis.call('XRANGE', READY, '-', '+')) do
    local ds = entry[2][2]
    streamed[ds] = streamed[ds] or {}
    table.insert(streamed[ds], entry[2][4])
    entries[entry[1]] = true
  end
end

-- How many of the shards below `cursor` are known to be somewhere: done, dead, leased or waiting in any way.
local function accounted(ds, cursor, delayed)
  local found = cursor > 0 and redis.call('BITCOUNT', done(ds), 0, cursor - 1, 'BIT') or 0
  local seen = {}
  for _, shards in ipairs({redis.call('HKEYS', dead(ds)), redis.call('HKEYS', leased(ds)),
      redis.call('SMEMBERS', retry(ds)), streamed[ds] or {}, delayed[ds] or {}}) do
    for _, shard in ipairs(shards) do
      if not seen[shard] and tonumber(shard) < cursor and redis.call('GETBIT', done(ds), shard) == 0 then
        seen[shard] = true
        found = found + 1
      end
    end
  end
  return found
end

local function inspect(ds, delayed)
  local fields = redis.call('HMGET', job(ds), unpack(FIELDS))
  for n, name in ipairs(FIELDS) do
    if not fields[n] then return 'the job has no ' .. name end
  end
  local state, planned, cursor = fields[1], tonumber(fields[3]), tonumber(fields[4])
  local done_shards, dead_shards = redis.call('BITCOUNT', done(ds)), redis.call('HLEN', dead(ds))
  if done_shards ~= tonumber(fields[6]) then
    return done_shards .. ' shards are done in the bitmap and ' .. fields[6] .. ' in the job'
  end
  if redis.call('HGET', job(ds), 'uncounted') then redis.call('SADD', UNCOUNTED, ds) end
  if not live(state) then
    local by_shards = state == 'SUCCEEDED' or (state == 'FAILED' and redis.call('HGET', job(ds), 'error') == '')
    if by_shards and done_shards + dead_shards < planned then return 'the job is over and shards are not' end
    return nil
  end
  if dead_shards + redis.call('HLEN', leased(ds)) + redis.call('SCARD', retry(ds)) > most then return nil end
  for _, id in ipairs(redis.call('HVALS', leased(ds))) do
    if not entries[id] then return 'a leased shard has no entry in the stream' end
  end
  if accounted(ds, cursor, delayed) < cursor then return 'shards were taken from the backlog and are nowhere' end
  local waits = cursor < planned or redis.call('SCARD', retry(ds)) > 0
  if waits and state ~= 'PAUSED' and not redis.call('ZSCORE', BACKLOG, ds) then return 'the job is in no backlog' end
  return nil
end

if #problems == 0 then
  local delayed = {}
  for _, name in ipairs(redis.call('ZRANGE', DELAYED, 0, -1)) do
    local shard, ds = string.match(name, '^(%d+):(.*)$')
    delayed[ds] = delayed[ds] or {}
    table.insert(delayed[ds], shard)
  end
  local known = {}
  for _, ds in ipairs(redis.call('SMEMBERS', JOBS)) do
    known[ds] = true
    local found = inspect(ds, delayed)
    if found then problem(ds, found) end
  end
  for ds, _ in pairs(streamed) do
    if not known[ds] and redis.call('EXISTS', job(ds)) == 1 then problem(ds, 'the job is not in the set of jobs') end
  end
  for _, ds in ipairs(redis.call('ZRANGE', BACKLOG, 0, -1)) do
    if not known[ds] then problem(ds, 'the job is not in the set of jobs') end
  end
end
return problems
