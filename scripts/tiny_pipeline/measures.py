"""Measures product photographs (grey on black, 28x28) and puts what was measured into words.

Every word is decided by a number computed from pixels; the thresholds were set, and words that were often
wrong dropped, by looking at sheets of photographs with each word. Shoes face left in this data.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BACKGROUND_BELOW = 14
TONES = ("black", "dark", "dark grey", "grey", "pale grey", "pale", "white")


@dataclass(frozen=True)
class Outline:
    """A photograph [28 28] with what belongs to the product, and where that starts and ends."""

    image: np.ndarray
    mask: np.ndarray
    filled: np.ndarray
    widths: np.ndarray
    top: int
    bottom: int
    left: int
    right: int


def outline(image: np.ndarray) -> Outline:
    """Separates the product from the black background. `widths` [28]: outermost extent in each row."""
    mask = image > BACKGROUND_BELOW
    blobs, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count > 1:
        sizes = np.bincount(blobs.ravel())[1:]
        mask = np.isin(blobs, 1 + np.flatnonzero(sizes >= 6))
    if not mask.any():
        mask = image >= image.max()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    first, last = mask.argmax(1), 27 - mask[:, ::-1].argmax(1)
    return Outline(
        image=image.astype(np.float32),
        mask=mask,
        filled=ndimage.binary_fill_holes(mask),
        widths=np.where(mask.any(1), last - first + 1, 0),
        top=int(rows[0]),
        bottom=int(rows[-1]),
        left=int(columns[0]),
        right=int(columns[-1]),
    )


def choose(value: float, limits: tuple[float, ...], words: tuple[str, ...]) -> str:
    """The word of the interval that the value falls in; there is one word more than limits."""
    return words[int(np.searchsorted(limits, value, side="right"))]


def tone(shape: Outline) -> str:
    """How light the product is on the whole."""
    mean = float(shape.image[shape.mask].mean())
    return choose(mean, (60, 90, 120, 150, 180, 205), TONES)


def roughness(shape: Outline) -> float:
    """Mean grey-level difference between neighbours, inside the product and away from its edge."""
    inside = ndimage.binary_erosion(shape.filled, iterations=2)
    across = np.abs(np.diff(shape.image, axis=1))[inside[:, 1:] & inside[:, :-1]]
    down = np.abs(np.diff(shape.image, axis=0))[inside[1:] & inside[:-1]]
    both = np.concatenate([across, down])
    return float(both.mean()) if both.size else 0.0


def stripes(shape: Outline) -> float:
    """How much more grey levels change from row to row than along rows, in a garment's chest and belly both.

    The lesser of the two counts: a motif or lettering on the chest changes from row to row as well.
    """
    return min(_bands(shape.image[6:15, 11:17]), _bands(shape.image[15:24, 11:17]))


def _bands(cloth: np.ndarray) -> float:
    rows = cloth.mean(axis=1)
    bands = np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()
    return float(bands - 0.6 * np.abs(np.diff(cloth, axis=1)).mean())


def chest_motif(shape: Outline) -> float:
    """Spread of grey levels on the chest, less that on the belly below: a motif stands out from its cloth."""
    return float(shape.image[8:16, 10:18].std() - shape.image[18:24, 11:17].std())


def chest_contrast(shape: Outline) -> float:
    """How much lighter the upper half of a garment's middle is than the lower half, in grey levels."""
    return float(shape.image[5:13, 11:17].mean() - shape.image[17:25, 11:17].mean())


def sleeve_contrast(shape: Outline) -> float:
    """How much lighter hanging sleeves are than the body between them, in grey levels."""
    sleeves = []
    for row in range(10, 22):
        columns = np.flatnonzero(shape.mask[row])
        if columns.size:
            sleeves += [shape.image[row, columns[0] + 1 : columns[0] + 3]]
            sleeves += [shape.image[row, columns[-1] - 2 : columns[-1]]]
    return float(np.concatenate(sleeves).mean() - shape.image[10:22, 11:17].mean()) if sleeves else 0.0


