"""Image files of other people's making: which endings they have, and what Pillow says of damaged ones."""

from PIL import Image, UnidentifiedImageError

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for bytes that are no whole image."""


def why_damaged(error: Exception) -> str:
    """What is wrong, in words; Pillow's text for what is no image names an object in memory."""
    return "no image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
