"""Trains an encoder as a configuration says, alone or as one of torchrun's processes.

    python -m services.trainer --config FILE.yaml
    torchrun --nproc-per-node 2 -m services.trainer --config FILE.yaml

SIGTERM and SIGINT end the step, write a checkpoint and exit with status 75; the same command resumes.
STABLEREP_TRAINER__METRICS_ADDRESS=HOST:PORT serves the first rank's /metrics, /healthz and /readyz.
"""

import argparse
import os
import signal
import sys
import threading
from contextlib import ExitStack
from types import FrameType

from services.process.logs import set_up_logs
from services.trainer.metrics import training_probes
from stablerep.config.settings import load_settings
from stablerep.config.training import TrainConfig, load_train_config, parse_train_config
from stablerep.errors import InvalidInput, StableRepError
from stablerep.local.children import end_with_parent
from stablerep.training.distributed import ranks_from_environment
from stablerep.training.loop import train

STOPPED = 75  # EX_TEMPFAIL: not finished; starting it again resumes it


def main() -> int:
    """The exit status: 0 finished, 75 stopped with a checkpoint, 1 failed."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()  # torchrun does not stop its processes when it is killed
    try:
        settings = load_settings()
        set_up_logs(settings)
        config = _config(_arguments())
        with ranks_from_environment() as ranks, ExitStack() as open_until_done:
            address = settings.trainer.metrics_address if ranks.first else ""
            with ranks.together():
                callback = open_until_done.enter_context(training_probes(address))
            result = train(config, ranks, stop, callback)
    except StableRepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result is None:
        if ranks.first:
            command = " ".join(["python -m services.trainer", *sys.argv[1:]])
            print(f"stopped; a checkpoint is in {config.run}. Go on with: {command}", file=sys.stderr)
        return STOPPED
    if ranks.first:
        print(f"{config.run}: {result['steps']:,} steps, loss {result['loss']:.4f}, encoder in export/")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description=__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", help="a YAML file, or the name of a preset")
    given.add_argument("--config-json", help="the whole configuration as JSON")
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
