"""Who may call what: every method of both servers with no token, wrong ones and each role, over gRPC."""

import asyncio
import importlib
import logging
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import stablerep.v1
from services.rpc.auth import ROLES, AuthInterceptor
from services.rpc.callers import read_callers
from stablerep.client import AsyncClient, Client, GeneratorClient
from stablerep.config.settings import Auth, Settings
from stablerep.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from stablerep.tokens import RoleWord, add_token, new_token
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.fronts import Fronts, served
from tests.gateways import caption_file
from tests.paths import ROOT
from tests.tools import redis_program

DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
RANKS = ("read", "submit", "admin")
NEEDED = {
    "read": "GetJob ListJobs WatchJob ListShards ListWorkers GetUpload GetStatus "
    "GetRun ListRuns WatchRun GetRunLogs",
    "submit": "UploadCaptions DescribeCaptions CreateJob CancelJob PauseJob ResumeJob RetryJob PreviewGroup "
    "CreateRun CancelRun ResumeRun",
    "admin": "DeleteJob ReconcileJobs Drain DeleteRun",
}
"""The issue's table, written down a second time."""


def methods() -> list[MethodDescriptor]:
    """Every method of every service in stablerep.v1, by the descriptors."""
    found = []
    for module in pkgutil.iter_modules(stablerep.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"stablerep.v1.{module.name}").DESCRIPTOR
            found += [method for service in file.services_by_name.values() for method in service.methods]
    return found


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


METHODS = {path_of(method): method for method in methods()}


@dataclass(frozen=True)
class Tokens:
    """A tokens file and what its tokens are; `expired` is an admin's."""

    file: Path
    read: str
    submit: str
    admin: str
    expired: str


def make_tokens(file: Path) -> Tokens:
    texts = [add(file, role, role) for role in RANKS]  # type: ignore[arg-type]
    past = datetime.now(UTC) - timedelta(seconds=1)
    return Tokens(file, *texts, add(file, "old", "admin", past))


def add(file: Path, name: str, role: RoleWord, expires: datetime | None = None) -> str:
    text, token = new_token(name, role, expires)
    add_token(file, token)
    return text


