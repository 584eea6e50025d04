"""Python clients of the gateway and of a generator worker; no torch, no store and no queue behind them.

```python
client = Client("127.0.0.1:50051")
job = client.create_job("fashion", "captions.tsv", preset="tiny", recipe={"steps": 10})
for job in client.watch_job(job.name):
    print(job.state, f"{job.progress:.0%}")
run = client.runs.train("first", ["fashion"], preset="demo", config={"steps": 300})
for run, metrics in client.runs.watch(run.name):
    print(run.state, run.step, run.loss)
```
"""

from stablerep.client.aio import AsyncClient
from stablerep.client.generator import GeneratorClient, WorkerStatus
from stablerep.client.job import Counts, Job, Shard
from stablerep.client.reconciled import ReconcileResult
from stablerep.client.run import Run, RunMetrics
from stablerep.client.sync import Client
from stablerep.client.worker import WorkerInfo
from stablerep.queue.leases import ShardState
from stablerep.queue.states import JobState
from stablerep.runs.view import RunState

__all__ = [
    "AsyncClient",
    "Client",
    "Counts",
    "GeneratorClient",
    "Job",
    "JobState",
    "ReconcileResult",
    "Run",
    "RunMetrics",
    "RunState",
    "Shard",
    "ShardState",
    "WorkerInfo",
    "WorkerStatus",
]
