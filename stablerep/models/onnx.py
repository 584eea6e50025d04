"""An encoder as ONNX: normalised images in, features out, for a batch of any size; checked in onnxruntime."""

import contextlib
import io
from pathlib import Path

import torch

from stablerep.errors import StableRepError
from stablerep.models.frozen import FrozenEncoder

ONNX_FILE = "model.onnx"
TOLERANCE = 1e-4


def export_onnx(encoder: FrozenEncoder, folder: Path) -> float:
    """Writes model.onnx; weights of 2 GB and more lie in a file beside it.

    Input `images` float32 [batch 3 size size], normalised with `mean` and `std` of the file's metadata;
    output `features` [batch width]. Returns the largest difference between onnxruntime's features and
    torch's, over their largest value, for random images. Raises StableRepError if that is above 1e-4.
    """
    import onnxruntime

    size = encoder.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = encoder.model.eval().cpu()
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its steps
        program = torch.onnx.export(
            model,
            (images[:2],),
            dynamo=True,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: "batch"},),
        )
    assert program is not None
    program.model.metadata_props.update(
        {
            "image_size": str(size),
            "mean": ",".join(map(str, encoder.mean)),
            "std": ",".join(map(str, encoder.std)),
            "crop_ratio": str(encoder.crop_ratio),
        }
    )
    large = sum(value.nbytes for value in model.state_dict().values()) >= 2 << 30
    program.save(folder / ONNX_FILE, external_data=large)
    with torch.inference_mode():
        expected = model(images)
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    difference = float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise StableRepError(
            f"{folder / ONNX_FILE} differs from the encoder by {difference:.2g}, not {TOLERANCE}"
        )
    return difference
