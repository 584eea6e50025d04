"""A grid of four runs, half of which cannot be trained: what tests of sweeps make."""

from typing import Any

SWEEP: dict[str, Any] = {
    "title": "Guidance & temperature <small>",
    "about": "A grid of 4.",
    "data": {"synthetic": {"captions": "builtin:fashion", "limit": 32, "recipe": {"steps": 2}}},
    "use": ["synthetic"],
    "train": {
        "preset": "demo",
        "steps": 3,
        "views_per_batch": 32,
        "encoder.kwargs": {
            "layers": [1, 1, 1, 1],
            "channels": [8, 8, 16, 16],
            "stem_width": 8,
            "stem_type": "",
        },
    },
    "probe": {"data": "digits", "scores": {"knn": "nearest neighbours"}},
    "seeds": 1,
    "axes": {
        "guidance": {"key": "data.synthetic.recipe.guidance_scale", "values": [1, 2]},
        "method": {
            "values": {
                "StableRep": {"train.method": {"name": "stablerep", "images_per_caption": 4}},
                "too many": {"train.method": {"name": "stablerep", "images_per_caption": 8}},
            }
        },
    },
    "x": "guidance",
    "lines": "method",
}
