"""The names that datasets, runs, uploads and requests may have: object names are built from no others."""

import re

from stablerep.errors import InvalidInput

DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
UPLOAD_ID = re.compile(r"[a-z0-9_-]{1,63}")
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def check_dataset(dataset: str) -> str:
    """The name itself, if a dataset (and so its job) may have it. Raises InvalidInput."""
    return _check(
        dataset, DATASET_NAME, "dataset", "1-63 of a-z, 0-9, '-', '_', '.', a letter or digit first"
    )


def check_run(run: str) -> str:
    """The name itself, if a run may have it. Raises InvalidInput."""
    return _check(run, DATASET_NAME, "run", "1-63 of a-z, 0-9, '-', '_', '.', a letter or digit first")


def check_upload_id(upload_id: str) -> str:
    """The id itself, if an upload may have it. Raises InvalidInput."""
    return _check(upload_id, UPLOAD_ID, "upload_id", "1-63 of a-z, 0-9, '-', '_'")


def check_request_id(request_id: str) -> str:
    """The id itself, if a request may carry it. Raises InvalidInput."""
    rule = "1-128 of A-Z, a-z, 0-9, '.', '_', ':', '-', a letter or digit first"
    return _check(request_id, REQUEST_ID, "request_id", rule)


def _check(name: str, pattern: re.Pattern[str], field: str, rule: str) -> str:
    if not pattern.fullmatch(name):
        raise InvalidInput(f"{name[:80]!r} is not a valid name: {rule}", field=field)
    return name
