-- Leases one shard: an expired lease first, then the next waiting entry.
-- ARGV: worker, lease in ms, most waiting entries, most lost leases. Returns {jobs of which it dead_lettered a shard,
-- dataset, shard, entry id, job_uid of the job}, and the first alone when there is nothing to lease.
local worker, lease_ms, most_waiting, most_lost = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local dead_lettered = {}

-- The next shard of a job that is neither done, dead nor in some worker's hands; false when it has none.
local function next_shard(ds)
  local again = redis.call('SPOP', retry(ds))
  while again do
    if wanted(ds, again) and redis.call('HEXISTS', leased(ds), again) == 0 then return again end
    again = redis.call('SPOP', retry(ds))
  end
  local fields = redis.call('HMGET', job(ds), 'next', 'planned')
  local shard, planned = tonumber(fields[1]), tonumber(fields[2])
  while shard < planned do
    if redis.call('GETBIT', done(ds), shard) == 1 then
      -- Jumps over what is done in one step: after a rebuild that may be most of a million shards.
      local free = redis.call('BITPOS', done(ds), 0, shard, -1, 'BIT')
      shard = free < 0 and redis.call('STRLEN', done(ds)) * 8 or free
    elseif redis.call('HEXISTS', dead(ds), shard) == 1 or redis.call('HEXISTS', leased(ds), shard) == 1 then
      shard = shard + 1
    else
      redis.call('HSET', job(ds), 'next', shard + 1)
      return shard
    end
  end
  redis.call('HSET', job(ds), 'next', planned)
  return false
end

-- Puts the shards back whose wait after an error is over. Those of a job that is gone are forgotten.
local function wake()
  local due = redis.call('ZRANGE', DELAYED, '-inf', now_ms(), 'BYSCORE', 'LIMIT', 0, 100)
  for _, name in ipairs(due) do
    redis.call('ZREM', DELAYED, name)
    local shard, ds = string.match(name, '^(%d+):(.*)$')
    if live(state_of(ds)) and wanted(ds, shard) then put_back(ds, shard) end
  end
end

local function feed()
  local waiting = redis.call('XLEN', READY) - redis.call('XPENDING', READY, GROUP)[1]
  while waiting < most_waiting do
    local ds = redis.call('ZRANGE', BACKLOG, 0, 0)[1]
    if not ds then return end
    if not state_of(ds) then return damage(ds) end  -- its hash was lost: a removed job leaves the backlog too
    redis.call('ZREM', BACKLOG, ds)
    local shard = next_shard(ds)
    if shard then
      redis.call('XADD', READY, '*', 'dataset', ds, 'shard', shard, 'job_uid', job_uid(ds))
      waiting = waiting + 1
      enroll(ds)
    end
  end
end

-- Workers have names of their own, so one that died would stay a consumer of the group for ever.
local function forget(consumer)
  if #redis.call('XPENDING', READY, GROUP, '-', '+', 1, consumer) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', READY, GROUP, consumer)
  end
end

-- The entry whose owner has been silent longest past its lease, now this worker's, and whether there is one.
-- XPENDING IDLE looks through the whole list of pending entries; XAUTOCLAIM COUNT 1 would look at ten of them.
local function reclaim()
  local stale = redis.call('XPENDING', READY, GROUP, 'IDLE', lease_ms, '-', '+', 1)[1]
  if not stale then return nil, false end
  local entry = redis.call('XCLAIM', READY, GROUP, worker, 0, stale[1])[1]
  if not entry then redis.call('XACK', READY, GROUP, stale[1]) end
  forget(stale[2])
  return entry, true
end

local function read()
  feed()
  local reply = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', 1, 'STREAMS', READY, '>')
  return reply and reply[1][2][1]
end

-- Whether the worker may keep the entry it has just got; if not, the entry is gone.
local function keep(id, ds, shard, born, was_lost)
  if job_uid(ds) ~= born then  -- of a job that was deleted
    drop(id)
    return false
  end
  local holder = redis.call('HGET', leased(ds), shard)
  if holder and holder ~= id then  -- twice in the stream: the job was restored while it waited there
    drop(id)
    return false
  end
  local state = state_of(ds)
  local useful = live(state) and wanted(ds, shard)
  if useful and was_lost then
    redis.call('HINCRBY', STATS, 'lost', 1)
    local lost = redis.call('HINCRBY', failures(ds), shard .. ':lost', 1)
    if lost > most_lost then
      dead_letter(ds, shard, lost .. ' workers died or stalled while they had this shard')
      table.insert(dead_lettered, ds)
      useful = false
    end
  end
  if useful and state ~= 'PAUSED' then
    redis.call('HSET', leased(ds), shard, id)
    return true
  end
  drop(id)
  redis.call('HDEL', leased(ds), shard)
  if useful then put_back(ds, shard) end
  return false
end

ensure_group()
-- Without an epoch Redis has lost data, and what is left may be half of it.
if redis.call('EXISTS', EPOCH) == 0 then return {dead_lettered} end
wake()
for _ = 1, 1000 do  -- each round but the last takes an entry off the stream; bounded so as not to hold the server
  local entry, was_lost = reclaim()
  if not was_lost then entry = read() end
  if entry then
    local id, fields = entry[1], entry[2]
    local ds, shard, born = fields[2], fields[4], fields[6] or ''
    if keep(id, ds, shard, born, was_lost) then return {dead_lettered, ds, shard, id, born} end
  elseif not was_lost then
    -- Time in which there is nothing to do is none of the pace.
    if redis.call('XPENDING', READY, GROUP)[1] == 0 then redis.call('HDEL', STATS, 'pace_at') end
    return {dead_lettered}
  end
end
return {dead_lettered}
