"""What every method is: what it needs of a batch, the modules it trains, and its named losses.

No file of this room imports torch before a method is built: the gateway checks the configuration of a run,
and has no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stablerep.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stablerep.config.encoder import EncoderSpec

EqualTexts = Literal["positive", "masked"]
"""What captions of a batch with equal texts are to each other: positives, or nothing at all."""


class HeadConfig(BaseModel):
    """Sizes of the projection head, of the methods that have one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(default=4096, ge=1)
    out: int = Field(default=256, ge=1)
    norm: Literal["batch", "layer"] = "batch"  # batch: of each view by itself, over all processes (the paper)


@dataclass(frozen=True)
class LocalCrops:
    """Small views beside the full ones: `number` of each image, `size` pixels, of this share of its area."""

    number: int
    size: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class Needs:
    """What a batch must hold for a method.

    Attributes:
        images: different images drawn of every caption.
        crops: views of each image.
        by_image: every image is drawn as if it were a caption of its own; captions are not known.
        texts: the caption's tokens, of the `tokenizer` at that file or URL; "": of CLIP's.
        noise: one number in [0, 1) for every patch of every view, to choose masks by.
        local: small crops of every image drawn, if any.
    """

    images: int = 1
    crops: int = 1
    by_image: bool = False
    texts: bool = False
    tokenizer: str = ""
    noise: bool = False
    local: LocalCrops | None = None

    @property
    def views(self) -> int:
        """Views of a caption in a batch."""
        return self.images * self.crops


@dataclass(frozen=True)
class Parts:
    """What a method is built around: the encoder, [n 3 size size] -> [n width], and sizes."""

    encoder: Any
    spec: EncoderSpec
    head: HeadConfig


@dataclass(frozen=True)
class Batch:
    """n captions of one rank with `number` views each, view-major: view 0 of all captions, then view 1, ...

    Attributes:
        views: float [number*n 3 size size], augmented and normalised.
        labels: int64 [n]; captions with equal texts have one label, on whichever rank they are.
        label_counts: int64 [n], of numpy: how many captions of the whole batch have each one's label, where
            that is known.
        tokens: int64 [n longest], if the method needs texts.
        noise: float [number*n patches], if the method needs it.
        host_noise: the same in the host's memory, where `noise` is on another device.
        local: float [local_number*n 3 s s], view-major as well, if the method needs it; the local crops of
            image i of a caption are i*L .. i*L + L - 1 of its local_number.
    """

    number: int
    views: Tensor
    labels: Tensor
    label_counts: Any = None
    tokens: Any = None
    noise: Any = None
    host_noise: Any = None
    local: Any = None
    local_number: int = 0

    @property
    def view_labels(self) -> Tensor:
        """The label of every view, int64 [number*n]."""
        return self.labels.repeat(self.number)

    def captions(self, chosen: slice) -> Batch:
        """The part of the batch that belongs to these captions."""

        def of_views(rows: Tensor, number: int = self.number) -> Tensor:
            return rows.unflatten(0, (number, -1))[:, chosen].flatten(0, 1)

        return Batch(
            number=self.number,
            views=of_views(self.views),
            labels=self.labels[chosen],
            label_counts=None if self.label_counts is None else self.label_counts[chosen],
            tokens=None if self.tokens is None else self.tokens[chosen],
            noise=None if self.noise is None else of_views(self.noise),
            host_noise=None if self.host_noise is None else of_views(self.host_noise),
            local=None if self.local is None else of_views(self.local, self.local_number),
            local_number=self.local_number,
        )


class MethodConfig(BaseModel, ABC):
    """A method and its options. A subclass in a file of its own, with a default `name`, is a method.

    `encode` treats every caption by itself, so that a large batch can be encoded part by part; what depends
    on the whole batch (batch norm of a head, negatives) belongs into `losses`. What `encode` returns has the
    rows of a caption on the first axis and captions on the second: [k n ...].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str

    @abstractmethod
    def needs(self) -> Needs:
        """What a batch must hold."""

    @abstractmethod
    def build(self, parts: Parts) -> dict[str, nn.Module]:
        """The modules that are trained, by name; `encoder` is the one that is exported."""

    @abstractmethod
    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        """What every caption contributes, each [k n ...]; `features` are the encoder's for the views."""

    @abstractmethod
    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Scalars whose sum is minimised, by name."""

    def with_tokenizer(self, where: str) -> MethodConfig:
        """The same method, with the tokenizer at another place."""
        raise InvalidInput(f"{self.name} knows no texts", field="method")

    def after_step(self, modules: Any, done: float) -> None:
        """After an optimiser step; `done` is the share of all steps that are done, 0..1."""

    def floor(self, label_counts: Any) -> float | None:
        """The least that the sum of the losses can be, where it is known.

        `label_counts` int64 [n]: how many captions of the whole batch have the label of each of n captions.
        """
        return None
