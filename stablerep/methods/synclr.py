"""StableRep with SynCLR's additions: a teacher, small crops, masked patches (SynCLR, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stablerep.methods.interface import Batch, LocalCrops, MethodConfig, Needs, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn


class LocalConfig(BaseModel):
    """Small crops of every image; `number` 0 switches them off. The encoder must take their size, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(default=4, ge=0)
    size: int = Field(default=96, ge=8)
    scale: tuple[float, float] = (0.05, 0.4)


class PatchConfig(BaseModel):
    """Masked patches, told apart by prototypes (iBOT): `weight` 0 switches them off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, ge=0)
    images: float = Field(default=0.5, ge=0, le=1)  # share of the views that have masked patches
    masked: float = Field(default=0.5, gt=0, lt=1)  # share of their patches
    prototypes: int = Field(default=65_536, ge=2)
    hidden: int = Field(default=2048, ge=1)
    bottleneck: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.07, gt=0)
    teacher_temperature_start: float = Field(default=0.04, gt=0)
    teacher_warmup: float = Field(default=0.008, ge=0, le=1)  # share of all steps from the start to the other
    iterations: int = Field(default=3, ge=1)


class SynClr(MethodConfig):
    """The student's views attract the teacher's views of the same caption, but for a view's own.

    The teacher follows the student as a moving average whose momentum goes from `momentum` to 1 by half a
    cosine. SynCLR's head has norm "layer", which is to be set beside this.
    """

    name: Literal["synclr"] = "synclr"
    images_per_caption: int = Field(default=4, ge=2)
    temperature: float = Field(default=0.08, gt=0)
    momentum: float = Field(default=0.994, ge=0, le=1)
    local: LocalConfig = LocalConfig()
    local_weight: float = Field(default=1.0, ge=0)
    patches: PatchConfig = PatchConfig()

    def needs(self) -> Needs:
        local = self.local
        crops = LocalCrops(local.number, local.size, local.scale) if local.number else None
        return Needs(images=self.images_per_caption, noise=self.patches.weight > 0, local=crops)

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        from stablerep.models.heads import Predictor, ProjectionHead
        from stablerep.models.masked_autoencoder import check_vit
        from stablerep.models.teacher import MaskToken, PrototypeHead, Teacher

        width = parts.encoder.num_features
        head = ProjectionHead(width, **parts.head.model_dump())
        followed: dict[str, nn.Module] = {"encoder": parts.encoder, "head": head}
        modules: dict[str, nn.Module] = {
            **followed,
            "predictor": Predictor(parts.head.out, parts.head.hidden),
        }
        if self.patches.weight:
            check_vit(parts.encoder, parts.spec, "synclr with masked patches")
            modules["mask"] = MaskToken(parts.encoder.embed_dim)
            followed["prototypes"] = modules["prototypes"] = PrototypeHead(
                width,
                hidden=self.patches.hidden,
                bottleneck=self.patches.bottleneck,
                prototypes=self.patches.prototypes,
                teacher_temperature=self._teacher_temperature(0.0),
            )
        return {**modules, "teacher": Teacher(followed)}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        import torch

        number = batch.number
        if self.patches.weight:
            encoded = self._with_patches(modules, batch)
        else:
            with torch.no_grad():
                teacher = modules.teacher.encoder(batch.views)
            encoded = {"features": modules.encoder(batch.views), "teacher": teacher}
        shaped = {name: rows.unflatten(0, (number, -1)) for name, rows in encoded.items()}
        if batch.local is not None:
            shaped["local"] = modules.encoder(batch.local).unflatten(0, (batch.local_number, -1))
        return shaped

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        import torch

        from stablerep.objectives.gather import all_gather, rank
        from stablerep.objectives.teacher import teacher_loss

        with torch.no_grad():
            own = modules.teacher.head(encoded["teacher"].flatten(0, 1), batch.number)
        keys = all_gather(own if own.dtype == torch.float64 else own.float())
        key_labels = all_gather(batch.view_labels)
        excluded = torch.arange(len(own), device=own.device) + rank() * len(own)
        anchors = modules.predictor(modules.head(encoded["features"].flatten(0, 1), batch.number))
        losses = {
            "global": teacher_loss(
                anchors, batch.view_labels, keys, key_labels, excluded=excluded, temperature=self.temperature
            )
        }
        if "local" in encoded:
            small = modules.predictor(modules.head(encoded["local"].flatten(0, 1), batch.local_number))
            losses["local"] = self.local_weight * teacher_loss(
                small,
                batch.labels.repeat(batch.local_number),
                keys,
                key_labels,
                temperature=self.temperature,
            )
        if self.patches.weight:
            losses["patches"] = self.patches.weight * self._patch_loss(modules, encoded, batch)
        return losses

    def after_step(self, modules: Any, done: float) -> None:
        from stablerep.models.teacher import momentum_at

        modules.teacher.follow(modules, momentum_at(self.momentum, 1.0, done))
        if self.patches.weight:
            modules.prototypes.teacher_temperature.fill_(self._teacher_temperature(done))

    def _teacher_temperature(self, done: float) -> float:
        """Linear from its start over the warm-up, then constant; `done` is the share of all steps."""
        options = self.patches
        warm = min(1.0, done / options.teacher_warmup) if options.teacher_warmup else 1.0
        start = options.teacher_temperature_start
        return start + (options.teacher_temperature - start) * warm

    def _with_patches(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        import torch

        from stablerep.models.masked_autoencoder import encode_all
        from stablerep.models.teacher import draw_patch_mask

        masked = draw_patch_mask(batch.noise, self.patches.images, self.patches.masked)
        tokens = encode_all(modules.encoder, batch.views, masked, modules.mask.token)
        with torch.no_grad():
            seen = encode_all(modules.teacher.encoder, batch.views)
            teacher_points = modules.teacher.prototypes.points(seen[1])
        return {
            "features": tokens[0],
            "teacher": seen[0],
            "points": modules.prototypes.points(tokens[1]),
            "teacher_points": teacher_points,
        }

    def _patch_loss(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The sum over views of the mean over their masked patches, by the number of views that have any.

        That number is what is expected of the draw, so that the loss is the same on any number of processes.
        """
        import torch

        from stablerep.models.teacher import masked_places
        from stablerep.objectives.prototypes import prototype_loss, sinkhorn

        options = self.patches
        host = batch.noise if batch.host_noise is None else batch.host_noise
        places = masked_places(batch.noise, host, options.images, options.masked)
        points, teacher = (
            encoded[name].flatten(0, 2).index_select(0, places.flatten())
            for name in ("points", "teacher_points")
        )
        with torch.no_grad():
            targets = sinkhorn(
                modules.teacher.prototypes.scores(teacher),
                temperature=modules.prototypes.teacher_temperature,
                iterations=options.iterations,
            )
        each = prototype_loss(modules.prototypes.scores(points), targets, temperature=options.temperature)
        return each.sum() / places.shape[1] / len(batch.noise) / max(options.images, 1e-9)
