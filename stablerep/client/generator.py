"""The client of one generator worker: previews, status, drain."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from stablerep.client.channel import PREVIEW_SECONDS, UNARY_SECONDS, channel_options, metadata, our_errors
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
        token: sent as a bearer token.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        self._channel = grpc.insecure_channel(address, options=channel_options())
        self._stub = rpc.GeneratorServiceStub(self._channel)
        self._metadata = metadata(token)

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
        timeout: float = PREVIEW_SECONDS,
    ) -> list[bytes]:
        """The JPEG files of one group of `caption`, generated now by this worker."""
        request = pb.PreviewGroupRequest(
            caption=caption,
            preset=preset,
            recipe={key: str(value) for key, value in (recipe or {}).items()},
            seed=seed,
        )
        with our_errors():
            return list(self._stub.PreviewGroup(request, timeout=timeout, metadata=self._metadata).images)

    def status(self) -> WorkerStatus:
        with our_errors():
            return _read(
                self._stub.GetStatus(pb.GetStatusRequest(), timeout=UNARY_SECONDS, metadata=self._metadata)
            )

    def drain(self) -> WorkerStatus:
        """Tells the worker to finish the shard in hand and end."""
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
