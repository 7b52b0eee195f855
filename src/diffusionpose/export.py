"""Export of the one-step network to ONNX, checked against torch before the file is published.

Inputs are `images` (batch, frames, 3, height, width), uint8 RGB crops, and `noise` (batch, joints,
height / 4, width / 4), standard Gaussian; the output is `heatmaps` (batch, joints, height / 4,
width / 4). Cropping is in `diffusionpose.nn.geometry`, decoding to coordinates in
`diffusionpose.nn.heatmaps`. The metadata hold the model's configuration and the SHA-256 of the
weights.

The scan is unrolled (`two_level_scan`), as OpenVINO does not support ONNX's Scan operator.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffusionpose.errors import DiffusionPoseError, UsageError, first_line
from diffusionpose.formats import AtomicFile
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import WEIGHTS, find_pretrained, sha256_of
from diffusionpose.nn.selective_scan import scan_engine
from diffusionpose.version import __version__

OPSET = 20
TOLERANCE = 1e-4
"""Maximum difference of heatmaps between onnxruntime and torch."""
MOST_WEIGHTS = 3 * 2**29
"""Bytes of weights that fit one file: ONNX files are limited to 2 GiB, above which torch writes a
second file."""


class OneStep(nn.Module):
    """One-step inference from crops and noise to heatmaps: the only DDIM step yields x_0."""

    def __init__(self, model: DiffusionPose) -> None:
        super().__init__()
        self.model = model
        self.last = model.config.diffusion.num_train_timesteps - 1

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Predict the heatmaps of the key frame."""
        t = torch.full((noise.shape[0],), self.last, device=noise.device)
        return self.model(images, noise, t)


def example(model: DiffusionPose, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make random crops and noise for a model."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, model.config.num_frames, 3, *model.config.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images, torch.randn(batch, *model.noise_shape, generator=generator)


def export_onnx(name_or_path: str | Path, target: Path, *, overwrite: bool = False) -> float:
    """Export a model to ONNX with a dynamic batch size.

    Args:
        name_or_path: Bundled name, folder, or Hugging Face repository.
        target: The file; it is published only if onnxruntime reproduces torch's output with it.
        overwrite: Replace an existing file.

    Returns:
        Largest absolute difference of heatmaps between onnxruntime and torch, on random inputs of
        two batch sizes.

    Raises:
        UsageError: If the target exists, or the model is too large for one file.
        CheckpointError: If the model is not found.
        DiffusionPoseError: If the outputs differ from torch's.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"{target} already exists: choose another --out, or pass --overwrite")
    folder = find_pretrained(name_or_path)
    model = DiffusionPose.from_pretrained(folder)
    weights = sum(one.nbytes for one in model.state_dict().values())
    if weights > MOST_WEIGHTS:
        raise UsageError(
            f"{name_or_path}: {weights / 2**30:.1f} GiB of weights are too large for an ONNX file, "
            f"which holds {MOST_WEIGHTS / 2**30:g} GiB"
        )
    facts = {
        "diffusionpose": __version__,
        "config": model.config.model_dump_json(),
        "weights_sha256": sha256_of(folder / WEIGHTS),
    }
    file = AtomicFile(target)
    try:
        _write(OneStep(model), example(model, 2), file.temporary, facts)
        difference = max(_difference(model, file.temporary, batch) for batch in (1, 3))
        if not difference <= TOLERANCE:
            raise DiffusionPoseError(
                f"{target}: onnxruntime differs from torch by {difference:.1e}, more than {TOLERANCE:.0e}; not written"
            )
        file.publish()
    finally:
        file.discard()
    return difference


def _write(
    network: OneStep, inputs: tuple[Tensor, Tensor], path: Path, facts: dict[str, str]
) -> None:
    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.no_grad(), scan_engine("two_level"), _quiet():
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}),
            input_names=["images", "noise"],
            output_names=["heatmaps"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(facts)
    program.save(path)


def _difference(model: DiffusionPose, path: Path, batch: int) -> float:
    import onnxruntime as ort

    images, noise = example(model, batch, seed=batch)
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images.numpy(), "noise": noise.numpy()})
    except Exception as error:  # onnxruntime's own classes share no base but this
        raise DiffusionPoseError(f"onnxruntime cannot run the file: {first_line(error)}") from error
    with torch.inference_mode():
        expected = OneStep(model)(images, noise)
    return float(np.abs(np.asarray(found) - expected.numpy()).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
