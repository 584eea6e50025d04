"""Starts the processes of a run on this machine: one, or several by torchrun, of one machine or of many.

    python -m services.trainer.launch --run NAME

The run stands in the store (STABLEREP_STORE_URL). On several machines each knows its number from
JOB_COMPLETION_INDEX, the name of the first one from STABLEREP_RENDEZVOUS (HOST or HOST:PORT), and the address
at which others reach it from POD_IP. Exit statuses are those of services/trainer/exits.py, whoever of the
processes ended.
"""

import argparse
import os
import socket
import sys
import time

from services.process.logs import set_up_logs
from services.trainer.created_run import CreatedRun
from services.trainer.exits import FAILED, FINISHED, STOPPED, status_of
from services.trainer.stopping import AGENT_VARIABLE
from stablerep.config.settings import load_settings
from stablerep.errors import InvalidInput, StableRepError, Unavailable
from stablerep.runs.spec import RunSpec

RENDEZVOUS_PORT = 29400
JOIN_SECONDS = 1800
"""How long a machine waits for the others: their images may still be pulled, or a node be added first."""
AGENT_RESTARTS = 3
"""Of all processes after one failed, before the machine is given up; its launcher starts it again."""


def main() -> int:
    """The exit status. A run of one process is started in place of this one."""
    parser = argparse.ArgumentParser(
        prog="python -m services.trainer.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, metavar="NAME")
    name = parser.parse_args().run
    try:
        settings = load_settings()
        set_up_logs(settings)
        run = CreatedRun.open(settings, name)
        if run.ended is not None:
            print(f"run {name} is over", file=sys.stderr)
            return run.ended
        if run.spec.probe is not None:
            _become("services.trainer.probe", name)
        if run.spec.resources.processes == 1:
            _become("services.trainer", name)
        return _torchrun(run.spec)
    except StableRepError as error:
        print(f"error: {error}", file=sys.stderr)
        return status_of(error)


def _become(module: str, run: str) -> None:
    os.execv(sys.executable, [sys.executable, "-u", "-m", module, "--run", run])


def _torchrun(spec: RunSpec) -> int:
    """All processes of this machine, restarted together with those of the others when one fails."""
    # Seconds of imports, which a run of one process does without.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    resources = spec.resources
    node, (host, port), address = _place(resources.nodes)
    config = LaunchConfig(
        min_nodes=resources.nodes,
        max_nodes=resources.nodes,
        nproc_per_node=resources.processes_per_node,
        run_id=spec.run,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{host}:{port}",
        # The host is known by its number: guessing by names fails where a machine's own does not resolve.
        rdzv_configs={"is_host": node == 0, "timeout": JOIN_SECONDS, "read_timeout": JOIN_SECONDS},
        local_addr=address,
        max_restarts=AGENT_RESTARTS,
    )
    os.environ[AGENT_VARIABLE] = str(os.getpid())
    # torch 2.15 shares one store over all rounds of the rendezvous and tells its address in the first round
    # only: a machine that joins later, in place of one that was lost, would wait for it in vain.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if node:
        _wait_for_first(host, port)
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "services.trainer", "--run", spec.run)
    except RendezvousError as error:
        print(f"error: the first machine of the run is gone: {error}", file=sys.stderr)
        return FAILED
    except SignalException:
        return STOPPED  # its processes were told to stop, and have written a checkpoint
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        for status in (STOPPED, *(s for s in sorted(statuses, reverse=True) if s > 0)):
            if status in statuses:
                return int(status)
        return FAILED  # killed by signals
    return FINISHED


def _wait_for_first(host: str, port: int) -> None:
    """Returns once the first machine listens. Raises Unavailable after JOIN_SECONDS.

    torch would wait for it as well, but in C++, where no SIGTERM is heard.
    """
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"the first machine does not answer at {host}: {error}") from error
        time.sleep(1)


def _place(nodes: int) -> tuple[int, tuple[str, int], str]:
    """This machine's number, where the first one listens, and this one's address. Raises InvalidInput."""
    if nodes == 1:
        return 0, ("127.0.0.1", 0), "127.0.0.1"
    values = {
        name: os.environ.get(name, "") for name in ("JOB_COMPLETION_INDEX", "STABLEREP_RENDEZVOUS", "POD_IP")
    }
    for name, value in values.items():
        if not value:
            raise InvalidInput(f"is not set; a run on {nodes} machines needs it", field=name)
    index, first, address = values.values()
    host, _, port = first.partition(":")
    return int(index), (host, int(port or RENDEZVOUS_PORT)), _own_name(host, int(index)) or address


def _own_name(first: str, index: int) -> str:
    """`run-x-3.run-x` from the first machine's `run-x-0.run-x`; empty where that has another form.

    torch numbers machines in the order of their addresses. By name the first one is first: it speaks for all,
    in the log and in /metrics. By IP address any may be.
    """
    label, dot, domain = first.partition(".")
    return f"{label.removesuffix('0')}{index}.{domain}" if dot and label.endswith("-0") else ""


if __name__ == "__main__":
    sys.exit(main())
