"""What is optimised: the losses over a batch of embeddings."""

from stablerep.objectives.multi_positive import multi_positive_loss

__all__ = ["multi_positive_loss"]
