-- Reports of workers. ARGV: a worker and its report, which is kept; or nothing: returns name and report of all.
-- ARGV: '' and names: these are forgotten.
if ARGV[1] == '' then
  for n = 2, #ARGV do redis.call('HDEL', WORKERS, ARGV[n]) end
  return {}
end
if ARGV[1] then return redis.call('HSET', WORKERS, ARGV[1], ARGV[2]) end
return redis.call('HGETALL', WORKERS)