def sleeve_drop(shape: Outline) -> float:
    """How much wider a garment is at the height of the hands than just above its hem, in pixels."""
    return float(np.median(shape.widths[15:20]) - np.median(shape.widths[22:26]))


def hem_flare(shape: Outline) -> float:
    """How much wider the lowest rows of a garment are than its waist, in pixels."""
    low = shape.widths[max(0, shape.bottom - 4) : shape.bottom]
    return float(np.median(low) - shape.widths[10:16].min()) if low.size else 0.0


def shoulder_width(shape: Outline) -> int:
    """The widest extent in the upper part of a garment, in pixels."""
    return int(shape.widths[5:12].max())


def body_width(shape: Outline) -> float:
    """The median extent in the lower part of a garment, hanging sleeves included, in pixels."""
    return float(np.median(shape.widths[17:23]))


def neck_depth(shape: Outline) -> int:
    """Rows from the top of the garment down to where its middle is covered."""
    middle = shape.mask[:, 12:16].all(axis=1)
    return int(middle.argmax()) - shape.top if middle.any() else 28


def arch_height(shape: Outline) -> int:
    """Rows between the ground and the underside of a shoe's middle: what its heel lifts it by."""
    covered = shape.mask[:, 9:20]
    lowest = np.where(covered.any(axis=0), 27 - covered[::-1].argmax(axis=0), shape.bottom)
    return int(shape.bottom - lowest.min())


def ankle_height(shape: Outline) -> int:
    """Rows from the ground to the top of a shoe's back."""
    back = shape.mask[:, max(0, shape.right - 7) :].any(axis=1)
    return int(shape.bottom - back.argmax() + 1)


def sole_contrast(shape: Outline) -> float:
    """How much lighter the sole of a shoe is than the leather above it, in grey levels."""
    lows, uppers = [], []
    for column in range(shape.left + 2, shape.right - 1):
        rows = np.flatnonzero(shape.mask[:, column])
        if rows.size >= 5:
            values = shape.image[rows, column]
            # The very lowest pixel is half background, so it does not count.
            lows.append(values[-3:-1].mean())
            uppers.append(values[:-4].mean())
    return float(np.mean(lows) - np.mean(uppers)) if lows else 0.0


def toe_contrast(shape: Outline) -> float:
    """How much lighter the front third of a shoe is than its back third, in grey levels."""
    third = (shape.right - shape.left + 1) // 3
    front = shape.image[:, shape.left : shape.left + third][shape.mask[:, shape.left : shape.left + third]]
    back = shape.image[:, shape.right - third :][shape.mask[:, shape.right - third :]]
    return float(front.mean() - back.mean()) if front.size and back.size else 0.0


def half_contrast(shape: Outline, skip: float = 0.0) -> float:
    """How much lighter the upper half of a product is than its lower half, in grey levels.

    `skip` leaves out that share of its height at the top (a bag's handle says nothing about its body).
    """
    first = shape.top + round(skip * (shape.bottom - shape.top))
    middle = (first + shape.bottom + 1) // 2
    upper, lower = shape.image[first:middle], shape.image[middle:]
    upper, lower = upper[shape.mask[first:middle]], lower[shape.mask[middle:]]
    return float(upper.mean() - lower.mean()) if upper.size and lower.size else 0.0


def openness(shape: Outline) -> float:
    """The share of a product's convex-by-column hull that is not covered: gaps between straps."""
    covered = shape.mask.any(axis=0)
    top = shape.mask.argmax(axis=0)
    low = 27 - shape.mask[::-1].argmax(axis=0)
    area = int((low - top + 1)[covered].sum())
    return 1 - int(shape.mask.sum()) / max(area, 1)


def hole(shape: Outline) -> int:
    """Pixels enclosed by the upper part of a bag: what a handle goes round."""
    gaps = shape.filled & ~shape.mask
    return int(gaps[: shape.top + (shape.bottom - shape.top) * 2 // 3].sum())


def leg_gap(shape: Outline) -> float:
    """The mean number of uncovered pixels between the legs of trousers, over the lower half."""
    rows = slice(14, shape.bottom + 1)
    return float((shape.widths[rows] - shape.mask[rows].sum(axis=1)).mean())
