"""Names of the objects in a store, built from checked names.

datasets/<dataset>/dataset.json  captions/000123.jsonl.zst  shards/000123.tar  index/000123.json
datasets/<dataset>/manifest/manifest.json  000-0123456789abcdef.arrow
datasets/<dataset>/job/create.json  planned.json  plan/000000.arrow  dead/000123.json
datasets/<dataset>/job/events/<time>-<kind>.json
compiled/<card>-<torch>-<networks>/artifact.json  0123456789abcdef.bin
uploads/<upload>/upload.json  000000.part
requests/<request id>.json
runs/<run>/...
active-runs/<run>
sweeps/<sweep>.json  <sweep>.svg
"""

import re

from stablerep.config.names import check_dataset, check_request_id, check_run, check_upload_id
from stablerep.errors import InvalidInput

DATASETS = "datasets/"
RUNS = "runs/"
ACTIVE_RUNS = "active-runs/"
SWEEPS = "sweeps/"
MAX_SHARDS = 1_000_000  # six digits in every name
SHARDS_PER_BLOCK = 1000  # of a manifest: shards whose numbers differ in the last three digits


def dataset_prefix(dataset: str) -> str:
    """Where everything of a dataset lies; also what its URL is the store's URL plus."""
    return f"{DATASETS}{check_dataset(dataset)}/"


def dataset_key(dataset: str) -> str:
    return f"{dataset_prefix(dataset)}dataset.json"


def captions_key(dataset: str, shard: int) -> str:
    return f"{captions_prefix(dataset)}{_number(shard)}.jsonl.zst"


def captions_prefix(dataset: str) -> str:
    return f"{dataset_prefix(dataset)}captions/"


def shard_key(dataset: str, shard: int) -> str:
    return f"{shards_prefix(dataset)}{_number(shard)}.tar"


def shards_prefix(dataset: str) -> str:
    return f"{dataset_prefix(dataset)}shards/"


def index_key(dataset: str, shard: int) -> str:
    """The commit marker of a shard: it is done once this is there."""
    return f"{index_prefix(dataset)}{_number(shard)}.json"


def index_prefix(dataset: str) -> str:
    return f"{dataset_prefix(dataset)}index/"


def index_block_prefix(dataset: str, block: int) -> str:
    """What the keys of the indexes of a block's shards, and no others, start with."""
    return f"{index_prefix(dataset)}{_number(block * SHARDS_PER_BLOCK)[:-3]}"


def manifest_key(dataset: str) -> str:
    """Which blocks there are of the manifest; the indexes hold the same, in more objects."""
    return f"{dataset_prefix(dataset)}manifest/manifest.json"


def block_key(dataset: str, block: int, sha256: str) -> str:
    """A block of the manifest with these contents: it is never written with others."""
    number = _number(block * SHARDS_PER_BLOCK)[:-3]
    return f"{dataset_prefix(dataset)}manifest/{number}-{sha256[:16]}.arrow"


def job_prefix(dataset: str) -> str:
    """What only the service reads; a dataset is whole without it."""
    return f"{dataset_prefix(dataset)}job/"


def create_key(dataset: str) -> str:
    return f"{job_prefix(dataset)}create.json"


def planned_key(dataset: str) -> str:
    """Written last of all that planning writes; a job without it is still being planned."""
    return f"{job_prefix(dataset)}planned.json"


def plan_key(dataset: str, shard: int) -> str:
    """The captions of this shard and some after it in one object."""
    return f"{plan_prefix(dataset)}{_number(shard)}.arrow"


def plan_prefix(dataset: str) -> str:
    return f"{job_prefix(dataset)}plan/"


def event_key(dataset: str, time_ns: int, kind: str) -> str:
    """One control event (`pause`, `resume`, `cancel`, ...); listed in order of time."""
    if not re.fullmatch(r"[a-z]{1,20}", kind):
        raise InvalidInput(f"{kind[:80]!r} is not 1-20 of a-z", field="kind")
    if not 0 <= time_ns < 10**20:
        raise InvalidInput(f"{time_ns} is no time in nanoseconds", field="time_ns")
    return f"{events_prefix(dataset)}{time_ns:020d}-{kind}.json"


def events_prefix(dataset: str) -> str:
    return f"{job_prefix(dataset)}events/"


def dead_key(dataset: str, shard: int) -> str:
    return f"{dead_prefix(dataset)}{_number(shard)}.json"


def dead_prefix(dataset: str) -> str:
    return f"{job_prefix(dataset)}dead/"


def shard_of(key: str) -> int:
    """The (first) shard number that a key of captions, plan, shard, index or dead letter ends in.

    Raises InvalidInput.
    """
    match = re.fullmatch(r"datasets/[^/]+/(?:captions|shards|index|job/dead|job/plan)/(\d{6})\.[a-z.]+", key)
    if match is None:
        raise InvalidInput(f"{key!r} is not an object of one shard", field="key")
    return int(match.group(1))


def upload_key(upload_id: str) -> str:
    """The state of an upload: file name, size, whether complete."""
    return f"{upload_prefix(upload_id)}upload.json"


def upload_part_key(upload_id: str, part: int) -> str:
    return f"{upload_prefix(upload_id)}{_number(part)}.part"


def upload_prefix(upload_id: str) -> str:
    return f"uploads/{check_upload_id(upload_id)}/"


def request_key(request_id: str) -> str:
    """Which request an id belongs to; the first one to carry it creates this. Raises InvalidInput."""
    return f"requests/{check_request_id(request_id)}.json"


def compiled_prefix(card: str, torch: str, networks: str) -> str:
    """Where compiled networks lie, for one kind of card and one version of torch."""
    return f"compiled/{card}-{torch}-{networks}/"


def active_run_key(run: str) -> str:
    """There while a run needs its launcher: until it is over and its processes are gone."""
    return f"{ACTIVE_RUNS}{check_run(run)}"


def run_prefix(run: str) -> str:
    """Where everything of a run lies; also what its URL is the store's URL plus."""
    return f"{RUNS}{check_run(run)}/"


def run_key(run: str, name: str) -> str:
    """An object of a run, such as `run_key("r1", "export/model.safetensors")`."""
    return f"{run_prefix(run)}{name}"


def map_key(run: str, data: str, kind: str) -> str:
    """The embedding map of these photographs: `json`, its points; `jpg`, the photographs."""
    return run_key(run, f"maps/{check_dataset(data)}.{kind}")


def sweep_key(sweep: str, kind: str) -> str:
    """What a sweep has measured so far: `json`, every number; `svg`, the figure."""
    return f"{SWEEPS}{check_dataset(sweep)}.{kind}"


def _number(number: int) -> str:
    if not 0 <= number < MAX_SHARDS:
        raise InvalidInput(f"number {number} is not in 0..{MAX_SHARDS - 1}", field="shard")
    return f"{number:06d}"
