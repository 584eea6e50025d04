"""What a sampler is: from embedded captions to images, a batch at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

OnStep = Callable[[], None]
"""Called after each denoising step; what it raises ends the batch."""


class Sampler(Protocol):
    """Makes images of one recipe. Rows of a batch do not influence each other."""

    def embed(self, caption: str) -> Any:
        """What `sample` wants of a caption; one caption a call, so that the shape is always the same."""

    def tensors(self, embedding: Any) -> Sequence[Tensor]:
        """Those that an embedding holds."""

    def is_truncated(self, caption: str) -> bool:
        """Whether the text encoder sees only the beginning of the caption."""

    def sample(self, embeddings: Sequence[Any], seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        """Latents [n c h w], or images if the pipeline keeps its latents to itself."""

    def decode(self, samples: Tensor) -> Tensor:
        """Images, float32 [n 3 h w]; 0 to 1 where finite."""


def as_callback(on_step: OnStep | None) -> Callable[..., dict[str, Any]] | None:
    if on_step is None:
        return None

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step()
        return tensors

    return callback
