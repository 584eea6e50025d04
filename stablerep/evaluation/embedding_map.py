"""Features as a map: photographs that an encoder finds alike lie near each other in two dimensions."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

AXES = 30
ITERATIONS = 500


@dataclass(frozen=True)
class EmbeddingMap:
    """Coordinates [n 2], within -1 to 1, and the photographs' class and row numbers."""

    coordinates: list[tuple[float, float]]
    labels: list[int]
    rows: list[int]


def embedding_map(features: Tensor, labels: Tensor, *, limit: int = 1000, seed: int = 0) -> EmbeddingMap:
    """t-SNE (van der Maaten & Hinton 2008) of at most `limit` of the features [n d], after PCA to 30 axes.

    The photographs are drawn from the seed alone, so that two encoders' maps show the same ones.
    """
    rows = np.random.default_rng(seed).permutation(len(features))[:limit]
    chosen = features[rows].double().numpy()
    # The map is made of distances, which one dimension with large numbers would otherwise decide.
    deviations = chosen.std(axis=0)
    chosen = (chosen - chosen.mean(axis=0)) / np.where(deviations > 0, deviations, 1)
    axes = PCA(min(AXES, *chosen.shape), random_state=seed).fit_transform(chosen)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, max_iter=ITERATIONS, init="pca", random_state=seed)
    points = tsne.fit_transform(axes)
    points = points - (points.min(axis=0) + points.max(axis=0)) / 2
    points = points / np.abs(points).max(axis=0).clip(min=np.finfo(np.float32).tiny)
    return EmbeddingMap(
        [(float(x), float(y)) for x, y in points], labels[rows].tolist(), [int(row) for row in rows]
    )
