"""Training input on a CPU: decoding and augmenting, against what the paper's release and webdataset do.

    python -m benchmarks.input           # writes benchmarks/results/input.json

JPEGs of 256 pixels, four a caption, augmented to 224 as the paper does. Two comparisons, in one run:

- on one thread, from bytes in memory: the release's chain (Pillow and torchvision), torchvision v2's on
  tensors, and this package's two ways;
- from one S3 server on two cores: webdataset's loader, and litData's where it is installed (`pip install
  litdata`), with the release's chain in two processes, beside a run's loader with its threads; decoded alone,
  and augmented.

Each repeats its passes, and takes turns, so that another program's load meets all of them; the median counts.
"""

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms as v1
from torchvision.transforms import v2

from benchmarks.loss import hardware
from stablerep.config.augment import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from stablerep.data import GroupDataset
from stablerep.data.augment.apply import augment
from stablerep.data.augment.on_cpu import augment_view
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, draw_parameters
from stablerep.data.batches.loader import RankLoader
from stablerep.data.batches.order import BatchOrder
from stablerep.data.corpus.positive_sets import Corpus, make_positive_sets
from stablerep.data.decode import decode_image
from stablerep.data.images import ImageSource
from stablerep.shards import Group, build_tar, commit_shard
from stablerep.storage import open_store
from stablerep.testing.servers import MinioServer
from tests.tools import tool

SOURCE, SIZE, IMAGES, PER_SHARD = 256, 224, 4, 64
RESULT = Path(__file__).parent / "results" / "input.json"
CONFIG = AugmentConfig()


def photographs(number: int) -> list[bytes]:
    """JPEGs of quality 95: crops of the two photographs that scikit-learn ships, all different."""
    from sklearn.datasets import load_sample_images

    drawn = np.random.default_rng(0)
    whole = load_sample_images().images
    made = []
    for index in range(number):
        picture = whole[index % 2]
        side = int(drawn.integers(260, 420))
        top, left = (int(drawn.integers(0, limit - side)) for limit in picture.shape[:2])
        crop = Image.fromarray(picture[top : top + side, left : left + side]).resize((SOURCE, SOURCE))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=95)
        made.append(buffer.getvalue())
    return made


class _Blur:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*CONFIG.blur_sigma)))


