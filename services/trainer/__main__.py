"""Trains an encoder as a configuration says, alone or as one of torchrun's processes.

    python -m services.trainer --config FILE.yaml
    torchrun --nproc-per-node 2 -m services.trainer --config FILE.yaml
    python -m services.trainer --run NAME          a run that the gateway created in the store

SIGTERM and SIGINT end the step, write a checkpoint and exit with status 75; the same command resumes.
Status 2: it can never work as configured. Status 1: anything else went wrong, trying again may help.
STABLEREP_TRAINER__METRICS_ADDRESS=HOST:PORT serves the first rank's /metrics, /healthz and /readyz.
"""

import argparse
import os
import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from services.process.logs import set_up_logs
from services.trainer.created_run import CreatedRun
from services.trainer.exits import FINISHED, STOPPED, status_of
from services.trainer.metrics import training_probes
from services.trainer.stopping import AGENT_VARIABLE, Stopping
from services.trainer.unexpected import keep_tracebacks
from stablerep.config.settings import load_settings
from stablerep.errors import InvalidInput, StableRepError
from stablerep.local.children import COMMAND_VARIABLE, end_with_parent
from stablerep.runs.config import (
    TrainConfig,
    load_train_config,
    parse_train_config,
    what_is_trained,
)

if TYPE_CHECKING:
    from stablerep.training.distributed import Ranks


def main() -> int:
    """The exit status, see services/trainer/exits.py."""
    stopping = Stopping()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun does not stop its processes when it is killed
        agent = os.environ.get(AGENT_VARIABLE)
        end_with_parent(int(agent) if agent else None)
    arguments = _arguments()
    run = None
    try:
        settings = load_settings()
        set_up_logs(settings)
        keep_tracebacks()
        if arguments.run:
            run = CreatedRun.open(settings, arguments.run)
            if run.ended is not None:
                return run.ended
        return _train(
            run.training() if run else _config(arguments), settings.trainer.metrics_address, stopping, run
        )
    except StableRepError as error:
        print(f"error: {error}", file=sys.stderr)
        status = status_of(error)
        if run is not None:
            run.failed(status, error)
        return status


def _train(config: TrainConfig, address: str, stopping: Stopping, run: CreatedRun | None) -> int:
    # Seconds of imports, after what can be found wrong without them.
    from stablerep.training.distributed import ranks_from_environment
    from stablerep.training.loop import train

    with ranks_from_environment() as ranks, ExitStack() as open_until_done:
        with ranks.together():
            callback = open_until_done.enter_context(training_probes(address if ranks.first else ""))
        if ranks.first:
            print(f"{config.run}: {what_is_trained(config)}; {_where(ranks)}", flush=True)
        stopping.training_begins()
        result = train(config, ranks, stopping.asked, callback)
        if result is None:
            if ranks.first:
                command = os.environ.get(COMMAND_VARIABLE) or shlex.join(
                    ["python", "-m", "services.trainer", *sys.argv[1:]]
                )
                print(f"stopped; a checkpoint is in {config.run}. Go on with: {command}", file=sys.stderr)
            return STOPPED
        if ranks.first:
            if run is not None:
                run.succeeded()
            print(f"{config.run}: {result['steps']:,} steps, loss {result['loss']:.4f}, encoder in export/")
    return FINISHED


def _where(ranks: "Ranks") -> str:
    processes = "1 process" if ranks.size == 1 else f"{ranks.size} processes"
    return f"{processes} on {ranks.device.type}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.trainer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", help="a YAML file, or the name of a preset")
    given.add_argument("--config-json", help="the whole configuration as JSON")
    given.add_argument("--run", metavar="NAME", help="a run that the gateway created in STABLEREP_STORE_URL")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    return parser.parse_args()


def _config(arguments: argparse.Namespace) -> TrainConfig:
    if arguments.config_json:
        return parse_train_config(arguments.config_json)
    overrides = {}
    for pair in arguments.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"{pair!r} is not KEY=VALUE", field="set")
        overrides[key] = value
    return load_train_config(arguments.config, overrides)


if __name__ == "__main__":
    sys.exit(main())
