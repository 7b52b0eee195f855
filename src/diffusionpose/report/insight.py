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
MOST_KEPT = 32
"""Frames that may turn out to be the middle one; more of them are kept further apart."""


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


@dataclass(frozen=True, eq=False)
class _Person:
    """What denoising somebody again needs: features (frames, ...) of one view, and the way to picture pixels."""

    track_id: int
    features: Tensor
    to_image: np.ndarray


class _Kept:
    """People of the frames that may be wanted when the length of the video is known.

    Args:
        guess: Index of a frame; the nearest one with people is kept.
        is_asked: Whether it was asked for; else frames that may lie in the middle are kept, too.
    """

    def __init__(self, guess: int | None, *, is_asked: bool) -> None:
        self._guess, self._is_asked, self._apart = guess, is_asked, 1
        self._people: dict[int, list[_Person]] = {}

    def add(self, frame: int, person: _Person) -> None:
        """Frames come in their order."""
        is_new = frame not in self._people
        self._people.setdefault(frame, []).append(person)
        if is_new:
            wanted = self._wanted()
            self._people = {one: people for one, people in self._people.items() if one in wanted}

    def _wanted(self) -> set[int]:
        frames = list(self._people)
        wanted = set() if self._guess is None else {_nearest(frames, self._guess)}
        if self._is_asked:
            return wanted
        # The middle is never before half of what was seen: there, only the last one can be the nearest.
        before = [frame for frame in frames if frame < frames[-1] // 2]
        rest = [*before[-1:], *(frame for frame in frames if frame >= frames[-1] // 2)]
        while len(spaced := _spaced(rest, self._apart)) > MOST_KEPT:
            self._apart *= 2
        return wanted | {*spaced, frames[-1]}

    def nearest(self, frame: int) -> tuple[int, list[_Person]] | None:
        """The kept frame that is nearest to this one, and who is in it."""
        if not self._people:
            return None
        found = _nearest(list(self._people), frame)
        return found, self._people[found]


def _nearest(frames: list[int], frame: int) -> int:
    return min(frames, key=lambda one: abs(one - frame))


def _spaced(frames: list[int], apart: int) -> list[int]:
    out: list[int] = []
    for frame in frames:
        if not out or frame - out[-1] >= apart:
            out.append(frame)
    return out


class Insight:
    """An observer of `PosePipeline.stream`.

    Args:
        network: The pipeline's.
        frame: Index of the frame to look into; None for the middle one. Where nobody is in it, the nearest with people.
        seed: Of the noises.
        expected_frames: How many the video says it has.
    """

    def __init__(
        self,
        network: PoseNetwork,
        frame: int | None = None,
        seed: int = 0,
        *,
        expected_frames: int | None = None,
    ) -> None:
        self._network, self._frame, self._seed = network, frame, seed
        guess = expected_frames // 2 if expected_frames and frame is None else frame
        self._kept = _Kept(guess, is_asked=frame is not None)
        self.sheets: dict[tuple[int, int], Sheet] = {}
        """By track and frame."""

    def __call__(self, seen: Seen) -> None:
        to_image = _from_heatmap(seen.affine)
        maps = seen.heatmaps.float().cpu().numpy()
        self.sheets[seen.track_id, seen.frame] = Sheet(png(tiles(maps)), to_image)
        if isinstance(self._network, TorchNetwork):
            # Without the mirrored view, if there is one; a copy, as the whole batch would stay with a part of it.
            features = seen.features[:, 0].clone()
            self._kept.add(seen.frame, _Person(seen.track_id, features, to_image))

    def _chosen(self, num_frames: int) -> tuple[int, list[_Person]] | None:
        return self._kept.nearest(num_frames // 2 if self._frame is None else self._frame)

    def theatres(self, num_frames: int) -> list[Theatre]:
        """Of everybody in the frame that is looked into, when all of the video's frames were seen."""
        chosen = self._chosen(num_frames)
        if chosen is None:
            return []
        frame, people = chosen
        return [self._theatre(frame, person) for person in people]

    def notes(self, num_frames: int) -> list[str]:
        """Why it is not the frame that was asked for, or none: nothing where it is."""
        chosen = self._chosen(num_frames)
        if self._frame is None or (chosen and chosen[0] == self._frame):
            return []
        if not isinstance(self._network, TorchNetwork):
            return ["an exported model cannot be looked into: the report has no look inside it"]
        why = (
            f"the video has no frame {self._frame}, the last one is {num_frames - 1}"
            if self._frame >= num_frames
            else f"nobody is in frame {self._frame}"
        )
        if chosen is None:
            return [f"{why}, nor in another: the report has no look inside the model"]
        return [f"{why}: the report looks into frame {chosen[0]}, the nearest with people"]

    @torch.inference_mode()
    def _theatre(self, frame: int, person: _Person) -> Theatre:
        assert isinstance(self._network, TorchNetwork)
        model, autocast = self._network.model, self._network.autocast
        with autocast():
            conditions = model.encode(person.features[None])
        shape, device = model.noise_shape, person.features.device

        def noise(number: int) -> Tensor:
            key = (self._seed, person.track_id, frame, number)
            return seeded_noise(shape, key)[None].to(device)

        stages = {}
        with autocast():
            for steps in STEPS:
                path: list[Tensor] = []
                model.generate(conditions, noise(0), steps, on_step=path.append)
                stages[steps] = torch.cat(path).float().cpu().numpy()
            maps = torch.cat([model.generate(conditions, noise(n)) for n in range(SEEDS)])
        places = heatmaps.decode(maps.float(), model.config.sigma)[0].double().cpu().numpy()
        points = np.stack([transform(found, person.to_image) for found in places])
        return Theatre(frame, person.track_id, stages, points, person.to_image)


def _from_heatmap(affine: np.ndarray) -> np.ndarray:
    """(2, 3) from heatmap to picture pixels, from the one that cuts the crop out of the picture."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    crop = heatmaps.heatmap_to_crop(corners).double().numpy()
    origin, right, down = transform(crop, invert(affine))
    return np.column_stack([right - origin, down - origin, origin])
