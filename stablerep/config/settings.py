"""The settings of every process: one frozen tree from a YAML file, the environment and `--set`, checked once.

Later sources win: the YAML file named by STABLEREP_CONFIG, then STABLEREP_* variables (`__` between levels:
STABLEREP_GENERATOR__LEASE_SECONDS=30), then overrides such as `generator.lease_seconds=30`.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from stablerep.config.loading import put, read_mapping
from stablerep.errors import InvalidInput

PREFIX = "STABLEREP_"
CONFIG_VARIABLE = "STABLEREP_CONFIG"


def _split(value: Any) -> Any:
    return (
        tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value
    )


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list in YAML; one text with commas in a variable or after `--set`."""


def _trim(value: Any) -> Any:
    """Texts without white space around them, as a Secret made with `echo` has; refuses line ends inside."""
    if isinstance(value, str):
        value = value.strip()
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise ValueError("contains a line end or another control character; write it in one line")
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)
    _trim_texts = field_validator("*", mode="before")(_trim)


class S3(_Part):
    """Where `s3://` stores are served."""

    endpoint: str = Field(default="", description="http://host:port or https://host; empty: AWS")
    access_key: str = ""
    secret_key: str = Field(default="", repr=False)
    session_token: str = Field(default="", repr=False, description="of temporary credentials")
    region: str = ""
    addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="host/bucket (path) or bucket.host (virtual); auto: virtual on AWS alone"
    )
    ca_file: Path | None = Field(default=None, description="certificates of the server's own authority, PEM")


class Tls(_Part):
    """TLS on gRPC; without a certificate it is served in clear text."""

    cert_file: Path | None = Field(default=None, description="certificate chain, PEM")
    key_file: Path | None = Field(default=None, description="its private key, PEM")
    client_ca_file: Path | None = Field(
        default=None, description="authority of client certificates; when set, a client must have one"
    )


class Auth(_Part):
    """Who may call. Without a tokens file a server listens on loopback only, unless `anonymous` is set."""

    tokens_file: Path | None = Field(
        default=None,
        description="hashed bearer tokens with their roles (`stablerep token`); read again when changed",
    )
    anonymous: Literal["", "read", "submit", "admin"] = Field(
        default="",
        description="role of a call without a token; empty: none (on loopback without tokens: admin)",
    )


SHORT_S3_NAMES = {field: f"{PREFIX}S3_{field.upper()}" for field in S3.model_fields}
"""STABLEREP_S3_ENDPOINT and the like, with one `_` as other S3 tools have it, are read too."""


DEFAULT_MODELS = ("builtin:*", "stable-diffusion-v1-5/stable-diffusion-v1-5")


class GatewaySettings(_Part):
    """The front door."""

    address: str = Field(default="127.0.0.1:50051", description="host:port; port 0 takes a free one")
    announce: Path | None = Field(
        default=None, description="file that receives address and pid once it serves"
    )
    planners: int = Field(default=2, ge=1, le=64, description="jobs planned at one time by this process")
    upload_limit_bytes: int = Field(
        default=64 << 30, ge=1, description="largest caption file a client may upload"
    )
    grace_seconds: float = Field(default=5.0, ge=0, description="time for calls in flight after SIGTERM")
    metrics_address: str = Field(
        default="",
        description="host:port of /metrics, /healthz and /readyz; port 0 takes a free one; empty: off",
    )
    models: Words = Field(
        default=DEFAULT_MODELS, description="models that a job may name; `*` at the end stands for anything"
    )
    launcher: Literal["local", "kubernetes"] = Field(
        default="local",
        description="who carries out runs: trainer services on the same store, or jobs of a cluster",
    )
    source_urls: Words = Field(
        default=(), description="beginnings of URLs that captions may be read from, besides the store"
    )
    source_private_networks: bool = Field(
        default=False,
        description="lets allowed URLs lead to private addresses; for tests and closed networks",
    )


