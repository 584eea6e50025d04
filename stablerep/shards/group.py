"""A group: the images synthesised from one caption, as they lie encoded in a shard."""

import base64
import html
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Group:
    """One caption and its images as JPEG bytes.

    `info` is the rest of the group's JSON: recipe digest, seeds of the images, what was flagged. A caption
    that could not be generated is a group without images whose `info` has an `error`.
    """

    caption_id: int
    caption: str
    encoded: tuple[bytes, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> "list[Image]":
        """The images, decoded as RGB."""
        from PIL import Image

        return [Image.open(io.BytesIO(data)).convert("RGB") for data in self.encoded]

    def _repr_html_(self) -> str:
        """How a notebook shows it: the images in a row, the caption below."""
        sources = (f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in self.encoded)
        images = "".join(f'<img src="{source}" style="margin:2px" alt="">' for source in sources)
        return f"<figure>{images}<figcaption>{html.escape(self.caption)}</figcaption></figure>"


def skipped_group(caption_id: int, caption: str, error: str) -> Group:
    """The placeholder in a shard for a caption that could not be generated."""
    return Group(caption_id, caption, (), {"error": error})
