"""Simulated workers on one queue, threads of two processes; processor time of the server and of clients."""

import multiprocessing
import os
import tempfile
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psutil

from benchmarks.queue_contenders import CONTENDERS
from stablerep.local.queue_server import EmbeddedServer

PROCESSES = 2
THREADS_A_CLIENT = 50  # a client of redis-py has at most 100 connections


def measure_queue(name: str, workers: int, shards: int) -> dict[str, Any]:
    """So many empty shards through one contender; the clock runs from the first enqueued to the last done."""
    processes = min(PROCESSES, workers)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        barrier = context.Barrier(processes + 1)
        used: Any = context.Array("d", processes)
        crew = [
            context.Process(
                target=_crew, args=(name, server.url, workers // processes, number, barrier, used)
            )
            for number in range(processes)
        ]
        for process in crew:
            process.start()
        contender = CONTENDERS[name](server.url, workers // processes)
        pid = psutil.Process(server.pid)
        barrier.wait()
        before, began = _cpu(pid), time.perf_counter()
        own = time.process_time()
        contender.enqueue(shards)
        barrier.wait()
        while contender.done() < shards:
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        server_cpu = _cpu(pid) - before
        clients_cpu = time.process_time() - own
        for process in crew:
            process.join()
        assert contender.done() == shards
        clients_cpu += sum(used)
    return {
        "shards_per_second": round(shards / seconds),
        "server_us": round(server_cpu / shards * 1e6),
        "clients_us": round(clients_cpu / shards * 1e6),
    }


def _crew(name: str, url: str, threads: int, number: int, barrier: Barrier, used: Any) -> None:
    step = threads if name == "dramatiq" else THREADS_A_CLIENT  # that one starts the threads itself
    crew = []
    for start in range(0, threads, step):
        contender = CONTENDERS[name](url, threads)
        for n in range(start, min(start + step, threads)):
            worker = f"w{number}-{os.getpid()}-{n}"
            crew.append(threading.Thread(target=contender.work, args=(worker,)))
    barrier.wait()
    barrier.wait()
    began = time.process_time()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    used[number] = time.process_time() - began


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
