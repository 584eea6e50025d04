"""What clients ask for, checked: names, sources and recipes, each error naming the field of the request."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.gateway.source_urls import source_uri
from services.gateway.uploads import complete_upload
from services.rpc.recipes import MAX_TEXT, named_preset, requested_recipe
from stablerep.captions import check_format
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.config.names import check_dataset
from stablerep.config.settings import DEFAULT_MODELS
from stablerep.errors import InvalidInput, NotFound
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.sources import SourceIdentity, look_up
from stablerep.storage.interface import Store
from stablerep.v1 import generation_pb2 as pb

MAX_RETRIED = 10_000


def dataset_of(name: str, *, field: str = "name") -> str:
    """The dataset in `jobs/{dataset}`; `field` is where it stands in the request.

    Raises:
        InvalidInput: the name has another form.
    """
    prefix, _, dataset = name.partition("/")
    try:
        if prefix == "jobs":
            return check_dataset(dataset)
    except InvalidInput:
        pass
    raise InvalidInput(f"{name[:80]!r} does not look like jobs/my-dataset", field=field)


def job_spec(
    store: Store,
    request: pb.CreateJobRequest,
    remote: Remote = STORE_ONLY,
    models: Sequence[str] = DEFAULT_MODELS,
) -> JobSpec:
    """What CreateJob asks for, with the preset's values filled in.

    Args:
        remote: the URLs besides the store's that captions may be read from.
        models: the models that its recipe may name, see `check_model`.
    Raises:
        InvalidInput: the field that is wrong.
        NotFound: an upload that does not exist.
    """
    check_dataset(request.dataset)
    preset = named_preset(request.preset)
    with below("recipe"):
        recipe = requested_recipe(request.preset, request.recipe, models)
    return JobSpec(
        dataset=request.dataset,
        recipe=recipe,
        source=checked_source(store, request.source, remote),
        captions_per_shard=request.captions_per_shard or preset.captions_per_shard,
        seed=request.seed,
        priority=request.priority,
        request_id=request.request_id,
    )


def checked_source(store: Store, source: pb.CaptionSource, remote: Remote) -> CaptionSource:
    """Where captions come from, as a job keeps it. Raises InvalidInput, and NotFound for an upload."""
    if len(source.column) > MAX_TEXT or not source.column.isprintable():
        raise InvalidInput("is too long or not printable", field="source.column")
    with below("source"):
        if source.upload_id:
            uri, name = "", complete_upload(store, source.upload_id).file_name
        else:
            uri, name = source_uri(store, source.uri, remote)
        check_format(name, source.format)
        return CaptionSource(
            uri=uri,
            upload_id=source.upload_id,
            format=source.format,
            column=source.column,
            limit=source.limit,
            header=source.header if source.HasField("header") else None,
        )


def identity_of(store: Store, source: CaptionSource, remote: Remote) -> SourceIdentity:
    """Which bytes the source is now. Raises InvalidInput if it is not there or may not be read."""
    with below("source"):
        try:
            return look_up(store, source, remote)[0]
        except NotFound as error:
            raise InvalidInput(str(error), field="uri") from error


@contextmanager
def below(parent: str) -> Iterator[None]:
    """Errors inside name a field of `parent`."""
    try:
        yield
    except InvalidInput as error:
        field = error.field
        if field != parent and not field.startswith(f"{parent}."):
            field = f"{parent}.{field}".rstrip(".")
        raise type(error)(_bare(error), field=field) from error


def _bare(error: InvalidInput) -> str:
    """The text without the field that it begins with."""
    return str(error).removeprefix(f"{error.field}: ")
