"""Encoders (any timm model), projection heads, and the batch norm that spans ranks."""

from stablerep.config.encoder import EncoderSpec
from stablerep.models.encoder import build_encoder
from stablerep.models.heads import ProjectionHead
from stablerep.models.sync_batch_norm import SyncBatchNorm, convert

__all__ = ["EncoderSpec", "ProjectionHead", "SyncBatchNorm", "build_encoder", "convert"]
