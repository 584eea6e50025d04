"""Who sees which photograph: the validation split and the few-shot draws, from labels and a seed alone.

Every row of a table is measured on the same split and the same draws, so that rows differ by their features
only.
"""

from dataclasses import dataclass

import numpy as np

from stablerep.errors import InvalidInput


@dataclass(frozen=True)
class Split:
    """Indices into a probe's training photographs: those to fit and those to choose settings by."""

    train: np.ndarray
    validation: np.ndarray


def split_validation(labels: np.ndarray, *, share: float = 0.2, seed: int = 0) -> Split:
    """Sets a share of each class aside, drawn from the seed; both parts sorted.

    Raises InvalidInput if some class is too small to have photographs in both parts.
    """
    random = np.random.default_rng([seed, 0])
    validation = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * share)
        if not 0 < count < len(members):
            raise InvalidInput(
                f"class {label} has {len(members)} photographs, too few to set {share:.0%} aside",
                field="train_labels",
            )
        validation.append(random.choice(members, count, replace=False))
    chosen = np.sort(np.concatenate(validation))
    return Split(np.setdiff1d(np.arange(len(labels)), chosen), chosen)


def draw_few(labels: np.ndarray, among: np.ndarray, *, each: int, draws: int, seed: int = 0) -> np.ndarray:
    """Indices [draws, classes * each]: in every draw `each` photographs of each class, out of `among`.

    Raises InvalidInput if a class has fewer.
    """
    random = np.random.default_rng([seed, 1])
    members = {label: among[labels[among] == label] for label in np.unique(labels)}
    smallest = min(len(indices) for indices in members.values())
    if smallest < each:
        raise InvalidInput(f"{each} labels a class asked for, a class has {smallest}", field="few_labels")
    return np.stack(
        [
            np.concatenate([random.choice(indices, each, replace=False) for indices in members.values()])
            for _ in range(draws)
        ]
    )
