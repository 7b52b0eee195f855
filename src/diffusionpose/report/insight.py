"""Recording of heatmaps while a video is processed, and of the denoising of one frame."""

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
"""Number of joint tiles per row."""
LEVELS = 32
"""Grey levels of heatmaps: enough, and half the bytes of 256."""
STEPS = (1, 2, 4, 8)
SEEDS = 24
MOST_KEPT = 32
"""Maximum number of candidate frames for the middle one; beyond it, their spacing is doubled."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Heatmaps of one person in one frame.

    Args:
        png: Grey image of the joints' heatmaps as tiles, `COLUMNS` per row.
        to_image: (2, 3) affine from heatmap pixels to image pixels.
    """

    png: bytes
    to_image: np.ndarray


@dataclass(frozen=True, eq=False)
class Theatre:
    """One person in one frame, denoised in several ways.

    Args:
        frame: Index of the frame.
        track_id: Of the person.
        stages: Number of steps -> (steps + 1, joints, height, width): x_T, and the result of each
            step.
        points: (seeds, joints, 2) image pixels, predicted in one step from `SEEDS` noise samples.
        to_image: (2, 3) affine from heatmap pixels to image pixels.
    """

    frame: int
    track_id: int
    stages: dict[int, np.ndarray]
    points: np.ndarray
    to_image: np.ndarray


def tiles(maps: np.ndarray) -> np.ndarray:
    """Arrange heatmaps (joints, height, width) as grey tiles, `COLUMNS` per row; 1 is white."""
    joints, height, width = maps.shape
    rows = -(-joints // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width), np.uint8)
    grey = np.rint(np.clip(maps, 0, 1) * (LEVELS - 1)) * (255 / (LEVELS - 1))
    sheet[:joints] = np.rint(grey)
    grid = sheet.reshape(rows, COLUMNS, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(rows * height, COLUMNS * width)


def png(picture: np.ndarray) -> bytes:
    """Encode a grey or RGB uint8 image as PNG."""
    colours = picture if picture.ndim == 2 else picture[..., ::-1]
    done, encoded = cv2.imencode(".png", colours, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return encoded.tobytes()


@dataclass(frozen=True, eq=False)
class _Person:
    """A person to denoise again: features (frames, ...) of one view, affine to image pixels."""

    track_id: int
    features: Tensor
    to_image: np.ndarray


class _Kept:
    """People of candidate frames; one frame is chosen once the length of the video is known.

    Args:
        guess: Index of the expected frame; the nearest one with people is kept.
        is_asked: Whether that frame was requested; if not, possible middle frames are kept, too.
    """

    def __init__(self, guess: int | None, *, is_asked: bool) -> None:
        self._guess, self._is_asked, self._apart = guess, is_asked, 1
        self._people: dict[int, list[_Person]] = {}

    def add(self, frame: int, person: _Person) -> None:
        """Add a person; frames must come in order."""
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
        # The middle of the video is at or after half of what was seen so far, so of the earlier
        # frames only the last can be the nearest to it.
        before = [frame for frame in frames if frame < frames[-1] // 2]
        rest = [*before[-1:], *(frame for frame in frames if frame >= frames[-1] // 2)]
        while len(spaced := _spaced(rest, self._apart)) > MOST_KEPT:
            self._apart *= 2
        return wanted | {*spaced, frames[-1]}

    def nearest(self, frame: int) -> tuple[int, list[_Person]] | None:
        """Return the kept frame nearest to `frame`, and its people; None if there is none."""
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
    """Observer of `PosePipeline.stream`.

    Args:
        network: Of the pipeline.
        frame: Index of the frame to denoise again, or the nearest with people; None for the middle
            one.
        seed: Of the noise samples.
        expected_frames: Number of frames according to the video's header.
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
        """Heatmaps by (track id, frame index)."""

    def __call__(self, seen: Seen) -> None:
        to_image = _from_heatmap(seen.affine)
        maps = seen.heatmaps.float().cpu().numpy()
        self.sheets[seen.track_id, seen.frame] = Sheet(png(tiles(maps)), to_image)
        if isinstance(self._network, TorchNetwork):
            # Only the unmirrored view; a copy, as a slice would keep the whole batch in memory.
            features = seen.features[:, 0].clone()
            self._kept.add(seen.frame, _Person(seen.track_id, features, to_image))

    def _chosen(self, num_frames: int) -> tuple[int, list[_Person]] | None:
        return self._kept.nearest(num_frames // 2 if self._frame is None else self._frame)

    def theatres(self, num_frames: int) -> list[Theatre]:
        """Denoise everybody in the chosen frame again; call after all frames were seen."""
        chosen = self._chosen(num_frames)
        if chosen is None:
            return []
        frame, people = chosen
        return [self._theatre(frame, person) for person in people]

    def notes(self, num_frames: int) -> list[str]:
        """Explain why the requested frame is not shown; empty if it is, or none was requested."""
        chosen = self._chosen(num_frames)
        if self._frame is None or (chosen and chosen[0] == self._frame):
            return []
        if not isinstance(self._network, TorchNetwork):
            return [
                "the report does not show denoising: this needs a model in torch, not an exported file"
            ]
        why = (
            f"the video has no frame {self._frame}, the last one is {num_frames - 1}"
            if self._frame >= num_frames
            else f"there is nobody in frame {self._frame}"
        )
        if chosen is None:
            return [f"the report does not show denoising: {why}, and nobody in any other"]
        return [f"{why}: the report shows frame {chosen[0]}, the nearest with people"]

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
    """Affine (2, 3) from heatmap to image pixels, given the affine from image to crop pixels."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    crop = heatmaps.heatmap_to_crop(corners).double().numpy()
    origin, right, down = transform(crop, invert(affine))
    return np.column_stack([right - origin, down - origin, origin])
