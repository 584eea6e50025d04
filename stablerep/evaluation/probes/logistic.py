"""Multinomial logistic regression by L-BFGS, for many penalties and many small training sets at once.

The objective is that of scikit-learn's `LogisticRegression`, with an unpenalised intercept:

    C * sum_i cross_entropy_i + 1/2 ||W||^2

It is strictly convex in W, so the solver decides the time and not the answer. Three things save time: all
strengths C share each product with the features, as further rows of one matrix; the features are turned into
their principal axes, where Boehning's bound on the Hessian (https://doi.org/10.1007/BF00048682) is diagonal
and starts L-BFGS off with the right scale for each axis; and with fewer images than dimensions only the axes
that the images span are kept, which is exact, because the penalised solution lies in their span.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

MEMORY = 10
SUFFICIENT_DECREASE = 1e-4
ROUNDING = 1e-7


@dataclass(frozen=True)
class LogisticModels:
    """One classifier for each training set t and strength g: weights [t g k d], intercepts [t g k]."""

    weights: Tensor
    intercepts: Tensor
    iterations: int

    def logits(self, features: Tensor) -> Tensor:
        """Class scores [t g k n] of features [n d]."""
        rows = self.weights.flatten(0, 2) @ features.T.to(self.weights.dtype)
        return rows.unflatten(0, self.intercepts.shape) + self.intercepts[..., None]

    def accuracies(self, features: Tensor, labels: Tensor) -> Tensor:
        """Top-1 accuracies [t g], 0 to 1, on features [n d] with class numbers [n]."""
        return (self.logits(features).argmax(dim=2) == labels).double().mean(dim=2)

    def losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropies [t g] on features [n d] with class numbers [n]."""
        scores = self.logits(features)
        right = scores.gather(2, labels.expand(*scores.shape[:2], 1, -1))[:, :, 0]
        return (_log_sum_exp(scores) - right).double().mean(dim=2)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    strengths: Tensor,
    *,
    classes: int,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> LogisticModels:
    """Fits a classifier for each training set in features [t n d], labels [t n], and each strength C [g].

    A classifier is done once the decrease promised by its next step is below `tolerance` times its objective.
    Computes in the features' floating-point type.
    """
    axes = _principal_axes(features)
    targets = one_hot(labels, classes).transpose(1, 2).to(features.dtype)
    problem = _Problem(axes, targets, strengths.to(features.dtype))
    solution, iterations = _minimise(problem, tolerance, max_iterations)
    weights = torch.einsum("trd,tgkr->tgkd", axes.directions, solution[..., :-1])
    intercepts = solution[..., -1] - torch.einsum("td,tgkd->tgk", axes.mean, weights)
    return LogisticModels(weights, intercepts, iterations)


def objective(
    features: Tensor, labels: Tensor, weights: Tensor, intercepts: Tensor, strength: float
) -> float:
    """C * sum of cross-entropies + 1/2 ||W||^2 of one classifier: [n d], [n], [k d], [k]; in float64."""
    scores = features.double() @ weights.double().T + intercepts.double()
    loss = cross_entropy(scores, labels, reduction="sum")
    return float(strength * loss + weights.double().square().sum() / 2)


@dataclass(frozen=True)
class _Axes:
    """Features in principal axes: coordinates [t n r], directions [t r d], variances [t r], mean [t d]."""

    coordinates: Tensor
    directions: Tensor
    variances: Tensor
    mean: Tensor


def _principal_axes(features: Tensor) -> _Axes:
    mean = features.mean(dim=1)
    centred = features - mean[:, None]
    count, dimensions = features.shape[1:]
    if count < dimensions:
        directions = torch.linalg.svd(centred.double(), full_matrices=False).Vh.to(features.dtype)
    else:
        moments = (centred.transpose(1, 2) @ centred).double()
        directions = torch.linalg.eigh(moments).eigenvectors.transpose(1, 2).to(features.dtype)
    coordinates = centred @ directions.transpose(1, 2)
    return _Axes(coordinates, directions, coordinates.square().mean(dim=1), mean)


