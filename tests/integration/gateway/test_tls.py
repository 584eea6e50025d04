"""TLS and mutual TLS between clients and both servers, with authorities made here; no token in clear text."""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from services.rpc.tls import server_credentials
from stablerep.client import AsyncClient, Client, GeneratorClient
from stablerep.client.channel import our_errors
from stablerep.client.credentials import Credentials
from stablerep.config.settings import Auth, Tls
from stablerep.errors import InvalidInput, StableRepError, Unauthenticated, Unavailable
from stablerep.testing.servers import RedisServer
from stablerep.tokens import add_token, new_token
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.certificates import Authority, Identity
from tests.fronts import Fronts, served
from tests.tools import redis_program


@pytest.fixture(scope="module")
def queue_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(redis_program("valkey"), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, which signs for the same hosts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "strange")


@pytest.fixture(scope="module")
def token() -> str:
    return new_token("ops", "admin")[0]


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, queue_server: RedisServer, authority: Authority
) -> Iterator[tuple[Fronts, str]]:
    """Both servers with TLS and tokens, and an admin's token."""
    folder = tmp_path_factory.mktemp("secure")
    text, token = new_token("ops", "admin")
    add_token(folder / "tokens.yaml", token)
    server = authority.issue("server")
    tls = Tls(cert_file=server.cert_file, key_file=server.key_file)
    with served(folder, queue_server.url, tls=tls, auth=Auth(tokens_file=folder / "tokens.yaml")) as fronts:
        yield fronts, text


@pytest.fixture(scope="module")
def mutual(
    tmp_path_factory: pytest.TempPathFactory, queue_server: RedisServer, authority: Authority
) -> Iterator[Fronts]:
    """Both servers with mutual TLS; whoever has a certificate is an admin."""
    server = authority.issue("mutual")
    tls = Tls(cert_file=server.cert_file, key_file=server.key_file, client_ca_file=authority.ca_file)
    with served(tmp_path_factory.mktemp("mutual"), queue_server.url, tls=tls) as fronts:
        yield fronts


def jobs(client: Client) -> int:
    with client:
        return len(list(client.list_jobs()))


def enter(address: str, token: str | None = None, **proof: Any) -> None:
    """One attempt, where a client would make five: for calls that must not get through."""
    credentials = Credentials(token, **proof)
    with our_errors(), credentials.channel(address, []) as channel:
        stub = rpc.GenerationServiceStub(channel)
        stub.ListJobs(pb.ListJobsRequest(), metadata=credentials.metadata(), timeout=20)


def test_tls_with_a_private_authority(secure: tuple[Fronts, str], authority: Authority) -> None:
    fronts, token = secure
    assert jobs(Client(fronts.gateway, token, ca_file=authority.ca_file)) == 0
    with GeneratorClient(fronts.worker, token, ca_file=str(authority.ca_file)) as worker:
        assert worker.status().state == "IDLE"
    with pytest.raises(Unauthenticated):
        jobs(Client(fronts.gateway, ca_file=authority.ca_file))

    async def awaited() -> list[str]:
        async with AsyncClient(fronts.gateway, token, ca_file=authority.ca_file) as client:
            return [job.name async for job in client.list_jobs()]

    assert asyncio.run(awaited()) == []


def test_a_server_of_another_authority_gets_no_token(secure: tuple[Fronts, str], stranger: Authority) -> None:
    fronts, token = secure
    for proof in ({"ca_file": stranger.ca_file}, {"tls": True}):
        with pytest.raises(Unavailable, match="not of the authority"):
            enter(fronts.gateway, token, **proof)


def test_a_certificate_for_another_host_is_refused(
    tmp_path: Path, queue_server: RedisServer, authority: Authority
) -> None:
    elsewhere = authority.issue("elsewhere", hosts=("gateway.example",))
    tls = Tls(cert_file=elsewhere.cert_file, key_file=elsewhere.key_file)
    with (
        served(tmp_path, queue_server.url, tls=tls) as fronts,
        pytest.raises(Unavailable, match="other names"),
    ):
        enter(fronts.gateway, ca_file=authority.ca_file)


def test_clear_text_to_a_tls_server_says_what_to_do(secure: tuple[Fronts, str]) -> None:
    fronts, token = secure
    with pytest.raises(Unavailable, match="if the server speaks TLS, give ca_file"):
        enter(fronts.gateway, token)


def test_mutual_tls_lets_in_only_those_with_a_certificate(
    mutual: Fronts, authority: Authority, stranger: Authority
) -> None:
    def files(identity: Identity) -> dict[str, Path]:
        return {
            "ca_file": authority.ca_file,
            "cert_file": identity.cert_file,
            "key_file": identity.key_file,
        }

    mine = files(authority.issue("client"))
    assert jobs(Client(mutual.gateway, **mine)) == 0  # type: ignore[arg-type]
    with GeneratorClient(mutual.worker, **mine) as worker:  # type: ignore[arg-type]
        assert worker.status().state == "IDLE"
    with pytest.raises(Unavailable):
        enter(mutual.gateway, **files(stranger.issue("client")))
    with pytest.raises(Unavailable, match="the certificate that it asks for"):
        enter(mutual.gateway, ca_file=authority.ca_file)


