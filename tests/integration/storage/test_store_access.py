"""Any S3: private authorities, virtual hosts, temporary credentials, roles, policies, lax servers."""

import base64
import io
import json
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from minio import Minio
from minio.credentials import AssumeRoleProvider, Credentials, StaticProvider
from minio.minioadmin import MinioAdmin

from stablerep.config.settings import S3
from stablerep.errors import InvalidInput, StoreRefused, Unavailable
from stablerep.storage import Store, open_store
from stablerep.testing.servers import MinioServer, S3Server, VersityServer
from tests.certificates import Authority
from tests.paths import ROOT
from tests.proxies import S3Proxy
from tests.tools import tool

DOMAIN = "s3.test"
AWS_VARIABLES = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "SHARED_CREDENTIALS_FILE",
                 "WEB_IDENTITY_TOKEN_FILE", "ROLE_ARN", "REGION", "ENDPOINT_URL_STS", "EC2_METADATA_DISABLED",
                 "CONTAINER_CREDENTIALS_FULL_URI", "CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip


@pytest.fixture(autouse=True)
def no_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in AWS_VARIABLES:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module", params=["minio", "versitygw"])
def tls_server(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    """A server of either make that speaks TLS alone and knows buckets by host name."""
    folder = tmp_path_factory.mktemp(f"{request.param}-tls")
    identity = authority.issue("server", hosts=(DOMAIN, f"*.{DOMAIN}", "127.0.0.1"))
    certificates = folder / "certificates"
    certificates.mkdir()
    shutil.copy(identity.cert_file, certificates / "public.crt")  # names that MinIO looks for
    shutil.copy(identity.key_file, certificates / "private.key")
    kind = {"minio": MinioServer, "versitygw": VersityServer}[request.param]
    server = kind(tool(request.param), folder, tls=certificates, domain=DOMAIN)
    yield server
    server.stop()


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Makes DOMAIN and names below it mean this machine, as a wildcard in DNS would; the names asked for."""
    names: set[str] = set()
    ask = socket.getaddrinfo

    def answer(host: Any, *args: Any, **options: Any) -> Any:
        if host == DOMAIN or str(host).endswith(f".{DOMAIN}"):
            names.add(str(host))
            host = "127.0.0.1"
        return ask(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return names


def access_to(server: S3Server, **changes: Any) -> S3:
    return S3(
        **{"endpoint": server.endpoint, "access_key": server.access_key, "secret_key": server.secret_key}
        | changes
    )


def new_url() -> str:
    return f"s3://access-{secrets.token_hex(6)}/some/data"


def use(store: Store) -> None:
    """Every kind of request once."""
    assert store.put("a/1", b"one", if_absent=True) is True
    assert store.put("a/1", b"two", if_absent=True) is False
    assert store.put("a/2", b"x" * (17 << 20)) is True  # in parts
    assert store.get_range("a/1", 1, 2) == b"ne"
    assert [info.key for info in store.list()] == ["a/1", "a/2"]
    assert list(store.children()) == ["a/"]
    assert store.stat("a/3") is None
    store.delete("a/2")
    assert store.delete_many(["a/1"]) == 1
    assert list(store.list()) == []


@pytest.mark.parametrize("addressing", ["auto", "path", "virtual"])
def test_a_store_works_over_tls_with_a_private_authority(
    tls_server: S3Server, authority: Authority, resolved: set[str], addressing: str
) -> None:
    endpoint = tls_server.endpoint.replace("127.0.0.1", DOMAIN)
    access = access_to(tls_server, endpoint=endpoint, addressing=addressing, ca_file=authority.ca_file)
    url = new_url()
    use(open_store(url, s3=access))
    bucket = f"{url.split('/')[2]}.{DOMAIN}"
    assert (bucket in resolved) == (addressing == "virtual")


def test_a_server_of_an_unknown_authority_is_refused_with_the_setting_to_look_at(
    tls_server: S3Server, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other").ca_file
    with pytest.raises(Unavailable, match="STABLEREP_S3__CA_FILE"):
        open_store("s3://bucket", s3=access_to(tls_server)).put("a", b"x", if_absent=True)
    with pytest.raises(Unavailable, match="STABLEREP_S3__CA_FILE"):
        open_store("s3://bucket", s3=access_to(tls_server, ca_file=other)).get("a")


def temporary(server: MinioServer) -> Credentials:
    """Credentials with a session token, from the server's own token service."""
    return AssumeRoleProvider(
        sts_endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key
    ).retrieve()


def test_temporary_credentials_work_with_their_session_token_alone(minio_server: MinioServer) -> None:
    found = temporary(minio_server)
    keys = {"access_key": found.access_key, "secret_key": found.secret_key}
    use(open_store(new_url(), s3=access_to(minio_server, **keys, session_token=found.session_token)))
    for token in ("", "wrong"):
        store = open_store(new_url(), s3=access_to(minio_server, **keys, session_token=token))
        with pytest.raises(StoreRefused, match="expired") as caught:
            store.put("a", b"x", if_absent=True)
        assert found.secret_key not in str(caught.value)


def test_the_variables_of_aws_tools_are_taken_where_the_settings_have_no_keys(
    minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = temporary(minio_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", found.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", found.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(found.session_token))
    use(open_store(new_url(), s3=S3(endpoint=minio_server.endpoint)))


def test_a_shared_credentials_file_is_taken_and_read_again_once_its_keys_are_refused(
    minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "store")
    write = "[store]\naws_access_key_id = {}\naws_secret_access_key = {}\n".format
    file.write_text(write(minio_server.access_key, "of yesterday"))
    store = open_store(new_url(), s3=S3(endpoint=minio_server.endpoint))
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        store.put("a", b"x", if_absent=True)
    file.write_text(write(minio_server.access_key, minio_server.secret_key))
    use(store)


def test_no_credentials_anywhere_are_an_error_that_names_the_places(minio_server: MinioServer) -> None:
    with pytest.raises(InvalidInput, match=r"STABLEREP_S3__ACCESS_KEY.*AWS_ACCESS_KEY_ID") as caught:
        open_store("s3://bucket", s3=S3(endpoint=minio_server.endpoint))
    assert caught.value.field == "s3.access_key"


class JsonService:
    """A web service of the platform around a process: `answer` makes the JSON for a path."""

    def __init__(self, answer: Callable[[str], dict[str, Any]]) -> None:
        self.asked = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked += 1
                body = json.dumps(answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_containers_role_is_asked_again_when_its_credentials_are_about_to_expire(
    minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = iter([5, 3600])  # seconds; what ends within ten is as good as over

    def answer(path: str) -> dict[str, Any]:
        found = temporary(minio_server)
        end = datetime.now(UTC) + timedelta(seconds=next(lives))
        return {
            "AccessKeyId": found.access_key,
            "SecretAccessKey": found.secret_key,
            "Token": found.session_token,
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    service = JsonService(answer)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/role")
    use(open_store(new_url(), s3=S3(endpoint=minio_server.endpoint)))
    service.close()
    assert service.asked == 2


class IdentityProvider:
    """Signs tokens as the issuer of a cluster's service accounts does, and serves the key to check them."""

    audience = "stablerep"

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._service = JsonService(self._answer)
        self.configuration = f"{self._service.url}/.well-known/openid-configuration"

    def token(self, policy: str) -> str:
        claims = {
            "iss": self._service.url,
            "aud": self.audience,
            "sub": "system:serviceaccount:stablerep:generator",
            "exp": int(time.time()) + 3600,
            "policy": policy,
        }
        parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, claims)]
        signature = self._key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, _encoded(signature)])

    def close(self) -> None:
        self._service.close()

    def _answer(self, path: str) -> dict[str, Any]:
        if path != "/keys":
            return {"issuer": self._service.url, "jwks_uri": f"{self._service.url}/keys"}
        numbers = self._key.public_key().public_numbers()
        modulus, exponent = (
            _encoded(number.to_bytes(-(-number.bit_length() // 8), "big"))
            for number in (numbers.n, numbers.e)
        )
        key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": modulus, "e": exponent}
        return {"keys": [key]}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _wait_until_trusted(server: MinioServer) -> None:
    """The server is healthy a moment before it has read whom it trusts."""
    deadline = time.monotonic() + 60
    while True:
        try:
            open_store(new_url(), s3=S3(endpoint=server.endpoint)).put("a", b"x")
            return
        except StoreRefused:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_service_accounts_token_is_changed_for_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with IRSA, the token service being the store's own."""
    provider = IdentityProvider()

    class TrustingServer(MinioServer):
        def _environment(self, domain: str | None) -> dict[str, str]:
            return super()._environment(domain) | {
                "MINIO_IDENTITY_OPENID_CONFIG_URL": provider.configuration,
                "MINIO_IDENTITY_OPENID_CLIENT_ID": provider.audience,
            }

    server = TrustingServer(tool("minio"), tmp_path)
    try:
        token = tmp_path / "token"
        token.write_text(provider.token("readwrite"))
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.endpoint)
        _wait_until_trusted(server)
        use(open_store(new_url(), s3=S3(endpoint=server.endpoint)))
        token.write_text(provider.token("readonly"))  # as the platform renews it
        store = open_store(new_url(), s3=S3(endpoint=server.endpoint))
        with pytest.raises(StoreRefused, match="AccessDenied"):
            store.put("a", b"x")
    finally:
        server.stop()
        provider.close()


def test_a_role_that_is_refused_is_waited_out_and_its_token_is_not_told(
    minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server's token service knows no identity provider: it refuses every identity."""
    token = tmp_path / "token"
    token.write_text("a-secret-identity")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/generator")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", minio_server.endpoint)
    store = open_store("s3://bucket", s3=S3(endpoint=minio_server.endpoint))
    with pytest.raises(
        StoreRefused, match=r"web identity: http://127\.0\.0\.1:\d+ failed with HTTP"
    ) as caught:
        store.get("a")
    assert "a-secret-identity" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_policy_in_the_docs_is_all_that_a_store_needs(minio_server: MinioServer) -> None:
    text = (ROOT / "docs" / "stores.md").read_text()
    found = re.search(r"```json\n(\{.*?\})\n```", text, re.DOTALL)
    assert found is not None
    bucket, user, secret = f"policy-{secrets.token_hex(6)}", secrets.token_hex(8), secrets.token_hex(16)
    policy = json.loads(found.group(1).replace("BUCKET", bucket))
    address = minio_server.endpoint.removeprefix("http://")
    root = StaticProvider(minio_server.access_key, minio_server.secret_key)
    admin = MinioAdmin(endpoint=address, credentials=root, secure=False)
    admin.user_add(user, secret)
    admin.policy_add(bucket, policy=policy)
    admin.attach_policy([bucket], user=user)
    Minio(endpoint=address, credentials=root, secure=False).make_bucket(bucket)
    access = access_to(minio_server, access_key=user, secret_key=secret)
    use(open_store(f"s3://{bucket}/some/data", s3=access))
    with pytest.raises(StoreRefused, match="AccessDenied"):
        open_store("s3://another-bucket", s3=access).put("a", b"x")


@pytest.mark.parametrize("conditions", ["ignored", "refused", "late"])
def test_a_server_that_would_let_two_workers_create_one_object_is_refused(
    minio_server: MinioServer, conditions: str
) -> None:
    with S3Proxy(minio_server.endpoint) as proxy:
        proxy.conditions = conditions
        store = open_store(new_url(), s3=access_to(minio_server, endpoint=proxy.endpoint))
        for _ in range(2):
            with pytest.raises(StoreRefused, match="If-None-Match"):
                store.put("a", b"x", if_absent=True)
        store.put("b", b"x")  # what needs no such promise works
        assert [info.key for info in store.list()] == ["b"]


def test_a_server_is_put_to_the_proof_once_a_process(minio_server: MinioServer) -> None:
    with S3Proxy(minio_server.endpoint) as proxy:
        url, access = new_url(), access_to(minio_server, endpoint=proxy.endpoint)
        assert open_store(url, s3=access).put("a", b"x", if_absent=True) is True
        proxy.statuses.clear()
        assert open_store(url, s3=access).put("b", b"x", if_absent=True) is True
        assert proxy.statuses[200] <= 2  # the object, and where the bucket is
        assert [info.key for info in open_store(url, s3=access).list()] == ["a", "b"]


def test_what_a_proof_left_behind_is_no_object(minio_server: MinioServer) -> None:
    """Whoever may not delete leaves it there."""
    url = new_url()
    store = open_store(url, s3=access_to(minio_server))
    store.put("a/b", b"x")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = Minio(
        minio_server.endpoint.removeprefix("http://"),
        access_key=minio_server.access_key,
        secret_key=minio_server.secret_key,
        secure=False,
    )
    for name in (".tmp-0123456789abcdef", "a/"):
        client.put_object(bucket, f"{prefix}/{name}", io.BytesIO(b""), 0)
    assert [info.key for info in store.list()] == ["a/b"]
    assert list(store.children()) == ["a/"]
    assert list(store.children("a/")) == ["b"]
