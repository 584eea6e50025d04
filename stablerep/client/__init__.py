"""Python clients of the gateway and of a generator worker; no torch, no store and no queue behind them.

```python
client = Client("127.0.0.1:50051")
job = client.create_job("fashion", "captions.tsv", preset="tiny", recipe={"steps": 10})
for job in client.watch_job(job.name):
    print(job.state, f"{job.progress:.0%}")
```
"""

from stablerep.client.aio import AsyncClient
from stablerep.client.generator import GeneratorClient, WorkerStatus
from stablerep.client.job import Counts, Job, Shard
from stablerep.client.reconciled import ReconcileResult
from stablerep.client.sync import Client
from stablerep.queue.leases import ShardState
from stablerep.queue.states import JobState

__all__ = [
    "AsyncClient",
    "Client",
    "Counts",
    "GeneratorClient",
    "Job",
    "JobState",
    "ReconcileResult",
    "Shard",
    "ShardState",
    "WorkerStatus",
]
