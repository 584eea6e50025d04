"""What clients ask for of runs, checked: names, datasets, settings; each error names the field."""

from typing import Any

from pydantic import ValidationError

from stablerep.config.names import DATASET_NAME, check_dataset, check_run
from stablerep.errors import InvalidInput
from stablerep.runs.config import TrainConfig, load_train_config, override, parse_train_config, presets
from stablerep.runs.records import run_names
from stablerep.runs.spec import DAY, PHOTOGRAPHS, Launcher, ProbeTask, Resources, RunSpec
from stablerep.shards.layout import dataset_key, run_key, run_prefix
from stablerep.storage.interface import Store
from stablerep.v1 import training_pb2 as pb

MAX_DATASETS = 100
MAX_SETTINGS = 200
MAX_TEXT = 10_000
_HERE = ("run", "datasets")


def run_of(name: str, *, field: str = "name") -> str:
    """The run in `runs/{run}`. Raises InvalidInput."""
    prefix, _, run = name.partition("/")
    try:
        if prefix == "runs":
            return check_run(run)
    except InvalidInput:
        pass
    raise InvalidInput(f"{name[:80]!r} does not look like runs/my-run", field=field)


def run_spec(store: Store, request: pb.CreateRunRequest, launcher: Launcher) -> RunSpec:
    """What CreateRun asks for, with defaults filled in. Raises InvalidInput naming the field."""
    check_run(request.run)
    if request.launcher and request.launcher != launcher:
        raise InvalidInput(
            f"this gateway starts runs by {launcher}, not by {request.launcher[:40]!r}", field="launcher"
        )
    task = request.WhichOneof("task")
    if task is None:
        raise InvalidInput("give either training or probe", field="task")
    try:
        return RunSpec(
            run=request.run,
            train=_training(store, request.run, request.training) if task == "training" else None,
            probe=_probe(store, request.probe) if task == "probe" else None,
            resources=_resources(request.resources),
            launcher=launcher,
            ttl_seconds=request.ttl_seconds or DAY,
            deadline_seconds=request.deadline_seconds,
            max_restarts=request.max_restarts or 10,
            queue=request.queue,
            request_id=request.request_id,
        )
    except ValidationError as error:
        raise _invalid(error) from None


def _training(store: Store, run: str, asked: pb.Training) -> TrainConfig:
    if len(asked.config) > MAX_SETTINGS or any(len(k) + len(v) > MAX_TEXT for k, v in asked.config.items()):
        raise InvalidInput(f"more than {MAX_SETTINGS} settings, or a very long one", field="training.config")
    for key in asked.config:
        if key.partition(".")[0] in _HERE:
            raise InvalidInput("is a field of the request of its own", field=f"training.config.{key}")
    if asked.preset and asked.preset not in presets():
        raise InvalidInput(
            f"no preset {asked.preset[:80]!r}; there are {', '.join(presets())}", field="training.preset"
        )
    own = {
        "run": f"{store.url.rstrip('/')}/{run_prefix(run).rstrip('/')}",
        "datasets": _datasets(store, asked),
    }
    try:
        config = (
            load_train_config(asked.preset, {**asked.config, **own}) if asked.preset else _bare(asked, own)
        )
    except InvalidInput as error:
        text = str(error).removeprefix(f"{error.field}: ")
        raise InvalidInput(text, field=f"training.{error.field}") from error
    if config.online_probe.every and config.online_probe.data not in PHOTOGRAPHS:
        raise InvalidInput(f"is none of {', '.join(PHOTOGRAPHS)}", field="training.config.online_probe.data")
    if not config.init:
        return config
    return config.model_copy(update={"init": _model(store, config.init, "training.config.init")})


def _bare(asked: pb.Training, own: dict[str, Any]) -> TrainConfig:
    content: dict[str, Any] = {}
    override(content, asked.config)
    return parse_train_config({**content, **own})


def _datasets(store: Store, asked: pb.Training) -> tuple[str, ...]:
    """URLs of the datasets, each of which is there."""
    if not 1 <= len(asked.datasets) <= MAX_DATASETS:
        raise InvalidInput(f"name 1 to {MAX_DATASETS} datasets", field="training.datasets")
    root = f"{store.url.rstrip('/')}/datasets/"
    found = []
    for number, text in enumerate(asked.datasets):
        field = f"training.datasets[{number}]"
        name = text.removeprefix(root).removeprefix("datasets/").rstrip("/")
        if not DATASET_NAME.fullmatch(name):
            raise InvalidInput(
                f"{text[:200]!r} is none of this gateway's store; name one, such as shoes or {root}shoes",
                field=field,
            )
        if not store.exists(dataset_key(check_dataset(name))):
            raise InvalidInput(f"there is no dataset {name} in {store.url}", field=field)
        found.append(f"{root}{name}")
    return tuple(found)


def _probe(store: Store, asked: pb.Probe) -> ProbeTask:
    for number, data in enumerate(asked.data):
        if data not in PHOTOGRAPHS:
            raise InvalidInput(
                f"{data[:80]!r} is none of {', '.join(PHOTOGRAPHS)}", field=f"probe.data[{number}]"
            )
    return ProbeTask.model_validate(
        {
            "model": _model(store, asked.model, "probe.model"),
            "data": tuple(asked.data) or ("fashion",),
            "seed": asked.seed,
            "paper": asked.paper,
        }
    )


def _model(store: Store, model: str, field: str) -> str:
    """What `load_encoder` takes: the URL of a finished run of the store, or a name that is no path."""
    url = f"{store.url.rstrip('/')}/"
    name = model.removeprefix(url)
    if name.startswith("runs/"):
        run = run_of(name.rstrip("/"), field=field)
        if not store.exists(run_key(run, "export/config.json")):
            why = "has no export yet" if run in run_names(store) else "does not exist"
            raise InvalidInput(f"run {run} {why}", field=field)
        return f"{url}runs/{run}"
    # A worker's own files, or other hosts, are not the caller's to name.
    if not name or "/" in name or ":" in name or name.startswith(".") or not name.isprintable():
        raise InvalidInput(
            f"{model[:200]!r} is neither runs/NAME, a model of timm, nor `pixels`", field=field
        )
    return name


def _resources(asked: pb.Resources) -> Resources:
    return Resources(
        nodes=asked.nodes or 1,
        gpus_per_node=asked.gpus_per_node,
        processes_per_node=asked.processes_per_node or max(1, asked.gpus_per_node),
    )


def _invalid(error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    if not field:  # a rule between fields, whose text begins with one
        field, _, text = text.partition(": ")
    elif "." not in field and error.title in ("Resources", "ProbeTask"):
        field = f"{'resources' if error.title == 'Resources' else 'probe'}.{field}"
    return InvalidInput(text, field=field)