@pytest.fixture(scope="module")
def queue_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(redis_program("valkey"), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return make_tokens(tmp_path_factory.mktemp("tokens") / "tokens.yaml")


@pytest.fixture(scope="module")
def fronts(
    tmp_path_factory: pytest.TempPathFactory, queue_server: RedisServer, tokens: Tokens
) -> Iterator[Fronts]:
    """Both servers, with tokens."""
    with served(
        tmp_path_factory.mktemp("served"), queue_server.url, auth=Auth(tokens_file=tokens.file)
    ) as fronts:
        yield fronts


def headers(tokens: Tokens) -> dict[str, list[tuple[str, str]]]:
    """What may come with a call, by what it is."""
    wrong, _ = new_token("nobody", "admin")
    return {
        "no token": [],
        "wrong token": [("authorization", f"Bearer {wrong}")],
        "token cut short": [("authorization", f"Bearer {tokens.admin[:-1]}")],
        "its hash": [("authorization", f"Bearer {tokens.file.read_text().split('sha256: ')[3][:64]}")],
        "other scheme": [("authorization", f"Basic {tokens.admin}")],
        "bare token": [("authorization", tokens.admin)],
        "empty bearer": [("authorization", "Bearer ")],
        "two words": [("authorization", f"Bearer {tokens.admin} x")],
        "sent twice": [("authorization", f"Bearer {tokens.admin}")] * 2,
        "endless": [("authorization", "Bearer " + "x" * 2000)],
        "expired": [("authorization", f"Bearer {tokens.expired}")],
        "read": [("authorization", f"Bearer {tokens.read}")],
        "submit": [("authorization", f"Bearer {tokens.submit}")],
        "admin": [("authorization", f"bearer  {tokens.admin}")],  # the scheme in any case, blanks before it
    }


def code_of(
    channel: grpc.Channel, path: str, metadata: list[tuple[str, str]], request: bytes | None = None
) -> tuple[grpc.StatusCode, str]:
    """How a call with the request ends; with an empty one, or an empty stream of them, without it."""
    method = METHODS[path]
    words = [
        "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
    ]
    call = getattr(channel, "_".join(words))(path)
    requests = iter([] if request is None else [request])
    try:
        answer = call(requests if method.client_streaming else request or b"", metadata=metadata, timeout=20)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


CALLERS = [
    *("no token", "wrong token", "token cut short", "its hash", "other scheme", "bare token", "empty bearer"),
    *("two words", "sent twice", "endless", "expired", *RANKS),
]


@pytest.mark.parametrize(("path", "caller"), list(product(METHODS, CALLERS)))
def test_matrix(path: str, caller: str, fronts: Fronts, tokens: Tokens) -> None:
    address = fronts.worker if "GeneratorService" in path else fronts.gateway
    with grpc.insecure_channel(address) as channel:
        code, text = code_of(channel, path, headers(tokens)[caller])
    verb = path.rpartition("/")[2]
    needed = next(role for role, verbs in NEEDED.items() if verb in verbs.split())
    if caller not in RANKS:
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "token" in text
    elif RANKS.index(caller) < RANKS.index(needed):
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert f"needs the role {needed}" in text
    else:
        assert code not in (*DENIED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL), text
    assert tokens.admin[:-1] not in text


def test_table_holds_every_method_and_no_other() -> None:
    assert {path for path in ROLES if path.startswith("/stablerep.")} == set(METHODS)
    assert sorted(" ".join(NEEDED.values()).split()) == sorted(m.name for m in METHODS.values())


def test_documentation_lists_every_method_under_its_role() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = {
        row.split("`")[1]: row for row in page.splitlines() if re.match(r"\| `(read|submit|admin)` \|", row)
    }
    for role, verbs in NEEDED.items():
        assert all(re.search(rf"\b{verb}\b", rows[role]) for verb in verbs.split())


def test_a_method_that_is_not_in_the_table_is_closed_to_all(tokens: Tokens) -> None:
    called = []

    class Forgotten(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def tell(request: bytes, context: Any) -> bytes:
                called.append(request)
                return b""

            return grpc.unary_unary_rpc_method_handler(tell)

    async def call(admitted: bool) -> grpc.StatusCode:
        auth = AuthInterceptor()
        if admitted:
            auth.admit(read_callers(Auth(tokens_file=tokens.file), "127.0.0.1:0", field=""))
        server = grpc.aio.server(interceptors=[auth])
        server.add_generic_rpc_handlers((Forgotten(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                metadata = [("authorization", f"Bearer {tokens.admin}")]
                await channel.unary_unary("/stablerep.v1.GenerationService/Forgotten")(
                    b"x", metadata=metadata
                )
            except grpc.RpcError as error:
                return error.code()
            finally:
                await server.stop(None)
        return grpc.StatusCode.OK

    assert asyncio.run(call(True)) is grpc.StatusCode.PERMISSION_DENIED
    assert asyncio.run(call(False)) is grpc.StatusCode.UNAUTHENTICATED, "nobody is let in before `admit`"
    assert called == []


def test_health_is_open_and_reflection_is_for_readers(fronts: Fronts, tokens: Tokens) -> None:
    for address in (fronts.gateway, fronts.worker):
        with grpc.insecure_channel(address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            asked = channel.stream_stream(path)(iter([b"\x3a\x00"]), metadata=headers(tokens)["read"])
            assert b"stablerep.v1" in next(iter(asked))  # 0x3a: list_services


def test_a_method_that_does_not_exist_is_unimplemented(fronts: Fronts) -> None:
    with grpc.insecure_channel(fronts.gateway) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/stablerep.v1.GenerationService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_clients_send_their_token_and_raise_what_was_meant(
    fronts: Fronts, tokens: Tokens, tmp_path: Path
) -> None:
    captions = caption_file(tmp_path, 3)
    with Client(fronts.gateway, tokens.read) as reader, pytest.raises(PermissionDenied, match="submit"):
        reader.create_job("denied", captions, preset="tiny")
    with Client(fronts.gateway, tokens.admin) as admin:
        with pytest.raises(NotFound):
            admin.get_job("denied")
        assert admin.create_job("allowed", captions, preset="tiny").dataset == "allowed"
    with Client(fronts.gateway) as nobody, pytest.raises(Unauthenticated, match="STABLEREP_TOKEN"):
        nobody.get_job("allowed")

    async def awaited() -> None:
        async with AsyncClient(fronts.gateway, token=tokens.read) as reader:
            assert (await reader.get_job("allowed")).dataset == "allowed"
            with pytest.raises(PermissionDenied):
                await reader.cancel_job("allowed")

    asyncio.run(awaited())
    with GeneratorClient(fronts.worker, tokens.read) as reader, pytest.raises(PermissionDenied):
        reader.drain()


def test_callers_of_control_verbs_are_logged_and_no_token_is(
    fronts: Fronts, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), Client(fronts.gateway, tokens.submit) as client:
        with pytest.raises(NotFound):
            client.cancel_job("jobs/nothing")
        with pytest.raises(NotFound):
            client.get_job("jobs/nothing")
        with Client(fronts.gateway, tokens.expired) as old, pytest.raises(Unauthenticated):
            old.get_job("jobs/nothing")
    assert "submit (submit) calls CancelJob 'jobs/nothing' from ipv4:127.0.0.1" in caplog.text
    assert "refused /stablerep.v1.GenerationService/GetJob" in caplog.text
    assert "calls GetJob" not in caplog.text, "readers are not worth a line"
    assert "sr_" not in caplog.text


def test_a_name_sent_by_a_client_does_not_begin_a_new_line_of_the_log(
    fronts: Fronts, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), grpc.insecure_channel(fronts.gateway) as channel:
        stub = rpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.CancelJob(
                pb.CancelJobRequest(name="x\nadmin (admin) calls"), metadata=headers(tokens)["admin"]
            )
    assert "\nadmin (admin) calls" not in caplog.text


def test_tokens_come_and_go_while_it_runs(
    tmp_path: Path, queue_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = make_tokens(tmp_path / "tokens.yaml")
    auth = Auth(tokens_file=tokens.file)
    with served(tmp_path, queue_server.url, auth=auth) as fronts, caplog.at_level(logging.INFO):

        def enters(token: str) -> bool:
            with Client(fronts.gateway, token) as client:
                try:
                    list(client.list_jobs())
                except Unauthenticated:
                    return False
                return True

        before = tokens.file.read_text()
        fresh = add(tokens.file, "fresh", "read")
        assert enters(fresh)
        tokens.file.write_text("tokens: [{name: x")
        assert enters(fresh), "a broken file keeps the tokens as they were"
        assert enters(tokens.admin)
        assert caplog.text.count("is not used, the old one stays") == 1, "said once, not at every call"
        tokens.file.unlink()
        assert enters(fresh)
        tokens.file.write_text(before)
        assert not enters(fresh), "what was taken out of the file is refused at once"
        assert enters(tokens.read)
        tokens.file.write_text("tokens: []\n")
        assert not enters(tokens.read)


def test_a_mounted_secret_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a Secret as links into a folder, and changes it by turning one link."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
    first, second = (add(tmp_path / version / "tokens.yaml", version, "read") for version in ("one", "two"))
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "tokens.yaml").symlink_to("data/tokens.yaml")
    callers = read_callers(Auth(tokens_file=tmp_path / "tokens.yaml"), "0.0.0.0:1", field="x")

    def bearer(token: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {token}")]

    assert callers.identify(bearer(first)).name == "one"
    (tmp_path / "turned").symlink_to("two")
    (tmp_path / "turned").replace(tmp_path / "data")
    assert callers.identify(bearer(second)).name == "two"
    with pytest.raises(Unauthenticated):
        callers.identify(bearer(first))


@pytest.mark.parametrize(
    ("address", "anonymous", "role"),
    [
        ("127.0.0.1:1", "", "admin"),
        ("localhost:1", "", "admin"),
        ("[::1]:1", "", "admin"),
        ("127.0.0.1:1", "read", "read"),
        ("0.0.0.0:1", "submit", "submit"),
        ("0.0.0.0:1", "", None),
        ("[::]:1", "", None),
        ("10.0.0.3:1", "", None),
        ("gateway:1", "", None),
        ("localhost.evil.example:1", "", None),
    ],
)
def test_without_tokens_only_this_machine_may_call(address: str, anonymous: Any, role: str | None) -> None:
    auth = Auth(anonymous=anonymous)
    if role is None:
        with pytest.raises(InvalidInput, match=r"auth\.tokens_file"):
            read_callers(auth, address, field="gateway.address")
        return
    assert read_callers(auth, address, field="gateway.address").identify([]).role.word == role


def test_with_tokens_an_anonymous_role_is_for_calls_without_one(tokens: Tokens) -> None:
    callers = read_callers(Auth(tokens_file=tokens.file, anonymous="read"), "0.0.0.0:1", field="x")
    assert callers.identify([]).role.word == "read"
    sent = headers(tokens)
    for caller in CALLERS[1:-3]:
        with pytest.raises(Unauthenticated):
            callers.identify(sent[caller])


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("gateway.address=0.0.0.0:0", "auth.tokens_file"),
        ("auth.tokens_file=no/such/file", "cannot read no/such/file"),
    ],
)
def test_a_server_that_would_let_anyone_in_does_not_start(
    setting: str, text: str, tmp_path: Path, queue_server: RedisServer
) -> None:
    values = [
        f"store_url={tmp_path}",
        f"redis_url={queue_server.url}",
        "gateway.address=127.0.0.1:0",
        setting,
    ]
    arguments = [word for value in values for word in ("--set", value)]
    command = [sys.executable, "-m", "services.gateway", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_secret_is_in_a_log_an_error_or_a_settings_text(tmp_path: Path, queue_server: RedisServer) -> None:
    password = "queue-password-4711"
    tokens = make_tokens(tmp_path / "tokens.yaml")
    admin = redis.Redis.from_url(queue_server.url)
    admin.config_set("requirepass", password)
    port = queue_server.url.rpartition(":")[2]
    seen = []
    try:
        with GatewayProcess(
            tmp_path,
            (tmp_path / "store").as_uri(),
            f"redis://:{password}@127.0.0.1:{port}",
            STABLEREP_AUTH__TOKENS_FILE=str(tokens.file),
            STABLEREP_LOG_LEVEL="DEBUG",
        ) as gateway:
            with grpc.insecure_channel(gateway.address) as channel:
                for path, metadata in product(METHODS, headers(tokens).values()):
                    if "GenerationService" in path and "Reconcile" not in path:
                        seen.append(code_of(channel, path, metadata))
            admin.config_set("requirepass", "another")
            admin.client_kill_filter(_type="normal", skipme=True)
            with grpc.insecure_channel(gateway.address) as channel:
                seen.append(
                    code_of(
                        channel,
                        f"/{pb.DESCRIPTOR.package}.GenerationService/ListJobs",
                        headers(tokens)["admin"],
                    )
                )
            log = gateway.log
    finally:
        admin.config_set("requirepass", "")
        admin.close()
    settings = Settings(redis_url=f"redis://:{password}@127.0.0.1:{port}")
    everything = f"{log}{seen}{settings!r}{settings}{settings.model_copy()!r}"
    assert "calls CreateJob" in log
    assert "refused" in log
    for secret in (password, tokens.read, tokens.submit, tokens.admin, tokens.expired, "xxxx"):
        assert secret not in everything
    assert not re.search("sr_[A-Za-z0-9_-]{8}", everything)


def text_fields(method: MethodDescriptor) -> list[str]:
    kinds = (FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES)
    return [field.name for field in method.input_type.fields if field.type in kinds]


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path, method in METHODS.items() for field in text_fields(method)]
)
def test_a_text_of_3_mib_in_any_field_is_a_short_error(
    path: str, field: str, fronts: Fronts, tokens: Tokens
) -> None:
    method = METHODS[path]
    kind = next(f.type for f in method.input_type.fields if f.name == field)
    value: Any = "ü" * (3 << 19) if kind == FieldDescriptorProto.TYPE_STRING else b"x" * (3 << 20)
    request = GetMessageClass(method.input_type)(**{field: value}).SerializeToString()
    address = fronts.worker if "GeneratorService" in path else fronts.gateway
    with grpc.insecure_channel(address) as channel:
        code, text = code_of(channel, path, headers(tokens)["admin"], request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(text) < 1300


def test_metadata_of_any_size_ends_the_call_and_not_the_server(fronts: Fronts, tokens: Tokens) -> None:
    with grpc.insecure_channel(fronts.gateway) as channel:
        stub = rpc.GenerationServiceStub(channel)
        for size in (20_000, 200_000):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListJobs(pb.ListJobsRequest(), metadata=[("authorization", "x" * size)], timeout=20)
            assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        stub.ListJobs(pb.ListJobsRequest(), metadata=headers(tokens)["read"])


@pytest.mark.parametrize("model", ["other/model", "/models/mine", "../mine", "allowed/../mine"])
def test_a_model_that_is_not_listed_is_refused_by_both_servers(
    model: str, fronts: Fronts, tokens: Tokens, tmp_path: Path
) -> None:
    recipe = {"model": model}
    with Client(fronts.gateway, tokens.submit) as client, pytest.raises(InvalidInput) as caught:
        client.create_job("unlisted", caption_file(tmp_path, 3), preset="tiny", recipe=recipe)
    assert caught.value.field == "recipe.model"
    assert "gateway.models" in str(caught.value)
    with GeneratorClient(fronts.worker, tokens.submit) as worker, pytest.raises(InvalidInput) as caught:
        worker.preview("a shoe", preset="tiny", recipe=recipe)
    assert caught.value.field == "model"
    assert "gateway.models" in str(caught.value)


def test_a_preview_that_no_answer_could_hold_is_refused(fronts: Fronts, tokens: Tokens) -> None:
    large = {"image_size": 4096, "save_size": 4096, "images_per_caption": 99, "batch_images": 99}
    with GeneratorClient(fronts.worker, tokens.submit) as worker, pytest.raises(InvalidInput, match="pixels"):
        worker.preview("a shoe", preset="tiny", recipe=large)
