-- What the queue's scripts share; put in front of each of them (see client.py, which describes the keys).
local READY, GROUP = 'sr:ready', 'generators'
local DELAYED = 'sr:delayed'
local UNCOUNTED = 'sr:uncounted'  -- set of the restored jobs of which it is not known what the done shards hold
local REBUILD = 'sr:rebuild'  -- lock of the process that restores the queue from the store
local DAMAGED = 'sr:damaged'  -- set of the jobs to restore before the next epoch; empty without an epoch: every job
local EVERY_JOB = '*'  -- in DAMAGED
local WORKERS = 'sr:workers'  -- hash: what each worker last said of itself; nothing relies on it
local JOBS, BACKLOG, TURN, EPOCH, STATS = 'sr:jobs', 'sr:backlog', 'sr:turn', 'sr:epoch', 'sr:stats'
-- Scores in BACKLOG order by priority first, then by turn: turns stay far below 2^44, scores exact below 2^53.
local TURNS = 17592186044416

local function job(ds) return 'sr:job:' .. ds end
local function done(ds) return 'sr:done:' .. ds end
local function dead(ds) return 'sr:dead:' .. ds end
local function leased(ds) return 'sr:leased:' .. ds end
local function retry(ds) return 'sr:retry:' .. ds end
local function failures(ds) return 'sr:failures:' .. ds end

-- Distinguishes a job from others of its name, before and after it.
local function job_uid(ds) return redis.call('HGET', job(ds), 'job_uid') or '' end

local function now()
  local time = redis.call('TIME')
  return time[1] .. '.' .. string.format('%06d', time[2])
end

local function state_of(ds)
  return redis.call('HGET', job(ds), 'state')
end

local function live(state)
  return state == 'PLANNING' or state == 'RUNNING' or state == 'PAUSED'
end

-- Ends the epoch until the job is restored from the store: something of it is lost that no step removes.
local function damage(ds)
  redis.call('SADD', DAMAGED, ds)
  redis.call('DEL', EPOCH)
end

local function has_group()
  return redis.call('EXISTS', READY) == 1 and #redis.call('XINFO', 'GROUPS', READY) > 0
end

local function ensure_group()
  -- A stream stays when its last entry goes, and begin_epoch makes it: within an epoch a missing one was lost.
  if not has_group() then
    damage(EVERY_JOB)
    redis.call('XGROUP', 'CREATE', READY, GROUP, '0', 'MKSTREAM')
  end
end

local function drop(id)
  redis.call('XACK', READY, GROUP, id)
  redis.call('XDEL', READY, id)
end

local function owns(worker, id)
  ensure_group()
  local pending = redis.call('XPENDING', READY, GROUP, id, id, 1)
  return #pending == 1 and pending[1][2] == worker
end

-- Gives a job a turn at feeding the ready stream if it has anything to feed; one that waits keeps its turn.
local function enroll(ds)
  local fields = redis.call('HMGET', job(ds), 'state', 'planned', 'next', 'priority')
  if fields[1] ~= 'PLANNING' and fields[1] ~= 'RUNNING' then return end
  if tonumber(fields[3]) < tonumber(fields[2]) or redis.call('SCARD', retry(ds)) > 0 then
    local turn = redis.call('INCR', TURN)
    redis.call('ZADD', BACKLOG, 'NX', turn - tonumber(fields[4]) * TURNS, ds)
  end
end

local function put_back(ds, shard)
  redis.call('SADD', retry(ds), shard)
  enroll(ds)
end

local function delayed_name(ds, shard) return string.format('%d:%s', shard, ds) end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Puts a shard back, to be leased again after `ms` milliseconds.
local function put_back_later(ds, shard, ms)
  if ms > 0 then
    redis.call('ZADD', DELAYED, now_ms() + ms, delayed_name(ds, shard))
  else
    put_back(ds, shard)
  end
end

-- The pace of all workers together: images, and the milliseconds in which they were completed, both fading.
local PACE_FADES_MS, PACE_ENDS_MS = 300000, 900000
local function observe_pace(images)
  local fields = redis.call('HMGET', STATS, 'pace_at', 'pace_images', 'pace_ms')
  local at, elapsed = now_ms(), fields[1] and now_ms() - tonumber(fields[1])
  redis.call('HSET', STATS, 'pace_at', at)
  if not elapsed or elapsed > PACE_ENDS_MS then return end  -- the first after a pause begins a time, and ends none
  local fade = math.exp(-elapsed / PACE_FADES_MS)
  redis.call('HSET', STATS, 'pace_images', fade * (tonumber(fields[2]) or 0) + images,
    'pace_ms', fade * (tonumber(fields[3]) or 0) + elapsed)
end

local function forget_failures(ds, shard)
  redis.call('HDEL', failures(ds), shard .. ':errors', shard .. ':lost', shard .. ':error')
end

local function wanted(ds, shard)
  return redis.call('GETBIT', done(ds), shard) == 0 and redis.call('HEXISTS', dead(ds), shard) == 0
end

local function finish(ds, state)
  redis.call('HSET', job(ds), 'state', state, 'end_time', now())
  redis.call('ZREM', BACKLOG, ds)
  redis.call('DEL', retry(ds))
end

-- Ends a job whose shards are all done or dead. A late completion may raise one that failed by its dead shards;
-- one that was failed with an error, or cancelled, stays so.
local function settle(ds)
  local fields = redis.call('HMGET', job(ds), 'state', 'complete', 'planned', 'error')
  local state = fields[1]
  if fields[2] ~= '1' or state == 'CANCELLED' or (state == 'FAILED' and fields[4] ~= '') then return end
  local dead_shards = redis.call('HLEN', dead(ds))
  if redis.call('BITCOUNT', done(ds)) + dead_shards < tonumber(fields[3]) then return end
  local final = dead_shards > 0 and 'FAILED' or 'SUCCEEDED'
  if state ~= final then finish(ds, final) end
end

local function dead_letter(ds, shard, error)
  redis.call('HSET', dead(ds), shard, error)
  redis.call('HDEL', failures(ds), shard .. ':error')  -- the dead letter has it
  redis.call('HINCRBY', STATS, 'dead_lettered', 1)
  settle(ds)
end
