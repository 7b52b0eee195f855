"""What the network saw, kept while a video is estimated: heatmaps of every person, and one frame to look into."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from diffusionpose.networks import PoseNetwork, TorchNetwork
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.nn.geometry import invert, transform
from diffusionpose.predict import Seen

COLUMNS = 5
"""Of the joints' tiles in one picture."""
LEVELS = 32
"""Of grey: enough for a heatmap, and half the bytes of 256."""
STEPS = (1, 2, 4, 8)
SEEDS = 24


@dataclass(frozen=True, eq=False)
class Sheet:
    """Heatmaps of one person in one frame.

    Args:
        png: The joints' heatmaps as tiles, `COLUMNS` a row, grey.
        to_image: (2, 3) from heatmap pixels to picture pixels.
    """

    png: bytes
    to_image: np.ndarray


@dataclass(frozen=True, eq=False)
class Theatre:
    """One person in one frame, denoised in several ways.

    Args:
        frame: Index.
        track_id: Of the person.
        stages: Steps -> (steps + 1, joints, height, width): x_T, and what each step makes of it.
        points: (seeds, joints, 2) picture pixels found from other noises, in one step.
        to_image: (2, 3) from heatmap pixels to picture pixels.
    """

    frame: int
    track_id: int
    stages: dict[int, np.ndarray]
    points: np.ndarray
    to_image: np.ndarray


def tiles(maps: np.ndarray) -> np.ndarray:
    """(joints, height, width) -> one grey picture of `COLUMNS` tiles a row; 1 and more is white."""
    joints, height, width = maps.shape
    rows = -(-joints // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width), np.uint8)
    grey = np.rint(np.clip(maps, 0, 1) * (LEVELS - 1)) * (255 / (LEVELS - 1))
    sheet[:joints] = np.rint(grey)
    grid = sheet.reshape(rows, COLUMNS, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(rows * height, COLUMNS * width)


def png(picture: np.ndarray) -> bytes:
    """Grey or RGB, uint8."""
    colours = picture if picture.ndim == 2 else picture[..., ::-1]
    done, encoded = cv2.imencode(".png", colours, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return encoded.tobytes()


class Insight:
    """An observer of `PosePipeline.stream`.

    Args:
        network: The pipeline's.
        frame: Index of the frame to look into; None for none.
        seed: Of the noises.
    """

    def __init__(self, network: PoseNetwork, frame: int | None, seed: int = 0) -> None:
        self._network, self._frame, self._seed = network, frame, seed
        self.sheets: dict[tuple[int, int], Sheet] = {}
        """By track and frame."""
        self.theatres: list[Theatre] = []

    def __call__(self, seen: Seen) -> None:
        to_image = _from_heatmap(seen.affine)
        maps = seen.heatmaps.float().cpu().numpy()
        self.sheets[seen.track_id, seen.frame] = Sheet(png(tiles(maps)), to_image)
        if seen.frame == self._frame and isinstance(self._network, TorchNetwork):
            self.theatres.append(self._theatre(seen, to_image))

    @torch.inference_mode()
    def _theatre(self, seen: Seen, to_image: np.ndarray) -> Theatre:
        assert isinstance(self._network, TorchNetwork)
        model, autocast = self._network.model, self._network.autocast
        with autocast():
            # Without the mirrored view, if there is one.
            conditions = model.encode(seen.features[None, :, 0])
        shape, device = model.noise_shape, seen.features.device

        def noise(number: int) -> Tensor:
            key = (self._seed, seen.track_id, seen.frame, number)
            return seeded_noise(shape, key)[None].to(device)

        stages = {}
        with autocast():
            for steps in STEPS:
                path: list[Tensor] = []
                model.generate(conditions, noise(0), steps, on_step=path.append)
                stages[steps] = torch.cat(path).float().cpu().numpy()
            maps = torch.cat([model.generate(conditions, noise(n)) for n in range(SEEDS)])
        places = heatmaps.decode(maps.float(), model.config.sigma)[0].double().cpu().numpy()
        points = np.stack([transform(found, to_image) for found in places])
        return Theatre(seen.frame, seen.track_id, stages, points, to_image)


def _from_heatmap(affine: np.ndarray) -> np.ndarray:
    """(2, 3) from heatmap to picture pixels, from the one that cuts the crop out of the picture."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    crop = heatmaps.heatmap_to_crop(corners).double().numpy()
    origin, right, down = transform(crop, invert(affine))
    return np.column_stack([right - origin, down - origin, origin])
