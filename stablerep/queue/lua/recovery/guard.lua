-- Put before every step but those of a rebuild: what it changed could be overwritten by what the store said before.
if redis.call('EXISTS', REBUILD) == 1 then
  return redis.error_reply('REBUILDING the queue from the store; try again in a moment')
end
