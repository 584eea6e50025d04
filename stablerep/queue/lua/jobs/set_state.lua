-- Moves a job to a state. ARGV: dataset, state, error. A final state stays. Returns the state it has then, or false.
local ds, state = ARGV[1], ARGV[2]
local current = state_of(ds)
if not live(current) then return current end
if ARGV[3] ~= '' then redis.call('HSET', job(ds), 'error', ARGV[3]) end
if not live(state) then
  finish(ds, state)
  return state
end
-- A job that is resumed before its planning is over is PLANNING again.
if state == 'RUNNING' and redis.call('HGET', job(ds), 'complete') ~= '1' then state = 'PLANNING' end
redis.call('HSET', job(ds), 'state', state)
if state == 'PAUSED' then redis.call('ZREM', BACKLOG, ds) else enroll(ds) end
settle(ds)
return state_of(ds)
