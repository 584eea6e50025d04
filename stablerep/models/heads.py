"""The projection head between encoder and loss; discarded after training (StableRep, appendix)."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from stablerep.models.sync_batch_norm import SyncBatchNorm


class ProjectionHead(nn.Module):
    """Linear, norm, ReLU, linear, norm, ReLU, linear; batch norm takes each view by itself, over all ranks.

    With norm="layer" rows do not see each other: SynCLR's choice, and steadier for large encoders.

    Statistics per view: were all views of a caption normalised together, the batch would hold every caption
    several times over, and its statistics would be those of fewer, correlated samples.
    """

    def __init__(
        self, width: int, hidden: int = 4096, out: int = 256, norm: Literal["batch", "layer"] = "batch"
    ) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.norm1 = _norm(norm, hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.norm2 = _norm(norm, hidden)
        self.linear3 = nn.Linear(hidden, out)

    def forward(self, features: Float[Tensor, "n width"], views: int) -> Float[Tensor, "n out"]:
        """Embeddings of `features`, whose rows are view-major: all captions' view 0, then view 1, ..."""
        hidden = self._normalised(self.norm1, self.linear1(features), views).relu()
        hidden = self._normalised(self.norm2, self.linear2(hidden), views).relu()
        return self.linear3(hidden)

    @staticmethod
    def _normalised(norm: nn.Module, rows: Tensor, views: int) -> Tensor:
        return norm(rows, views) if isinstance(norm, SyncBatchNorm) else norm(rows)


class Predictor(nn.Module):
    """The student's second head, which makes it differ from its teacher (Chen et al. 2021, MoCo v3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        return self.linear2(self.norm(self.linear1(rows)).relu())


def _norm(kind: Literal["batch", "layer"], width: int) -> nn.Module:
    return SyncBatchNorm(width) if kind == "batch" else nn.LayerNorm(width)
