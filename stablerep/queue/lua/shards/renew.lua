-- Renews a lease that is still the worker's own. ARGV: dataset, entry id, worker. Returns HELD, LOST or CANCELLED.
local ds, id, worker = ARGV[1], ARGV[2], ARGV[3]
if not owns(worker, id) then return 'LOST' end
if not live(state_of(ds)) then return 'CANCELLED' end
redis.call('XCLAIM', READY, GROUP, worker, 0, id, 'JUSTID')  -- sets idle time to 0, counts no delivery
return 'HELD'
