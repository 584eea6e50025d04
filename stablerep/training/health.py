"""Signs that a run learns nothing: collapsed features, gradients that explode or vanish."""

import statistics
from collections import deque

COLLAPSED_RANK = 2.0
"""Features that use fewer directions than this tell hardly anything apart."""
EXPLODED = 100.0
"""Times the median of the last norms."""
VANISHED = 1e-3
"""Of the largest norm so far."""
_REMEMBERED, _ENOUGH = 50, 3


class Health:
    """Looks at what is logged, and says each kind of trouble once until it has passed."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=_REMEMBERED)
        self._largest = 0.0
        self._said: set[str] = set()

    def look(self, step: int, effective_rank: float, gradient_norm: float) -> list[str]:
        """New warnings after `step` steps."""
        usual = statistics.median(self._norms) if len(self._norms) >= _ENOUGH else None
        exploded = usual is not None and gradient_norm > EXPLODED * usual > 0
        vanished = gradient_norm < VANISHED * self._largest
        if not exploded:
            self._norms.append(gradient_norm)
            self._largest = max(self._largest, gradient_norm)
        found = {
            "collapse": effective_rank < COLLAPSED_RANK,
            "exploded": exploded,
            "vanished": vanished and usual is not None,
        }
        texts = {
            "collapse": (
                f"the features have collapsed (effective rank {effective_rank:.1f}): all images look alike "
                "to the encoder. Lower optimizer.lr or lengthen optimizer.warmup_steps"
            ),
            "exploded": (
                f"the gradient's norm is {gradient_norm:.3g}, usually {usual or 0:.3g}. If the loss does not "
                "recover, lower optimizer.lr or set optimizer.clip_norm"
            ),
            "vanished": (
                f"the gradient has vanished (norm {gradient_norm:.3g}, at most {self._largest:.3g} before): "
                "nothing is learnt any more. Lower optimizer.lr or lengthen optimizer.warmup_steps"
            ),
        }
        new = [kind for kind, is_so in found.items() if is_so and kind not in self._said]
        self._said = {kind for kind, is_so in found.items() if is_so}
        return [f"step {step:,}: {texts[kind]}" for kind in new]
