"""The projection head between encoder and loss; discarded after training (StableRep, appendix)."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from jaxtyping import Float
from torch import Tensor, nn

from stablerep.models.sync_batch_norm import SyncBatchNorm


class ProjectionHead(nn.Module):
    """Linear, norm, ReLU, linear, norm, ReLU, linear; batch norm takes each view by itself, over all ranks.

    Statistics per view: were all views of a caption normalised together, the batch would hold every caption
    several times over, and its statistics would be those of fewer, correlated samples.
    """

    def __init__(self, width: int, hidden: int = 4096, out: int = 256) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.norm1 = SyncBatchNorm(hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.norm2 = SyncBatchNorm(hidden)
        self.linear3 = nn.Linear(hidden, out)

    def forward(self, features: Float[Tensor, "n width"], views: int) -> Float[Tensor, "n out"]:
        """Embeddings of `features`, whose rows are view-major: all captions' view 0, then view 1, ..."""
        hidden = self.norm1(self.linear1(features), views).relu()
        hidden = self.norm2(self.linear2(hidden), views).relu()
        return self.linear3(hidden)
