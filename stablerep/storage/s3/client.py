"""How an S3 server is reached (endpoint, credentials, addressing, certificates) and the client for it."""

import ipaddress
import logging
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials import Provider, StaticProvider
from pydantic import SecretStr

from stablerep.errors import InvalidInput
from stablerep.storage.interface import S3Access
from stablerep.storage.s3.credentials import find_credentials

AWS_ENDPOINT = "https://s3.amazonaws.com"
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
CONNECTIONS = 32  # kept open; more are made when more threads ask


@dataclass(frozen=True)
class Access:
    """`S3Access`, checked, as plain data that travels to other processes. No `access_key`: the AWS chain."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    session_token: str = field(repr=False)
    addressing: str
    ca_file: str

    @property
    def host(self) -> str:
        """host:port."""
        return urlsplit(self.endpoint).netloc

    @property
    def is_aws(self) -> bool:
        return (urlsplit(self.endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


@dataclass(frozen=True)
class Connection:
    """The client of one process, and its sockets: inherited through a fork they would be read by two."""

    pid: int
    client: Minio
    pool: urllib3.PoolManager


def check_access(access: S3Access) -> Access:
    """The access as plain data. Raises InvalidInput naming the setting that cannot work."""
    endpoint = access.endpoint or AWS_ENDPOINT
    parsed = urlsplit(endpoint)
    if parsed.scheme not in ("http", "https") or not parsed.netloc or parsed.path.strip("/") or parsed.query:
        raise InvalidInput(f"{endpoint!r} is not http://host:port or https://host", field="s3.endpoint")
    if access.addressing == "virtual" and _is_number(parsed.hostname or ""):
        raise InvalidInput(
            f"virtual puts the bucket's name before that of the host, and {parsed.hostname} is a number",
            field="s3.addressing",
        )
    if access.ca_file is not None and not Path(access.ca_file).is_file():
        raise InvalidInput(f"{access.ca_file} is no file", field="s3.ca_file")
    checked = Access(
        endpoint,
        access.access_key,
        _revealed(access.secret_key),
        access.region,
        _revealed(access.session_token),
        access.addressing,
        str(access.ca_file or ""),
    )
    for name in ("access_key", "secret_key"):
        if not getattr(checked, name) and (checked.access_key or checked.secret_key):
            variable = f"STABLEREP_S3__{name.upper()}"
            raise InvalidInput(f"it goes with the other key; set {variable}", field=f"s3.{name}")
    if not checked.access_key:
        find_credentials(on_aws=checked.is_aws)  # what can be seen to fail without asking anybody, fails now
    return checked


class _Tries(urllib3.Retry):
    """As its base, under a class name of its own in urllib3's logs."""


def _loggable(record: logging.LogRecord) -> bool:
    """Keeps out of the log what urllib3 says of each try, as the error in the end says it, and signatures."""
    if isinstance(record.args, tuple):
        if any(isinstance(argument, _Tries) for argument in record.args):
            return False
        record.args = tuple(map(_without_signature, record.args))
    return True


def _without_signature(argument: object) -> object:
    signed = isinstance(argument, str) and "X-Amz-" in argument
    return str(argument).partition("?")[0] if signed else argument


for _name in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_loggable)


def connect(access: Access) -> Connection:
    """A client of this process. Sends nothing yet."""
    pool = urllib3.PoolManager(
        maxsize=CONNECTIONS,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        retries=_Tries(
            total=3,
            backoff_factor=0.2,
            status_forcelist=[429, 500, 502, 503, 504],
            raise_on_status=False,  # the answer itself says why
            respect_retry_after_header=False,  # MinIO's is a minute, with no end on SIGTERM
        ),
        cert_reqs="CERT_REQUIRED",
        ca_certs=access.ca_file or _public_authorities(),
    )
    client = Minio(
        endpoint=access.host,
        credentials=_provider(access),
        region=access.region or None,
        secure=access.endpoint.startswith("https://"),
        http_client=pool,
    )
    if access.addressing == "virtual":
        client.enable_virtual_style_endpoint()
    elif access.addressing == "path":
        client.disable_virtual_style_endpoint()
    return Connection(os.getpid(), client, pool)


def _provider(access: Access) -> Provider:
    if access.access_key:
        return StaticProvider(access.access_key, access.secret_key, access.session_token or None)
    return find_credentials(on_aws=access.is_aws)


def _public_authorities() -> str | None:
    """The system's certificates (SSL_CERT_FILE, OpenSSL's folders); certifi's where it has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return paths.cafile  # None: urllib3 then loads the folder
    import certifi

    return certifi.where()


def _revealed(secret: str | SecretStr) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