class _Problem:
    """Value and gradient of mean cross-entropy + ||W||^2 / (2 C n), in the principal axes and an intercept.

    Parameters are [t g k r+1] (training set, strength, class, axis). Scores are [t g k n]: with
    the images last both products read the inputs along their rows and the softmax runs over whole rows, which
    is five times faster than [t n g k].
    """

    def __init__(self, axes: _Axes, targets: Tensor, strengths: Tensor) -> None:
        sets, count, _ = axes.coordinates.shape
        ones = axes.coordinates.new_ones(sets, count, 1)
        self.inputs = torch.cat([axes.coordinates, ones], dim=2)
        self.transposed = self.inputs.transpose(1, 2).contiguous()
        self.targets = targets[:, None]
        # Boehning: the Hessian of the mean cross-entropy is at most half the features' second moments.
        moments = torch.cat([axes.variances, axes.variances.new_ones(sets, 1)], dim=1)[:, None, None]
        self.penalties = (1 / (strengths * count))[None, :, None, None] * torch.ones_like(moments)
        self.penalties[..., -1] = 0
        self.curvature = moments / 2 + self.penalties

    def keep(self, strengths: Tensor) -> None:
        """Keeps the strengths whose mask [g] is true."""
        self.penalties = self.penalties[:, strengths]
        self.curvature = self.curvature[:, strengths]

    def start(self) -> Tensor:
        """All-zero parameters."""
        sets, strengths, _, rows = self.penalties.shape
        return self.inputs.new_zeros(sets, strengths, self.targets.shape[2], rows)

    def scores(self, parameters: Tensor) -> Tensor:
        """Logits [t g k n]; linear, so that a line search needs one product for all its trials."""
        return torch.bmm(parameters.flatten(1, 2), self.transposed).unflatten(1, parameters.shape[1:3])

    def value(self, scores: Tensor, parameters: Tensor) -> Tensor:
        """The objective [t g], summed in double precision."""
        losses = _log_sum_exp(scores) - (scores * self.targets).sum(dim=2)
        penalty = (parameters.square() * self.penalties).sum(dim=(2, 3), dtype=torch.float64)
        return losses.mean(dim=2, dtype=torch.float64) + penalty / 2

    def gradient(self, scores: Tensor, parameters: Tensor) -> Tensor:
        """The objective's gradient, shaped as the parameters."""
        errors = (scores.softmax(dim=2) - self.targets) / self.inputs.shape[1]
        products = torch.bmm(errors.flatten(1, 2), self.inputs)
        return products.unflatten(1, parameters.shape[1:3]) + parameters * self.penalties


def _log_sum_exp(scores: Tensor) -> Tensor:
    top = scores.amax(dim=2)
    return (scores - top[:, :, None]).exp_().sum(dim=2).log_() + top


def _minimise(problem: _Problem, tolerance: float, max_iterations: int) -> tuple[Tensor, int]:
    """The minimising parameters [t g k r+1], and the number of steps taken."""
    parameters = problem.start()
    solution = parameters.clone()
    unfinished = torch.arange(parameters.shape[1])
    memory: list[tuple[Tensor, Tensor]] = []
    scores = problem.scores(parameters)
    value, gradient = problem.value(scores, parameters), problem.gradient(scores, parameters)
    for iteration in range(max_iterations):
        direction = _direction(gradient, problem.curvature, memory)
        slope = _dot(gradient, direction)[:, :, 0, 0].double()
        going_on = (-slope / 2 > tolerance * value).any(dim=0)
        if not going_on.all():
            solution[:, unfinished] = parameters
            if not going_on.any():
                return solution, iteration
            problem.keep(going_on)
            unfinished = unfinished[going_on]
            memory = [(step[:, going_on], change[:, going_on]) for step, change in memory]
            parameters, direction, gradient = (x[:, going_on] for x in (parameters, direction, gradient))
            scores, value, slope = (x[:, going_on] for x in (scores, value, slope))
        added_scores = problem.scores(direction)
        sizes, value = _line_search(problem, parameters, direction, scores, added_scores, value, slope)
        step = sizes * direction
        parameters = parameters + step
        scores = scores + sizes * added_scores
        previous, gradient = gradient, problem.gradient(scores, parameters)
        memory = [*memory[1 - MEMORY :], (step, gradient - previous)]
    solution[:, unfinished] = parameters
    return solution, max_iterations


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=(2, 3), keepdim=True)


def _direction(gradient: Tensor, curvature: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion of L-BFGS (Nocedal 1980), for every training set and strength by itself."""
    tiny = torch.finfo(gradient.dtype).tiny
    remaining = gradient.clone()
    applied = []
    for step, change in reversed(memory):
        inverse = 1 / _dot(step, change).clamp_min(tiny)
        amount = inverse * _dot(step, remaining)
        remaining -= amount * change
        applied.append((step, change, inverse, amount))
    direction = remaining / curvature
    if memory:
        step, change = memory[-1]
        direction *= _dot(step, change) / _dot(change, change / curvature).clamp_min(tiny)
    for step, change, inverse, amount in reversed(applied):
        direction += (amount - inverse * _dot(change, direction)) * step
    return -direction


def _line_search(
    problem: _Problem,
    parameters: Tensor,
    direction: Tensor,
    scores: Tensor,
    added_scores: Tensor,
    value: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor]:
    """Step sizes [t g 1 1] found by halving, and the objective [t g] there.

    Any step will do for L-BFGS: on a strictly convex objective the curvature along it is positive.
    """
    sizes = torch.ones_like(value)
    while True:
        factors = sizes[:, :, None, None].to(scores.dtype)
        trial = problem.value(scores + factors * added_scores, parameters + factors * direction)
        too_long = trial > value + SUFFICIENT_DECREASE * sizes * slope
        # A promised decrease that drowns in rounding cannot be checked, so it is not held against the step.
        too_long &= -sizes * slope > ROUNDING * value
        if not too_long.any():
            return factors, trial
        sizes = torch.where(too_long, sizes / 2, sizes)
