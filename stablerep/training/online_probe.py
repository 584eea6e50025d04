"""Probes while a run trains: how well features tell a few labelled photographs apart, every so many steps."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.folder import load_folder
from stablerep.evaluation.datasets.photographs import Photographs, load_photographs
from stablerep.evaluation.features import extract_features
from stablerep.evaluation.probes.knn import knn_accuracy
from stablerep.evaluation.probes.linear import Standardiser
from stablerep.evaluation.probes.logistic import fit_logistic
from stablerep.models.frozen import FrozenEncoder
from stablerep.runs.config import TrainConfig

_STRENGTH = 0.01
"""One strength, not the best of many: the figure is for its course, not to be quoted."""
_TOLERANCE = 1e-4


class OnlineProbe:
    """Measures an encoder on at most `photographs` of the test part, after learning from as many.

    Raises InvalidInput or Unavailable if there are no such photographs.
    """

    def __init__(self, config: TrainConfig) -> None:
        options = config.online_probe
        self._config = config
        data = _load(options.data, config)
        train, test = (
            _spread(labels, options.photographs) for labels in (data.train_labels, data.test_labels)
        )
        framed = data.framed()
        self._images = framed.train_images[train], framed.test_images[test]
        self._labels = tuple(
            torch.from_numpy(labels[chosen])
            for labels, chosen in ((data.train_labels, train), (data.test_labels, test))
        )

    def measure(self, encoder: torch.nn.Module) -> dict[str, float]:
        """Accuracies, 0 to 1, by name: `probe_linear`, `probe_knn`. The encoder is left as it was."""
        augment = self._config.augment
        frozen = FrozenEncoder(encoder, self._config.encoder.image_size, augment.mean, augment.std)
        # Compiled blocks would be compiled once more for batches of photographs.
        with torch.compiler.set_stance("force_eager"):
            train, test = (extract_features(frozen, images).float() for images in self._images)
        standardise, centre = Standardiser.of(train), train.mean(dim=0)
        return {
            "probe_linear": _linear(standardise(train), self._labels[0], standardise(test), self._labels[1]),
            "probe_knn": knn_accuracy(train - centre, self._labels[0], test - centre, self._labels[1]),
        }


def probe_is_due(config: TrainConfig, step: int) -> bool:
    """Whether the configuration asks for a probe after `step` steps."""
    every = config.online_probe.every
    return every > 0 and (step % every == 0 or step == config.steps)


def make_online_probe(config: TrainConfig) -> OnlineProbe | None:
    """The probe that the configuration asks for, if any."""
    return OnlineProbe(config) if config.online_probe.every else None


def _load(data: str, config: TrainConfig) -> Photographs:
    if Path(data).is_dir():
        return load_folder(Path(data), size=round(config.encoder.image_size * 256 / 224))
    try:
        return load_photographs(data)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; or a folder of class folders", field="online_probe.data") from None


def _spread(labels: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most so many photographs, evenly from all classes."""
    step = max(1, -(-len(labels) // most))
    order = np.argsort(labels, kind="stable")
    return np.sort(order[::step])


def _linear(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    models = fit_logistic(
        train[None],
        labels[None],
        torch.tensor([_STRENGTH]),
        classes=int(labels.max()) + 1,
        tolerance=_TOLERANCE,
    )
    return float(models.accuracies(test, test_labels))
