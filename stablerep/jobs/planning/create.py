"""Creating a job: its record first, then `dataset.json`, then the queue. Repeated, it changes nothing."""

from datetime import UTC, datetime

from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.config.recipe import Recipe
from stablerep.errors import AlreadyExists, NotFound
from stablerep.jobs.job import JobSpec
from stablerep.jobs.planning.sources import SourceIdentity, look_up, source_facts
from stablerep.jobs.records import CreateRecord, PlannedRecord, read_create, write_create
from stablerep.queue.client import Queue
from stablerep.shards.info import DatasetInfo, write_dataset
from stablerep.shards.layout import dataset_key
from stablerep.storage.interface import Store

# In the order in which a difference is named: the user's own words first.
_COMPARED = ("source", "seed", "captions_per_shard", "priority")


def create_job(
    store: Store,
    queue: Queue,
    spec: JobSpec,
    remote: Remote = STORE_ONLY,
    *,
    identity: SourceIdentity | None = None,
) -> JobSpec:
    """Creates a job, still to be planned, and returns its request; the same request again changes nothing.

    Args:
        remote: the URLs besides the store's that captions may be read from.
        identity: of the caption source, if the caller has looked it up.
    Raises:
        AlreadyExists: the dataset is another request's; `field` names what differs.
        NotFound: the caption source does not exist.
    """
    record = _created(store, spec.dataset)
    try:
        identity = identity or look_up(store, spec.source, remote)[0]
    except NotFound:
        if record is None:
            raise
        identity = record.identity  # needed no more once the job is planned; `plan` fails one that is not
    record = record or _claim(store, spec, identity)
    _check_same(record, spec, identity)
    write_description(store, record)
    enqueue(store, queue, record)
    return record.spec


def enqueue(store: Store, queue: Queue, record: CreateRecord) -> None:
    """Adds the job to the queue, in place of one of its name whose objects were removed by hand."""
    spec = record.spec

    def add() -> bool:
        return queue.add_job(
            spec.dataset, priority=spec.priority, job_uid=record.job_uid, shard_images=spec.shard_images
        )

    if add() or queue.job_uid(spec.dataset) == record.job_uid:
        return
    if read_create(store, spec.dataset).job_uid == record.job_uid:
        queue.remove(spec.dataset)
        add()


def write_description(store: Store, record: CreateRecord, planned: PlannedRecord | None = None) -> None:
    """Writes `dataset.json`: before planning only if it is absent, after it with the counts."""
    spec = record.spec
    info = DatasetInfo(
        name=spec.dataset,
        recipe=spec.recipe.model_dump(),
        recipe_digest=spec.recipe.digest,
        job_seed=spec.seed,
        captions_per_shard=spec.captions_per_shard,
        source=source_facts(spec.source, record.identity),
        counts={"shards": planned.shards, "captions": planned.captions} if planned else {},
        create_time=record.create_time,
    )
    write_dataset(store, info, if_absent=planned is None)


def _created(store: Store, dataset: str) -> CreateRecord | None:
    try:
        return read_create(store, dataset)
    except NotFound:
        return None


def _claim(store: Store, spec: JobSpec, identity: SourceIdentity) -> CreateRecord:
    """The record that has the dataset's name: this request's, or that of one that was quicker."""
    if store.exists(dataset_key(spec.dataset)):
        quicker = _created(store, spec.dataset)
        if quicker is None:
            raise AlreadyExists(
                f"{store.url} has a dataset {spec.dataset} that no job made; choose another name",
                field="dataset",
            )
        return quicker
    record = CreateRecord(spec=spec, identity=identity, create_time=datetime.now(UTC))
    return record if write_create(store, record) else read_create(store, spec.dataset)


def _check_same(record: CreateRecord, spec: JobSpec, identity: SourceIdentity) -> None:
    """Raises `AlreadyExists` unless the request is the one of the job in the store."""
    for field in Recipe.model_fields:
        _check_equal(
            record, f"recipe.{field}", getattr(record.spec.recipe, field), getattr(spec.recipe, field)
        )
    for field in _COMPARED:
        _check_equal(record, field, getattr(record.spec, field), getattr(spec, field))
    _check_equal(record, "source", record.identity, identity)


def _check_equal(record: CreateRecord, field: str, there: object, asked: object) -> None:
    if there != asked:
        raise AlreadyExists(
            f"dataset {record.spec.dataset} exists with {field} {there!r}, not {asked!r}; "
            "choose another name or ask for the same",
            field=field,
        )
