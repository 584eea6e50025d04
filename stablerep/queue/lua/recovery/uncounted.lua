-- Names of the restored jobs of which it is not known what the done shards hold.
return redis.call('SMEMBERS', UNCOUNTED)
