-- Says how far planning has come. ARGV: dataset, shards planned so far, 1 if that is all. Returns the state or false.
local ds = ARGV[1]
local state = state_of(ds)
if not live(state) then return state end
local before = tonumber(redis.call('HGET', job(ds), 'planned'))
local planned = math.max(tonumber(ARGV[2]), before)
if planned > before then redis.call('HINCRBY', STATS, 'planned', planned - before) end
redis.call('HSET', job(ds), 'planned', planned)
if ARGV[3] == '1' then
  redis.call('HSET', job(ds), 'complete', 1)
  if state == 'PLANNING' then redis.call('HSET', job(ds), 'state', 'RUNNING') end
end
enroll(ds)
settle(ds)
return state_of(ds)
