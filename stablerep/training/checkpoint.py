"""Checkpoints in the store: weights and optimiser state as safetensors, committed by a JSON written last.

runs/<run>/checkpoints/00000200/state.safetensors   model.<name>, optimizer.<parameter>.<field>, run.<what>
runs/<run>/checkpoints/00000200/checkpoint.json     step, seconds, loss, SHA-256 of the state

A run killed at any moment finds its last complete checkpoint. The two newest are kept.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save
from torch import Tensor, nn

from stablerep.errors import TornObject
from stablerep.shards.layout import run_key
from stablerep.storage import Store

_KEPT = 2


class CheckpointInfo(BaseModel):
    """What a checkpoint is of: the run after `step` steps."""

    model_config = ConfigDict(frozen=True)

    step: int
    seconds: float
    loss: float
    sha256: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    info: CheckpointInfo
    tensors: dict[str, Tensor]


class CheckpointWriter:
    """Writes checkpoints of one run in a background thread, from copies, while training continues."""

    def __init__(self, store: Store, run: str, on_written: Callable[[float], None] = lambda _: None) -> None:
        self._store, self._run, self._on_written = store, run, on_written
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def write(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        info: CheckpointInfo,
        more: Mapping[str, Tensor],
    ) -> None:
        """Starts writing; waits for the one before. Raises what went wrong with that one."""
        self.wait()
        tensors = {**collect_state(model, optimizer), **more}
        # Not a daemon: a process that ends normally finishes its checkpoint.
        self._thread = threading.Thread(target=self._write, args=(tensors, info), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns once what was started is in the store. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, tensors: dict[str, Tensor], info: CheckpointInfo) -> None:
        began = time.monotonic()
        try:
            data = save(tensors)
            complete = info.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
            self._store.put(_key(self._run, info.step, "state.safetensors"), data)
            self._store.put(
                _key(self._run, info.step, "checkpoint.json"), complete.model_dump_json(indent=1).encode()
            )
            for step in checkpoint_steps(self._store, self._run)[:-_KEPT]:
                self._store.delete(_key(self._run, step, "checkpoint.json"))
                self._store.delete(_key(self._run, step, "state.safetensors"))
        except Exception as error:  # noqa: BLE001  raised again by `wait`, in the training thread
            self._error = error
        else:
            self._on_written(time.monotonic() - began)


def checkpoint_steps(store: Store, run: str) -> list[int]:
    """The steps after which there are complete checkpoints, in order."""
    prefix = run_key(run, "checkpoints/")
    keys = (entry.key.removeprefix(prefix) for entry in store.list(prefix))
    return [int(key.split("/")[0]) for key in keys if key.endswith("/checkpoint.json")]


def read_checkpoint(store: Store, run: str, step: int) -> Checkpoint:
    """The checkpoint after `step` steps. Raises TornObject if its state is not what was written."""
    info = CheckpointInfo.model_validate_json(store.get(_key(run, step, "checkpoint.json")))
    key = _key(run, step, "state.safetensors")
    data = store.get(key)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise TornObject(
            f"{key} is damaged; delete checkpoints/{step:08d} of run {run} to go on from the one before"
        )
    return Checkpoint(info, load(data))


def collect_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies on the CPU of all that the model and the optimiser remember, by name."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, fields in optimizer.state.items():
        for field, value in fields.items():
            tensors[f"optimizer.{names[id(parameter)]}.{field}"] = torch.as_tensor(value)
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def restore_state(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts back what `collect_state` took from a model of the same shape."""
    part = "model."
    model.load_state_dict({n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)})
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            parameter_name, _, field = name.removeprefix("optimizer.").rpartition(".")
            parameter = parameters[parameter_name]
            state: dict[str, Any] = optimizer.state[parameter]
            # Channels-last weights keep their layout, or a resumed run would differ in the last bits.
            like = parameter if value.shape == parameter.shape else value
            state[field] = torch.empty_like(like, dtype=value.dtype, device=parameter.device).copy_(value)


def _key(run: str, step: int, name: str) -> str:
    return run_key(run, f"checkpoints/{step:08d}/{name}")
