"""What other samplers do to the images of a caption: the datasets of `stablerep sweep samplers`, compared.

stablerep sweep samplers --out study
python -m benchmarks.spread study     # writes benchmarks/results/spread.json, about two minutes
"""

import argparse
import json
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from benchmarks.imports import hardware
from stablerep.data import GroupDataset
from stablerep.data.decode import decode_image
from stablerep.evaluation.features import extract_features
from stablerep.evaluation.spread import measure_spread
from stablerep.models.load import load_encoder

RESULT = Path(__file__).parent / "results" / "spread.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the sweep")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweep = json.loads((arguments.study / "samplers.json").read_text(encoding="utf-8"))
    first = [point for point in sweep["points"] if point["seed"] == 0]
    store = (arguments.study / "store").resolve().as_uri()
    encoder = load_encoder(f"{store}/runs/{first[0]['run']}")
    encode = partial(extract_features, encoder)
    reference: list[list[np.ndarray]] = []
    rows = {}
    for point in first:
        groups = list(GroupDataset(f"{store}/datasets/{point['datasets'][0]}"))
        images = [[decode_image(data).astype(np.int16) for data in group.encoded] for group in groups]
        reference = reference or images
        spread = measure_spread(groups, encode)
        pairs = [
            pair
            for own, other in zip(images, reference, strict=True)
            for pair in zip(own, other, strict=True)
        ]
        rows[point["labels"]["sampler"]] = {
            "pixels": round(spread.pixels, 2),
            "features": round(spread.features or 0.0, 4),
            "from the first": round(fmean(float(np.abs(a - b).mean()) for a, b in pairs), 2),
            "few_labels": [
                round(other["scores"]["few"], 4)
                for other in sweep["points"]
                if other["labels"] == point["labels"]
            ],
        }
    report = {
        "date": sweep["date"],
        "hardware": hardware(),
        "command": "stablerep sweep samplers --out study; python -m benchmarks.spread study",
        "versions": sweep["versions"],
        "what": "spread of a caption's images in pixels (levels of 256) and in features of the first row's "
        "encoder (1 - cosine); mean difference from the first row's image of the same noise, in levels; "
        "accuracy of a linear probe on 10 labels a class, by seed",
        "samplers": rows,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
