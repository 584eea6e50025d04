-- Looks for shards of a job by number; changes nothing. ARGV: dataset, first number, most shards, state ('' for all),
-- most steps. Returns {number to go on from or -1, then {number, state, worker, errors, lost leases, error} of each},
-- or false. Jumps from one shard to the next of the state wherever it can, so a million shards take a few steps.
local ds, at, most, sought, steps = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local planned = tonumber(redis.call('HGET', job(ds), 'planned') or false)
if not planned then return false end
local LISTED = 10000  -- hashes up to this size are sorted at once, longer ones are met often enough by walking

local function sorted_fields(key)
  local fields = redis.call('HKEYS', key)
  for n, field in ipairs(fields) do fields[n] = tonumber(field) end
  table.sort(fields)
  return fields
end

-- The next number at which a shard of the state may be, from the bitmap; planned where there is none.
local function next_bit(bit, from)
  local bits = redis.call('STRLEN', done(ds)) * 8
  if from < bits then  -- past the end, and for no bitmap at all, BITPOS 0 answers with the first bit there is
    local found = redis.call('BITPOS', done(ds), bit, from, -1, 'BIT')
    if found >= 0 then return found end
  end
  return bit == 1 and planned or math.max(from, bits)
end

local function state(shard)
  if redis.call('GETBIT', done(ds), shard) == 1 then return 'DONE' end
  if redis.call('HEXISTS', dead(ds), shard) == 1 then return 'DEAD' end
  if redis.call('HEXISTS', leased(ds), shard) == 1 then return 'LEASED' end
  return 'PENDING'
end

local function worker_of(shard)
  local id = redis.call('HGET', leased(ds), shard)
  local pending = id and has_group() and redis.call('XPENDING', READY, GROUP, id, id, 1) or {}
  return #pending == 1 and pending[1][2] or ''
end

local function row(shard, which)
  local history = redis.call('HMGET', failures(ds), shard .. ':errors', shard .. ':lost', shard .. ':error')
  local error = which == 'DEAD' and redis.call('HGET', dead(ds), shard) or history[3] or ''
  return {shard, which, which == 'LEASED' and worker_of(shard) or '', history[1] or 0, history[2] or 0, error}
end

local found = {}
local short = ({LEASED = leased(ds), DEAD = dead(ds)})[sought]
if short and redis.call('HLEN', short) <= LISTED then
  for _, shard in ipairs(sorted_fields(short)) do
    if shard >= at and shard < planned and state(shard) == sought then
      table.insert(found, row(shard, sought))
      if #found == most then return {shard + 1, unpack(found)} end
    end
  end
  return {-1, unpack(found)}
end
while at < planned and #found < most do
  if steps == 0 then return {at, unpack(found)} end
  steps = steps - 1
  if sought == 'DONE' then at = next_bit(1, at) elseif sought ~= '' then at = next_bit(0, at) end
  if at < planned then
    local which = state(at)
    if sought == '' or which == sought then table.insert(found, row(at, which)) end
    at = at + 1
  end
end
return {at < planned and at or -1, unpack(found)}