def served_certificate(address: str) -> str:
    """The certificate that a server shows now."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as secured:
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def test_renewed_certificates_are_served_without_a_restart(
    tmp_path: Path,
    queue_server: RedisServer,
    authority: Authority,
    stranger: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = Authority(tmp_path / "own", "own")
    server = own.issue("server")
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.ca_file.read_bytes())
    tls = Tls(cert_file=server.cert_file, key_file=server.key_file, client_ca_file=clients)
    first, second = authority.issue("first"), stranger.issue("second")
    with served(tmp_path, queue_server.url, tls=tls) as fronts, caplog.at_level(logging.INFO):

        def enters(identity: Identity) -> bool:
            files = {"cert_file": identity.cert_file, "key_file": identity.key_file}
            try:
                enter(fronts.gateway, ca_file=own.ca_file, **files)
            except Unavailable:
                return False
            return True

        before = server.cert_file.read_text()
        assert served_certificate(fronts.gateway) == before
        assert enters(first)
        server.cert_file.write_text("half a certi")
        assert served_certificate(fronts.gateway) == before, "a broken file leaves the old certificate"
        assert "is not used, the old one stays" in caplog.text
        own.issue("server")
        assert served_certificate(fronts.gateway) == server.cert_file.read_text() != before
        assert enters(first)
        clients.write_bytes(stranger.ca_file.read_bytes())
        assert enters(second), "the authority of clients is read again too"
        assert not enters(first)


@pytest.mark.parametrize("address", ["10.0.0.1:1", "gateway.example:443", "127.0.0.1.evil.example:1"])
def test_a_token_is_not_sent_in_clear_text_to_another_machine(address: str, token: str) -> None:
    for make in (Client, AsyncClient, GeneratorClient):
        with pytest.raises(InvalidInput, match="clear text") as caught:
            asyncio.run(_make(lambda make=make: make(address, token)))  # type: ignore[misc]
        assert caught.value.field == "token"
        assert token not in str(caught.value)


async def _make(make: Callable[[], object]) -> object:
    return make()


def test_without_a_token_and_with_the_override_clear_text_is_allowed(token: str) -> None:
    Client("gateway.example:1").close()
    Client("gateway.example:1", token, allow_clear_text=True).close()
    Client("gateway.example:1", token, tls=True).close()
    for here in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
        Client(here, token).close()


def test_a_proxy_of_the_environment_gets_no_token_for_this_machine(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(1.5)
        asked: list[bytes] = []

        def listen() -> None:
            try:
                connection, _ = proxy.accept()
            except TimeoutError:
                return
            with connection:
                asked.append(connection.recv(1000))

        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        listening = threading.Thread(target=listen)
        listening.start()
        with pytest.raises(Unavailable):
            enter("127.0.0.1:1", token)
        listening.join()
    assert asked == []


def spoil_key(server: Identity, other: Identity) -> None:
    server.key_file.write_bytes(other.key_file.read_bytes())


def spoil_certificate(server: Identity, other: Identity) -> None:
    server.cert_file.write_text("no certificate")


def lose_key(server: Identity, other: Identity) -> None:
    server.key_file.unlink()


def encrypt_key(server: Identity, other: Identity) -> None:
    key = serialization.load_pem_private_key(server.key_file.read_bytes(), None)
    hidden = serialization.BestAvailableEncryption(b"hush")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    server.key_file.write_bytes(pem)


@pytest.mark.parametrize(
    ("spoil", "field", "text"),
    [
        (spoil_key, "key_file", "is not the key of the certificate"),
        (spoil_certificate, "cert_file", "hold no certificate with its key"),
        (lose_key, "key_file", "No such file"),
        (encrypt_key, "key_file", "is encrypted"),
    ],
)
def test_wrong_files_are_named_by_server_and_client(
    spoil: Callable[[Identity, Identity], None], field: str, text: str, authority: Authority
) -> None:
    server = authority.issue("spoilt")
    spoil(server, authority.issue("other"))
    with pytest.raises(InvalidInput, match=text) as caught:
        server_credentials(Tls(cert_file=server.cert_file, key_file=server.key_file))
    assert caught.value.field == f"tls.{field}"
    with pytest.raises(InvalidInput, match=text) as caught:
        Client("x:1", ca_file=authority.ca_file, cert_file=server.cert_file, key_file=server.key_file)
    assert caught.value.field == field


def test_settings_that_lack_each_other_are_named(authority: Authority) -> None:
    server = authority.issue("lacking")
    for tls, field in (
        (Tls(cert_file=server.cert_file), "tls.key_file"),
        (Tls(key_file=server.key_file), "tls.cert_file"),
        (Tls(client_ca_file=authority.ca_file), "tls.cert_file"),
    ):
        with pytest.raises(InvalidInput) as caught:
            server_credentials(tls)
        assert caught.value.field == field
    assert server_credentials(Tls()) is None
    with pytest.raises(InvalidInput) as caught:
        Client("x:1", ca_file=server.key_file)
    assert caught.value.field == "ca_file"
    with pytest.raises(InvalidInput) as caught:
        Client("x:1", ca_file=authority.ca_file, cert_file=server.cert_file)
    assert caught.value.field == "key_file"
    with pytest.raises(InvalidInput) as caught:
        Client("x:1", ca_file=authority.ca_file, tls=False)
    assert caught.value.field == "tls"


def test_a_token_with_a_line_break_is_named_before_grpc_sees_it(token: str) -> None:
    for wrong in (f"{token}\n", f"{token} ", "tökens"):
        with pytest.raises(StableRepError) as caught:
            Client("127.0.0.1:1", wrong)
        assert token not in str(caught.value)
