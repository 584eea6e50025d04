"""The client of one generator worker: previews, status, drain."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from stablerep.client.channel import PREVIEW_SECONDS, UNARY_SECONDS, channel_options, our_errors
from stablerep.client.credentials import Credentials, File
from stablerep.v1 import generator_pb2 as pb
from stablerep.v1 import generator_pb2_grpc as rpc


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker does now; `state` is LOADING, IDLE, GENERATING or DRAINING."""

    worker: str
    state: str
    shard: str
    shards_done: int
    images_done: int
    recipe_digest: str


class GeneratorClient:
    """One worker. Raises errors of `stablerep.errors`; `close` it or use it in a `with` block.

    Args:
        address: host:port of the worker.
        token: sent as a bearer token; in clear text to this machine only.
        ca_file: certificates of the authority that the server's must be of; None: those gRPC comes with.
        cert_file: the client's own certificate, where the server asks for one; key_file: its key.
        tls: None: TLS if any of these files is given.
        allow_clear_text: sends the token without TLS to another machine all the same.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        ca_file: File | None = None,
        cert_file: File | None = None,
        key_file: File | None = None,
        tls: bool | None = None,
        allow_clear_text: bool = False,
    ) -> None:
        credentials = Credentials(token, ca_file, cert_file, key_file, tls, allow_clear_text)
        self._channel = credentials.channel(address, channel_options())
        self._stub = rpc.GeneratorServiceStub(self._channel)
        self._metadata = credentials.metadata()

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "GeneratorClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def preview(
        self,
        caption: str,
        *,
        preset: str = "",
        recipe: Mapping[str, Any] | None = None,
        seed: int = 0,
        caption_id: int = 0,
        timeout: float = PREVIEW_SECONDS,
    ) -> list[bytes]:
        """The JPEG files of one group of `caption`, generated now by this worker.

        A stored group is made again with its job's seed and its `caption_id`.
        """
        request = pb.PreviewGroupRequest(
            caption=caption,
            preset=preset,
            recipe={key: str(value) for key, value in (recipe or {}).items()},
            seed=seed,
            caption_id=caption_id,
        )
        with our_errors():
            return list(self._stub.PreviewGroup(request, timeout=timeout, metadata=self._metadata).images)

    def status(self) -> WorkerStatus:
        with our_errors():
            return _read(
                self._stub.GetStatus(pb.GetStatusRequest(), timeout=UNARY_SECONDS, metadata=self._metadata)
            )

    def drain(self) -> WorkerStatus:
        """Asks the worker to finish its leased shards and end."""
        with our_errors():
            return _read(self._stub.Drain(pb.DrainRequest(), timeout=UNARY_SECONDS, metadata=self._metadata))


def _read(message: pb.GeneratorStatus) -> WorkerStatus:
    return WorkerStatus(
        worker=message.worker,
        state=pb.GeneratorStatus.State.Name(message.state),
        shard=message.shard,
        shards_done=message.shards_done,
        images_done=message.images_done,
        recipe_digest=message.recipe_digest,
    )
