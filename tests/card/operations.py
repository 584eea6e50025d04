"""Runs on the host, over the same memory, what torch would launch on a card (`runtime.c`)."""

import ctypes
import os
import threading
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

_WITHOUT_KERNEL = {
    "_has_same_storage_numel",
    "_pin_memory",
    "_reshape_alias",
    "_unsafe_view",
    "detach_",
    "empty",
    "empty_like",
    "empty_strided",
    "is_pinned",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "record_stream",
    "resize_",
    "set_",
}
_OF_TWO_DEVICES = {
    "copy_",
    "_to_copy",
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "_unsafe_index",
}


_OF_COMPILER = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.FUNCTIONAL)
"""Modes in which nothing is computed."""


class OnHost(TorchDispatchMode):
    """Operations with tensors of a card: their memory is taken for a CPU's, results go into the card's.

    As on a card, tensors of two devices do not mix, and random numbers come from the card's own generator.
    """

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True  # graphs are compiled as if it were not there

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fakes = {each.__name__ for each in types} & {"FakeTensor", "FunctionalTensor"}
        if fakes or any(map(torch._C._get_dispatch_mode, _OF_COMPILER)):
            return operation(*args, **kwargs)
        if any(each not in (Tensor, nn.Parameter, nn.Buffer) for each in types):
            return NotImplemented  # it comes again, with what the subclass is made of
        leaves, structure = tree_flatten((args, kwargs))
        there = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda]
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if not there and (device is None or device.type != "cuda"):
            return operation(*args, **kwargs)
        name = operation._schema.name.partition("::")[2]
        if name in _WITHOUT_KERNEL or "c10d" in operation._schema.name:
            return operation(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd"):
            with self:
                return operation.decompose(*args, **kwargs)
        if operation.is_view:
            return operation(*args, **kwargs)
        if name not in _OF_TWO_DEVICES:
            _check_one_device(operation, leaves)
        return _on_host(operation, leaves, structure, device or there[0].device)


def _check_one_device(operation: Any, leaves: list[Any]) -> None:
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and (leaf.is_cuda or leaf.dim() > 0)]
    if len(devices := {str(tensor.device) for tensor in tensors}) > 1:
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found {devices}")


def _on_host(operation: Any, leaves: list[Any], structure: Any, device: torch.device) -> Any:
    on_host = {id(leaf): _memory_of(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda}
    of_card = {id(on_host[id(leaf)]): leaf for leaf in leaves if id(leaf) in on_host}

    def down(leaf: Any) -> Any:
        if isinstance(leaf, torch.Generator):
            return _numbers_of(leaf)
        return torch.device("cpu") if isinstance(leaf, torch.device) else on_host.get(id(leaf), leaf)

    def up(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or device.type == "cpu":
            return leaf
        if id(leaf) in of_card:
            return of_card[id(leaf)]
        made = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device)
        _memory_of(made).copy_(leaf)
        return made

    args, kwargs = tree_unflatten([down(leaf) for leaf in leaves], structure)
    kwargs.pop("pin_memory", None)
    draws = torch.Tag.nondeterministic_seeded in operation.tags
    if not draws or any(isinstance(leaf, torch.Generator) for leaf in leaves):
        return tree_map(up, operation(*args, **kwargs))
    before = torch.get_rng_state()
    card = torch.cuda.current_device() if device.index is None else device.index
    torch.set_rng_state(_numbers_of(torch.cuda.default_generators[card]).get_state())
    made = operation(*args, **kwargs)
    torch.set_rng_state(before)
    return tree_map(up, made)


def _memory_of(tensor: Tensor) -> Tensor:
    """The same memory as a tensor on the CPU."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    place = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(place, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(
        whole, tensor.storage_offset(), tensor.shape, tensor.stride()
    )


def _numbers_of(generator: torch.Generator) -> torch.Generator:
    """A CPU's generator for one operation; the card's goes on by one, its state is a seed and an offset."""
    assert generator.device.type == "cuda", "a card draws by its own generator"
    state = generator.get_state()
    seed, offset = (int.from_bytes(bytes(state[i : i + 8].tolist()), "little") for i in (0, 8))
    state[8:16] = torch.tensor(list((offset + 4).to_bytes(8, "little")), dtype=torch.uint8)
    generator.set_state(state)
    return torch.Generator().manual_seed(hash((seed, offset)) % 2**62)


def start() -> None:
    """From here on in this process, all its threads included.

    Compiled graphs are captured as ever and run operation by operation, unless Triton's kernels are
    interpreted; processes talk by gloo.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    torch.backends.cudnn.enabled = interpreted  # the compiler expects the layout of its convolutions
    torch.backends.mkldnn.enabled = False  # some of its kernels in bfloat16 leave gradients undefined
    for kind in ("flash", "mem_efficient", "cudnn"):  # attention by its formula
        getattr(torch.backends.cuda, f"enable_{kind}_sdp")(False)
    OnHost().__enter__()
    run_thread, compile_, init = threading.Thread.run, torch.compile, dist.init_process_group

    def run(thread: threading.Thread) -> None:
        with OnHost():
            run_thread(thread)

    threading.Thread.run = run  # type: ignore[method-assign]
    if interpreted:
        from tests.card import interpreter

        interpreter.start(OnHost)
    else:
        torch.compile = lambda model=None, **how: compile_(
            model, backend="aot_eager", fullgraph=how.get("fullgraph", False), dynamic=how.get("dynamic")
        )
        nn.Module.compile = lambda module, **_: setattr(
            module, "_compiled_call_impl", torch.compile(module._call_impl)
        )
        torch.compiler.save_cache_artifacts = lambda: (b"", None)
        torch.compiler.load_cache_artifacts = lambda _: None
    dist.init_process_group = lambda backend, **how: init("gloo", **how)
    if os.environ.get("CARD_SANITIZER"):
        from torch.cuda._sanitizer import enable_cuda_sanitizer  # it watches allocations from its import on

        enable_cuda_sanitizer()
