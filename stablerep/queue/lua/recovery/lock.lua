-- Takes, keeps or gives up a lock that runs out by itself. ARGV: key, token, ms (0 gives it up), `take` or `keep`. Returns 1 if it is
-- the caller's (was, when given up). The lock of a rebuild is not to be had once there is an epoch.
local key, token, ms = ARGV[1], ARGV[2], ARGV[3]
local mine = redis.call('GET', key) == token
if ms == '0' then
  if mine then redis.call('DEL', key) end
  return mine and 1 or 0
end
if mine then return redis.call('PEXPIRE', key, ms) end
if ARGV[4] == 'keep' then return 0 end  -- lost once is lost: what was seen under it may have changed
if key == REBUILD and redis.call('EXISTS', EPOCH) == 1 then return 0 end
return redis.call('SET', key, token, 'NX', 'PX', ms) and 1 or 0