class GeneratorSettings(_Part):
    """One generator worker."""

    address: str = Field(default="127.0.0.1:0", description="host:port; port 0 takes a free one")
    announce: Path | None = Field(
        default=None, description="file that receives address and pid once it serves"
    )
    lease_seconds: float = Field(
        default=60.0, gt=0, description="a shard not renewed for so long goes to another"
    )
    retry_seconds: float = Field(
        default=5.0, ge=0, description="wait before a shard that failed is tried again; then four times that"
    )
    poll_seconds: float = Field(default=0.5, gt=0, description="pause before asking an empty queue again")
    grace_seconds: float = Field(
        default=20.0,
        ge=0,
        description="after SIGTERM a shard done within it is finished, others are released",
    )
    batch_limit: int = Field(
        default=0, ge=0, description="most images in a batch, for a GPU too small for the recipe's; 0: none"
    )
    in_flight: int = Field(
        default=3,
        ge=1,
        le=16,
        description="shards leased at a time: one generates, others are encoded or uploaded; 1: one by one",
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of torch")
    device: str = Field(default="", description="cuda, cuda:0, mps or cpu; empty: the best there is")
    metrics_address: str = Field(
        default="",
        description="host:port of /metrics, /healthz and /readyz; port 0 takes a free one; empty: off",
    )
    compile: Literal["auto", "on", "off", "search"] = Field(
        default="auto",
        description="compiled networks, shared through the store (compiled/); auto: on a GPU by CUDA; "
        "search: on, and torch times more kernels if this worker makes them",
    )
    lanes: bool = Field(
        default=True,
        description="a GPU embeds captions and decodes images beside the denoising of other batches",
    )
    preload: str = Field(
        default="",
        description="preset whose pipeline is loaded before the worker is ready; empty: at the first shard",
    )


class Trainer(_Part):
    """A training process, or the service that takes runs; what is trained stands in its own configuration."""

    announce: Path | None = Field(default=None, description="file that receives the pid once runs are taken")
    metrics_address: str = Field(
        default="",
        description="host:port of the first rank's /metrics, /healthz and /readyz; empty: off",
    )


class ConsoleSettings(_Part):
    """The web pages. What they show and do, they ask of the gateway with each visitor's own token."""

    address: str = Field(default="127.0.0.1:8080", description="host:port; port 0 takes a free one")
    announce: Path | None = Field(
        default=None, description="file that receives address and pid once it serves"
    )
    gateway: str = Field(default="127.0.0.1:50051", description="host:port of the gateway")
    worker: str = Field(
        default="",
        description="host:port of a worker, or of a service of them, for previews; empty: one that reported",
    )
    prefix: str = Field(default="", description="path below which a proxy serves it, such as /stablerep")
    hosts: Words = Field(
        default=(), description="names by which it is reached; empty: any, on loopback those of this machine"
    )
    key_file: Path | None = Field(
        default=None, description="key of the sign-ins' cookies, the same for all replicas; empty: a new one"
    )
    anonymous: bool = Field(
        default=False,
        description="visitors need no token, and may what the gateway lets calls without one; so on loopback",
    )
    upload_limit_bytes: int = Field(
        default=1 << 30, ge=1, description="largest caption file that a page takes"
    )


class Kubernetes(_Part):
    """Runs as jobs of a cluster, for `gateway.launcher=kubernetes`; the Helm chart sets all of it."""

    kubeconfig: Path | None = Field(
        default=None, description="of the cluster; empty: the one that the gateway's pod is in"
    )
    namespace: str = Field(default="", description="of the runs' jobs; empty: the gateway's own")
    pod_template: Path | None = Field(
        default=None, description="YAML of a pod template with a container `trainer`, which runs add to"
    )
    owner: str = Field(
        default="", description="a ConfigMap in that namespace, whose deletion deletes the jobs; empty: none"
    )
    gpu_resource: str = Field(default="nvidia.com/gpu", description="what a pod requests its GPUs as")


class Settings(BaseSettings):
    """The whole tree; `load_settings` builds it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        coerce_numbers_to_str=True,
    )

    _trim_texts = field_validator("*", mode="before")(_trim)

    store_url: str = Field(default="./data", description="file:///folder, a plain path or s3://bucket/prefix")
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,  # a password may stand in it
        description="the queue server; rediss:// for TLS, redis://:PASSWORD@HOST:PORT/0 with a password",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, else JSON, an object a line"
    )
    s3: S3 = S3()
    tls: Tls = Tls()
    auth: Auth = Auth()
    gateway: GatewaySettings = GatewaySettings()
    generator: GeneratorSettings = GeneratorSettings()
    trainer: Trainer = Trainer()
    console: ConsoleSettings = ConsoleSettings()
    kubernetes: Kubernetes = Kubernetes()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The first source wins."""
        short = InitSettingsSource(settings_cls, init_kwargs=_short_s3_names(os.environ))
        file = InitSettingsSource(settings_cls, init_kwargs=_read_file(os.environ.get(CONFIG_VARIABLE)))
        return init_settings, env_settings, short, file


def load_settings(overrides: Iterable[str] = ()) -> Settings:
    """Read file and environment, apply `overrides` ("a.b=c" texts) and check the whole.

    Raises:
        InvalidInput: an unknown key (the message lists the valid ones), a value that does not fit, or a
            settings file that is missing or no mapping.
    """
    _refuse_unknown_variables(os.environ)
    try:
        return Settings(**_parse_overrides(overrides))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("extra_forbidden", "model_type"):
            raise _unknown(key) from None
        raise InvalidInput(first["msg"], field=key) from None
    except SettingsError as error:  # a whole part in one variable, which must then be JSON
        raise InvalidInput(f"{error}; write STABLEREP_PART__KEY=value", field="environment") from None


def setting_keys() -> list[str]:
    """Every valid key, dotted, in order."""
    return list(_leaves(Settings, ""))


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from _leaves(part, f"{prefix}{name}.")
        else:
            yield prefix + name


def _unknown(key: str) -> InvalidInput:
    return InvalidInput(f"no such setting; the settings are {', '.join(setting_keys())}", field=key)


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    known = set(setting_keys())
    tree: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise InvalidInput("write it as key=value", field=text)
        if key not in known:
            raise _unknown(key)
        put(tree, key, value.strip())
    return tree


def _read_file(name: str | None) -> dict[str, Any]:
    return read_mapping(Path(name), CONFIG_VARIABLE) if name else {}


def _short_s3_names(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {field: environment[name] for field, name in SHORT_S3_NAMES.items() if name in environment}
    return {"s3": found} if found else {}


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """A variable with `__`, or one letter off a known name, was meant as a setting.

    Others with the prefix are let pass: Kubernetes itself sets STABLEREP_GATEWAY_SERVICE_HOST and the like.
    """
    known = {PREFIX + key.replace(".", "__").upper() for key in setting_keys()}
    known |= {CONFIG_VARIABLE, *SHORT_S3_NAMES.values()}
    for name in environment:
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        if "__" in name or difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.93):
            raise InvalidInput(f"no such setting; the variables are {', '.join(sorted(known))}", field=name)
