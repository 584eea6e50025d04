"""Checkpoints in the store: weights and optimiser state as safetensors, committed by a JSON written last.

runs/<run>/checkpoints/00000200/state-000.safetensors  model.<name>, optimizer.<parameter>.<field>, run.<what>
runs/<run>/checkpoints/00000200/checkpoint.json        step, seconds, loss, SHA-256 of every part

A state of more than 2 GiB has several parts. A run killed at any moment finds its last complete checkpoint.
The newest ones are kept, two unless the run says otherwise.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save
from torch import Tensor, nn

from stablerep.errors import TornObject
from stablerep.shards.layout import run_key
from stablerep.storage import Store
from stablerep.training.sharding import spread_like, whole

_PART_BYTES = 2 << 30
_FIRST_SCHEMA = "state.safetensors"
"""The one file of runs that were trained before states had parts."""


class CheckpointInfo(BaseModel):
    """What a checkpoint is of: the run after `step` steps; `parts` are its files and the SHA-256 of each."""

    model_config = ConfigDict(frozen=True)

    step: int
    seconds: float
    loss: float
    sha256: str = ""
    parts: dict[str, str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    info: CheckpointInfo
    tensors: dict[str, Tensor]


class CheckpointWriter:
    """Writes checkpoints of one run in a background thread, from copies, while training continues."""

    def __init__(
        self,
        store: Store,
        run: str,
        on_written: Callable[[float], None] = lambda _: None,
        *,
        keep: int = 2,
    ) -> None:
        self._store, self._run, self._on_written, self._keep = store, run, on_written, keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def write(self, tensors: dict[str, Tensor], info: CheckpointInfo) -> None:
        """Starts writing copies that nobody changes; waits for the one before, and raises what it raised."""
        self.wait()
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
            digests = {}
            for number, part in enumerate(_parts(tensors)):
                data, name = save(part), f"state-{number:03d}.safetensors"
                digests[name] = hashlib.sha256(data).hexdigest()
                self._store.put(_key(self._run, info.step, name), data)
            complete = info.model_copy(update={"parts": digests})
            self._store.put(
                _key(self._run, info.step, "checkpoint.json"), complete.model_dump_json(indent=1).encode()
            )
            for step in checkpoint_steps(self._store, self._run)[: -self._keep]:
                self._store.delete(_key(self._run, step, "checkpoint.json"))
                left = [entry.key for entry in self._store.list(_key(self._run, step, ""))]
                self._store.delete_many(left)
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
    tensors: dict[str, Tensor] = {}
    for name, digest in (info.parts or {_FIRST_SCHEMA: info.sha256}).items():
        key = _key(run, step, name)
        data = store.get(key)
        if hashlib.sha256(data).hexdigest() != digest:
            raise TornObject(
                f"{key} is damaged; delete checkpoints/{step:08d} of run {run} to go on from the one before"
            )
        tensors.update(load(data))
    return Checkpoint(info, tensors)


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors in groups of at most so many bytes, or of one tensor."""
    part: dict[str, Tensor] = {}
    room = _PART_BYTES
    for name, tensor in tensors.items():
        if part and room < tensor.nbytes:
            yield part
            part, room = {}, _PART_BYTES
        part[name] = tensor
        room -= tensor.nbytes
    yield part


def collect_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> dict[str, Tensor]:
    """Copies on the CPU of all that the model and the optimiser remember, by name.

    Where they are spread over ranks, every rank calls this, and those that do not `keep` get nothing.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, fields in optimizer.state.items():
        for field, value in fields.items():
            tensors[f"optimizer.{names[id(parameter)]}.{field}"] = torch.as_tensor(value)
    # In one order everywhere: that of a state read from a file is another in every process.
    gathered = ((name, whole(tensors[name].detach())) for name in sorted(tensors))
    return {name: value.to("cpu", copy=True).contiguous() for name, value in gathered if keep}


def restore_state(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts back what `collect_state` took from a model of the same shape."""
    restore_model(tensors, model)
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            parameter_name, _, field = name.removeprefix("optimizer.").rpartition(".")
            parameter = parameters[parameter_name]
            state: dict[str, Any] = optimizer.state[parameter]
            own = field != "step"
            value = spread_like(value.reshape(parameter.shape), parameter) if own else value
            # Channels-last weights keep their layout, or a resumed run would differ in the last bits.
            like = parameter if own else value
            state[field] = torch.empty_like(like, dtype=value.dtype, device=parameter.device).copy_(value)


def restore_model(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Puts the weights back, not the optimiser's state."""
    part, there = "model.", model.state_dict()
    kept = {n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)}
    # A single number was kept without a dimension by earlier versions. Names are checked by torch.
    fitting = {n: t.reshape(there[n].shape) if n in there and t.numel() == 1 else t for n, t in kept.items()}
    model.load_state_dict({n: spread_like(t, there.get(n, t)) for n, t in fitting.items()})


def _key(run: str, step: int, name: str) -> str:
    return run_key(run, f"checkpoints/{step:08d}/{name}")
