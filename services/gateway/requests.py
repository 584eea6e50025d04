"""What clients ask for, checked: names, sources and recipes, each error naming the field of the request."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from services.gateway.uploads import complete_upload
from stablerep.captions import check_format
from stablerep.errors import InvalidInput
from stablerep.jobs.job import CaptionSource, JobSpec, check_dataset_name
from stablerep.jobs.recipe import load_preset
from stablerep.storage.store import Store, check_key
from stablerep.v1 import generation_pb2 as pb

DEFAULT_PRESET = "sd15"
MAX_RECIPE_FIELDS = 64
MAX_TEXT = 1000


def dataset_of(name: str) -> str:
    """The dataset in `jobs/{dataset}`.

    Raises:
        InvalidInput: the name has another form.
    """
    prefix, _, dataset = name.partition("/")
    try:
        if prefix == "jobs":
            return check_dataset_name(dataset)
    except InvalidInput:
        pass
    raise InvalidInput(f"{name[:80]!r} does not look like jobs/my-dataset", field="name")


def job_spec(store: Store, request: pb.CreateJobRequest) -> JobSpec:
    """What CreateJob asks for, with the preset's values filled in.

    Raises:
        InvalidInput: the field that is wrong.
        NotFound: an upload, or an object named by the source, that does not exist.
    """
    for key, value in request.recipe.items():
        if len(key) + len(value) > MAX_TEXT or len(request.recipe) > MAX_RECIPE_FIELDS:
            raise InvalidInput("is too long", field="recipe")
    check_dataset_name(request.dataset)
    preset = load_preset(request.preset or DEFAULT_PRESET)
    with _below("recipe"):
        recipe = load_preset(request.preset or DEFAULT_PRESET, dict(request.recipe)).recipe
    return JobSpec(
        dataset=request.dataset,
        recipe=recipe,
        source=_source(store, request.source),
        captions_per_shard=request.captions_per_shard or preset.captions_per_shard,
        seed=request.seed,
        priority=request.priority,
        request_id=request.request_id,
    )


def _source(store: Store, source: pb.CaptionSource) -> CaptionSource:
    if len(source.column) > MAX_TEXT or not source.column.isprintable():
        raise InvalidInput("is too long or not printable", field="source.column")
    with _below("source"):
        if source.upload_id:
            name = complete_upload(store, source.upload_id).file_name
            uri = ""
        else:
            uri = name = _store_key(store, source.uri)
        check_format(name.rpartition("/")[2], source.format)
        return CaptionSource(
            uri=uri,
            upload_id=source.upload_id,
            format=source.format,
            column=source.column,
            limit=source.limit,
        )


def _store_key(store: Store, uri: str) -> str:
    """The key of an object in the store; nothing outside it is ever opened."""
    if not uri:
        raise InvalidInput("give either a uri or an upload_id")
    key = uri
    if "://" in uri:
        below = f"{store.url.rstrip('/')}/"
        if not uri.startswith(below):
            raise InvalidInput(f"{uri[:200]!r} is not in the store {store.url}", field="uri")
        key = uri.removeprefix(below)
        key = unquote(key) if uri.startswith("file:") else key
    try:
        check_key(key)
    except InvalidInput as error:
        raise InvalidInput(_bare(error), field="uri") from error
    if not store.exists(key):
        raise InvalidInput(f"there is no object {key} in {store.url}", field="uri")
    return key


@contextmanager
def _below(parent: str) -> Iterator[None]:
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