def release_chain() -> Callable[[Any], Any]:
    """The transforms of the release for StableRep, in its order."""
    return v1.Compose(
        [
            v1.RandomResizedCrop(SIZE, scale=CONFIG.crop_scale),
            v1.RandomApply([v1.ColorJitter(*CONFIG.jitter)], p=CONFIG.jitter_probability),
            v1.RandomGrayscale(p=CONFIG.grayscale),
            v1.RandomApply([_Blur()], p=CONFIG.blur),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def v2_chain() -> Callable[[Any], Any]:
    """The same of torchvision's second version, on tensors."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=CONFIG.crop_scale, antialias=True),
            v2.RandomApply([v2.ColorJitter(*CONFIG.jitter)], p=CONFIG.jitter_probability),
            v2.RandomGrayscale(p=CONFIG.grayscale),
            v2.RandomApply([v2.GaussianBlur(13, sigma=CONFIG.blur_sigma)], p=CONFIG.blur),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def _pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def one_thread(encoded: Sequence[bytes], repeats: int) -> dict[str, float]:
    """Views a second of each way, from bytes to what a training step is given."""
    release, second = release_chain(), v2_chain()
    drawn = np.random.default_rng(1)

    def parameters(number: int) -> Any:
        return draw_parameters(CONFIG, drawn.random((number, UNIFORMS_PER_VIEW)), np.array([SOURCE, SOURCE]))

    def ours() -> None:
        rows = parameters(len(encoded))
        for row, data in enumerate(encoded):
            augment_view(decode_image(data), rows, row, SIZE)

    def ours_for_a_device() -> None:
        images = torch.from_numpy(np.stack([decode_image(data) for data in encoded])).permute(0, 3, 1, 2)
        augment(images, parameters(len(encoded)), CONFIG, SIZE)

    ways: dict[str, Callable[[], object]] = {
        "decode: Pillow": lambda: [np.asarray(_pillow(data)) for data in encoded],
        "decode: stablerep": lambda: [decode_image(data) for data in encoded],
        "augmented: release's chain": lambda: [release(_pillow(data)) for data in encoded],
        "augmented: torchvision v2": lambda: [
            second(torch.from_numpy(decode_image(data)).permute(2, 0, 1)) for data in encoded
        ],
        "augmented: stablerep": ours,
        "augmented: stablerep, the device's way": ours_for_a_device,
    }
    return _rates(ways, len(encoded), repeats, time.process_time)


def _rates(
    ways: dict[str, Callable[[], object]], number: int, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = clock()
            way()
            taken[name].append(clock() - began)
    return {name: round(number / statistics.median(seconds), 1) for name, seconds in taken.items()}


def _webdataset(urls: list[str], augmented: bool) -> Iterator[Any]:
    import webdataset as wds

    chain = release_chain() if augmented else v1.PILToTensor()

    def images(sample: dict[str, Any]) -> list[Any]:
        names = [key for key in sample if key.endswith("jpg")]
        return [chain(_pillow(sample[name])) for name in names]

    loader = wds.WebDataset(urls, shardshuffle=False, empty_check=False).map(images)
    return iter(torch.utils.data.DataLoader(loader, batch_size=None, num_workers=2))


def _litdata_item(group: tuple[bytes, ...]) -> dict[str, bytes]:
    return {f"{number:02d}": data for number, data in enumerate(group)}


class _Litdata:
    """The same groups in litData's own format on the same server, read with two processes.

    Every pass has an empty cache, so that it reads from the server as the others do.
    """

    def __init__(self, groups: Sequence[Group], folder: Path, client: Any) -> None:
        import litdata
        from litdata.streaming import downloader

        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # the server of the benchmark has no TLS
        made = folder / "litdata"
        litdata.optimize(
            fn=_litdata_item,
            inputs=[group.encoded for group in groups],
            output_dir=str(made),
            chunk_size=PER_SHARD,
            num_workers=1,
            start_method="fork",
            verbose=False,
        )
        for path in sorted(made.iterdir()):
            client.fput_object("bench", f"litdata/{path.name}", str(path))
        self._folder, self._passes = folder, 0

    def read(self, augmented: bool) -> list[Any]:
        import litdata

        self._passes += 1
        chain = release_chain() if augmented else v1.PILToTensor()
        dataset = litdata.StreamingDataset(
            "s3://bench/litdata",
            cache_dir=str(self._folder / f"cache-{self._passes}"),
            storage_options={
                "endpoint_url": os.environ["STABLEREP_S3_ENDPOINT"],
                "aws_access_key_id": os.environ["STABLEREP_S3_ACCESS_KEY"],
                "aws_secret_access_key": os.environ["STABLEREP_S3_SECRET_KEY"],
            },
            transform=lambda item: [chain(_pillow(data)) for data in item.values()],
        )
        loader = litdata.StreamingDataLoader(dataset, batch_size=PER_SHARD, num_workers=2, collate_fn=list)
        return [images for batch in loader for images in batch]


def from_s3(encoded: Sequence[bytes], repeats: int) -> dict[str, float]:
    """Images or views a second from one S3 server, two cores each: processes there, threads here."""
    with tempfile.TemporaryDirectory(prefix="stablerep-bench-") as folder:
        server = MinioServer(tool("minio"), Path(folder))
        os.environ.update(server.environment)
        try:
            return _rates(_s3_ways(encoded, Path(folder)), len(encoded), repeats, time.perf_counter)
        finally:
            server.stop()


def _s3_ways(encoded: Sequence[bytes], folder: Path) -> dict[str, Callable[[], object]]:
    import minio

    store = open_store("s3://bench/store")
    groups = [
        Group(index, f"caption {index}", tuple(encoded[index * IMAGES : (index + 1) * IMAGES]))
        for index in range(len(encoded) // IMAGES)
    ]
    for shard in range(len(groups) // PER_SHARD):
        commit_shard(store, "photographs", shard, build_tar(groups[shard * PER_SHARD :][:PER_SHARD]))
    client = minio.Minio(
        os.environ["STABLEREP_S3_ENDPOINT"].removeprefix("http://"),
        access_key=os.environ["STABLEREP_S3_ACCESS_KEY"],
        secret_key=os.environ["STABLEREP_S3_SECRET_KEY"],
        secure=False,
    )
    keys = [one.object_name for one in client.list_objects("bench", "store/datasets/photographs/shards/")]
    urls = [f"pipe:curl -s '{client.presigned_get_object('bench', key or '')}'" for key in keys]
    corpus = Corpus((GroupDataset("s3://bench/store/datasets/photographs"),))
    sets = make_positive_sets(corpus.labels(), corpus.image_counts, at_least=IMAGES)
    order = BatchOrder(sets, 0, PER_SHARD, IMAGES)
    source = ImageSource(corpus, memory=0)
    steps = len(groups) // PER_SHARD

    def ours(size: int | None) -> None:
        loader = RankLoader(order, source, CONFIG, 1, 0, 1, view_size=size)
        for _ in loader.shares(0, steps, 2):
            pass

    ways: dict[str, Callable[[], object]] = {
        "decoded: webdataset + Pillow": lambda: list(_webdataset(urls, False)),
        "decoded: stablerep": lambda: ours(None),
        "augmented: webdataset + release's chain": lambda: list(_webdataset(urls, True)),
        "augmented: stablerep": lambda: ours(SIZE),
    }
    if importlib.util.find_spec("litdata") is None:
        print("litdata is not measured: pip install litdata", file=sys.stderr)
        return ways
    litdata = _Litdata(groups, folder, client)
    ways["decoded: litdata + Pillow"] = lambda: litdata.read(False)
    ways["augmented: litdata + release's chain"] = lambda: litdata.read(True)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2048, help="JPEGs read from S3; an eighth in memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    encoded = photographs(arguments.images)
    alone = one_thread(encoded[: max(8, len(encoded) // 8)], arguments.repeats)
    served = from_s3(encoded, arguments.repeats)
    ratios = {
        "one thread, to the release's chain": _ratio(alone, "augmented: stablerep", "release"),
        "one thread, to torchvision v2": _ratio(alone, "augmented: stablerep", "v2"),
        "S3, decoded, to webdataset": _ratio(served, "decoded: stablerep", "decoded: web"),
        "S3, augmented, to webdataset with the release's chain": _ratio(
            served, "augmented: stablerep", "augmented: web"
        ),
    }
    if "decoded: litdata + Pillow" in served:
        ratios["S3, decoded, to litdata"] = _ratio(served, "decoded: stablerep", "decoded: litdata")
        ratios["S3, augmented, to litdata with the release's chain"] = _ratio(
            served, "augmented: stablerep", "augmented: litdata"
        )
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "command": "python -m benchmarks.input",
        "versions": {
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("webdataset", "litdata")
                if importlib.util.find_spec(name) is not None
            },
        },
        "what": f"JPEGs of {SOURCE} px ({statistics.mean(map(len, encoded)):,.0f} bytes), "
        f"views of {SIZE} px; median of {arguments.repeats}",
        "one thread, images or views a second": alone,
        "S3 on two cores, images or views a second": served,
        "ratios": ratios,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for part in (alone, served, ratios):
        for name, value in part.items():
            print(f"{name:<58} {value:10,.1f}")


def _ratio(rates: dict[str, float], ours: str, other: str) -> float:
    beside = next(value for name, value in rates.items() if other in name)
    return round(rates[ours] / beside, 2)


if __name__ == "__main__":
    main()
