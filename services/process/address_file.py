"""The address file: a small JSON file by which a process that serves reports where to its parent."""

import json
import os
from pathlib import Path


def write_address_file(path: Path | None, address: str, metrics_address: str = "", **more: object) -> None:
    """Writes `{"address": "127.0.0.1:4711", "pid": 42}`; a reader sees all of it or no file.

    Args:
        path: the file, whose folder is made; None: nothing is written.
        address: host:port, with the port that was taken.
        metrics_address: that of /metrics and the probes; left out when there is none.
        more: further facts, such as `worked` of a worker.
    """
    if path is None:
        return
    facts = {"address": address, "pid": os.getpid(), **more}
    if metrics_address:
        facts["metrics_address"] = metrics_address
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    temporary.replace(path)
