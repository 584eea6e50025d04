-- A job's counts and bitmap of one moment, the bitmap in hexadecimal. ARGV: dataset.
-- Returns {planned, groups, images, skipped, worker_ms, job_uid, restore_time, bitmap}, or false.
local ds = ARGV[1]
if redis.call('EXISTS', job(ds)) == 0 then return false end
local fields = redis.call('HMGET', job(ds), 'planned', 'groups', 'images', 'skipped', 'worker_ms', 'job_uid',
  'restore_time')
local bits = redis.call('GET', done(ds)) or ''
fields[5], fields[6], fields[7] = fields[5] or '0', fields[6] or '', fields[7] or ''
fields[8] = string.gsub(bits, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
return fields
