"""What a run is asked to do: train or probe, on how many machines, for how long."""

from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stablerep.runs.config import TrainConfig

Launcher = Literal["local", "kubernetes"]
DAY = 86_400
Photographs = Literal["fashion", "fashion-full", "digits"]
"""Labelled photographs that a probe can be asked for."""
PHOTOGRAPHS: tuple[str, ...] = get_args(Photographs)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeTask(_Frozen):
    """Frozen features measured; `model` is what `load_encoder` takes, or `pixels`."""

    model: str = Field(min_length=1, max_length=300)
    data: tuple[Photographs, ...] = ("fashion",)
    seed: int = Field(default=0, ge=0, lt=2**31)
    paper: bool = False


class Resources(_Frozen):
    """The machines of a run and the processes on each."""

    nodes: int = Field(default=1, ge=1, le=1024)
    gpus_per_node: int = Field(default=0, ge=0, le=64)
    processes_per_node: int = Field(default=1, ge=1, le=64)

    @property
    def processes(self) -> int:
        """torchrun's world size."""
        return self.nodes * self.processes_per_node


class RunSpec(_Frozen):
    """A run: exactly one of `train` and `probe`, whose names are those of the request's fields.

    Attributes:
        ttl_seconds: how long what has run is kept on a cluster after its end.
        deadline_seconds: of running, after which it fails; 0: none.
        max_restarts: failures after which it is given up.
        queue: Kueue's LocalQueue; empty: none.
    """

    run: str
    train: TrainConfig | None = None
    probe: ProbeTask | None = None
    resources: Resources = Resources()
    launcher: Launcher = "local"
    ttl_seconds: int = Field(default=DAY, ge=1, le=366 * DAY)
    deadline_seconds: int = Field(default=0, ge=0, le=366 * DAY)
    max_restarts: int = Field(default=10, ge=0, le=1000)
    queue: str = Field(default="", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$")
    request_id: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.train is None) == (self.probe is None):
            raise ValueError("task: a run either trains or probes")
        processes = self.resources.processes
        if self.train is not None and self.train.captions_per_batch % processes:
            raise ValueError(
                f"resources: {self.train.captions_per_batch} captions a batch cannot be shared by "
                f"{processes} processes equally; change the number of processes, or views_per_batch"
            )
        if self.probe is not None and processes > 1:
            raise ValueError("resources: a probe is one process")
        if self.resources.gpus_per_node and self.resources.processes_per_node > self.resources.gpus_per_node:
            raise ValueError("resources: more processes on a machine than GPUs; NCCL wants one GPU each")
        if self.launcher == "local" and self.resources.nodes > 1:
            raise ValueError("resources.nodes: this service has one machine; runs on several need Kubernetes")
        if self.launcher == "local" and self.queue:
            raise ValueError("queue: Kueue admits runs on Kubernetes only")
        return self

    @property
    def steps(self) -> int:
        """Steps of the whole run; a probe's are its data sets."""
        if self.train is not None:
            return self.train.steps
        return len(self.probe.data) if self.probe is not None else 0
