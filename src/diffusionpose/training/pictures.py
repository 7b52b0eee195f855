"""Pictures of validation clips and predictions for TensorBoard."""

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tensorboard.compat.proto import summary_pb2
from torch import Tensor

from diffusionpose.nn.heatmaps import heatmap_to_crop

if TYPE_CHECKING:
    from diffusionpose.training.module import PoseTraining

MOST_PEOPLE = 6
_TRUE, _FOUND = (90, 220, 90), (240, 60, 60)


def log_picture(
    module: "PoseTraining", tag: str, images: Tensor, maps: Tensor, points: Tensor, truth: Tensor
) -> None:
    """Log a picture with one row per person.

    A row shows the crop with true (green) and predicted (red) limbs, and overlaid with the maximum
    of the heatmaps.

    Args:
        module: Provides logger and step.
        tag: Tag in TensorBoard.
        images: (batch, frames, 3, height, width) uint8.
        maps: (batch, joints, height / 4, width / 4).
        points: (batch, joints, 2) predicted keypoints in heatmap pixels.
        truth: Likewise, ground truth; NaN where unlabelled.
    """
    writer: Any = getattr(module.logger, "experiment", None)
    if writer is None or not module.trainer.is_global_zero:
        return
    limbs = module.config.model.skeleton_graph.limbs
    rows = []
    for person in range(min(len(images), MOST_PEOPLE)):
        key = images[person, images.shape[1] // 2].permute(1, 2, 0).cpu().numpy()
        lines = np.ascontiguousarray(key)
        for joints, colour in ((truth, _TRUE), (points, _FOUND)):
            places = heatmap_to_crop(joints[person].float()).cpu().numpy()
            _draw_limbs(lines, places, limbs, colour)
        rows.append(np.hstack([lines, _heat(key, maps[person].float().cpu().numpy())]))
    _, encoded = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    kinds: Any = summary_pb2  # protobuf creates its classes at import
    image = kinds.Summary.Image(encoded_image_string=encoded.tobytes())
    value = kinds.Summary.Value(tag=tag, image=image)
    writer.file_writer.add_summary(kinds.Summary(value=[value]), module.global_step)


def _draw_limbs(
    image: np.ndarray,
    points: np.ndarray,
    limbs: tuple[tuple[int, int], ...],
    colour: tuple[int, int, int],
) -> None:
    for limb in limbs:
        ends = points[list(limb)]
        if np.isfinite(ends).all():
            first, second = np.rint(ends * 8).astype(int).tolist()
            cv2.line(image, first, second, colour, 2, cv2.LINE_AA, shift=3)


def _heat(crop: np.ndarray, maps: np.ndarray) -> np.ndarray:
    strength = np.clip(cv2.resize(maps.max(0), crop.shape[1::-1]), 0, 1)[..., None]
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return (
        (crop * 0.4 * (1 - strength) + colours * (0.2 + 0.8 * strength))
        .clip(0, 255)
        .astype(np.uint8)
    )
