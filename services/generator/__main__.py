"""`python -m services.generator [--workers auto] [--set key=value ...]`: works until SIGTERM or a Drain call.

One worker, or with --workers one a GPU, each in a process of its own (services/generator/supervisor.py).
Settings: STABLEREP_STORE_URL, STABLEREP_REDIS_URL, STABLEREP_GENERATOR__DEVICE, ... (docs/operations.md).
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from services.generator.supervisor import Supervisor, plan_workers
from services.process.logs import set_up_logs
from services.process.program import exit_status, program_parser
from stablerep.config.settings import Settings, load_settings


def main() -> int:
    """Exit status: 0 after a drain, 2 for wrong settings, 1 for what else kept it from working."""
    parser = program_parser("generator", __doc__)
    parser.add_argument(
        "--workers", default="", metavar="N|auto", help="number of worker processes; auto: one a GPU"
    )
    arguments = parser.parse_args()

    def work() -> int | None:
        settings = load_settings(arguments.set)
        set_up_logs(settings)
        if arguments.workers:
            return _supervise(arguments.workers, arguments.set, settings)
        _run(settings)
        return None

    return exit_status("generator", work)


def _supervise(workers: str, overrides: Sequence[str], settings: Settings) -> int:
    passed_on = [word for override in overrides for word in ("--set", override)]
    with tempfile.TemporaryDirectory(prefix="stablerep-") as folder:
        return Supervisor(plan_workers(workers, passed_on, settings.generator, Path(folder))).run()


def _run(settings: Settings) -> None:
    # Read at import: bars would fill a log, and a remark on every long caption, too.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import diffusers
    import transformers

    from services.generator.service import serve

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    asyncio.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
