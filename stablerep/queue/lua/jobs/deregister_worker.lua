-- Takes a worker off the group. ARGV: worker. Nothing happens while it still holds a lease (that would lose it).
redis.call('HDEL', WORKERS, ARGV[1])
if not has_group() then return 0 end
if #redis.call('XPENDING', READY, GROUP, '-', '+', 1, ARGV[1]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', READY, GROUP, ARGV[1])
return 1
