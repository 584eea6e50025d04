-- Begins an epoch unless there is one, and ends the rebuild that led to it. ARGV: token of the rebuild's lock or '',
-- the epoch. Returns the epoch there is.
if ARGV[1] ~= '' then
  if redis.call('GET', REBUILD) ~= ARGV[1] then
    return redis.error_reply('REBUILDING is another process by now; this one was too slow')
  end
  redis.call('DEL', REBUILD, DAMAGED)
end
if not has_group() then redis.call('XGROUP', 'CREATE', READY, GROUP, '0', 'MKSTREAM') end
redis.call('SET', EPOCH, ARGV[2], 'NX')
return redis.call('GET', EPOCH)
