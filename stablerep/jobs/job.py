"""What a job is asked to do: where its captions are, its recipe, and its settings."""

from dataclasses import dataclass

from stablerep.config.names import check_dataset
from stablerep.config.recipe import Recipe, check_captions_per_shard
from stablerep.errors import InvalidInput

MAX_PRIORITY = 9
DEFAULT_PRESET = "sd15"
"""Of a request that names none."""


@dataclass(frozen=True)
class CaptionSource:
    """Where a job's captions are: exactly one of an object in the store (`uri`) and a finished upload."""

    uri: str = ""
    upload_id: str = ""
    format: str = ""  # empty: inferred from the file name
    column: str = ""  # empty: found by the usual names
    limit: int = 0  # 0: all
    header: bool | None = None  # of csv and tsv; None: inferred from the first row

    def __post_init__(self) -> None:
        if bool(self.uri) == bool(self.upload_id):
            raise InvalidInput("give either a uri or an upload_id", field="source")
        if self.limit < 0:
            raise InvalidInput(f"{self.limit} is negative; 0 means all captions", field="source.limit")


@dataclass(frozen=True)
class JobSpec:
    """What was asked for: captions x recipe -> dataset. Raises `InvalidInput` naming the wrong field."""

    dataset: str
    recipe: Recipe
    source: CaptionSource
    captions_per_shard: int
    seed: int = 0
    priority: int = 0
    request_id: str = ""

    @property
    def shard_images(self) -> int:
        """Images in a shard, but for the last one of a job and captions that fail."""
        return self.captions_per_shard * self.recipe.images_per_caption

    def __post_init__(self) -> None:
        check_dataset(self.dataset)
        check_captions_per_shard(self.captions_per_shard)
        if not -(2**63) <= self.seed < 2**63:
            raise InvalidInput(f"{self.seed} does not fit 64 bits", field="seed")
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise InvalidInput(f"{self.priority} is not in 0..{MAX_PRIORITY}", field="priority")
