"""Clips for the model: three crops through the key frame's box, and its keypoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffusionpose.config import ModelConfig
from diffusionpose.data.frames import is_file
from diffusionpose.data.transforms import augment_clip, plain_clip
from diffusionpose.errors import DataError
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.nn.heatmaps import crop_to_heatmap
from diffusionpose.recipe import AugmentConfig


@dataclass(frozen=True)
class ClipRecord:
    """One person in one key frame, as annotated.

    Args:
        frames: Files of the frames t-1, t, t+1; the key frame stands in for a missing neighbour.
        keypoints: (num_joints, 2) pixels of the key frame, NaN where missing.
        box: xyxy pixels of the key frame.
        video: Name of the video.
        image_id: The key frame's id in the data set, or its position in the video where frames have none.
        track_id: `structures.NO_TRACK` where unknown.
        still: The three frames are one image, so that training may make motion up.
        further: Files of the frames t-2 and t+2, for jitter; empty where there are none to draw from.
        frame: The key frame's position in the video.
        number: The person's position among those of the frame, whoever of them can be used.
    """

    frames: tuple[Path, ...]
    keypoints: np.ndarray
    box: np.ndarray
    video: str
    image_id: int
    track_id: int
    still: bool = False
    further: tuple[Path, ...] = ()
    frame: int = 0
    number: int = 0


class Clip(TypedDict):
    """One example: `images` (frames, 3, height, width) uint8; `keypoints` (joints, 2) heatmap pixels, NaN where missing.

    `to_image` (2, 3) maps crop pixels to pixels of the key frame; `index` is the record's, `key`
    (epoch, repeat, index); `video`, `frame` and `number` say who it is.
    """

    images: Tensor
    keypoints: Tensor
    to_image: Tensor
    index: int
    key: Tensor
    video: str
    frame: int
    number: int


DrawKey = tuple[int, int, int]
"""(epoch, repeat, index): the repeat counts the draws of one record within an epoch."""


def noise_of(
    batch: dict[str, Any], shape: Sequence[int], seed: int = 0
) -> Float[Tensor, "batch *shape"]:
    """Noise that a person's video, frame and number decide with the seed, whoever else is there."""
    people = zip(batch["video"], batch["frame"].tolist(), batch["number"].tolist(), strict=True)
    return torch.stack([seeded_noise(shape, (seed, *person)) for person in people])


def read_image(path: Path) -> np.ndarray:
    """(height, width, 3) uint8 RGB.

    Raises:
        DataError: If the file is missing or no image.
    """
    # OpenCV would raise errors of its own for names that no file can have.
    if not is_file(path):
        raise DataError(f"{str(path)!r}: no such file")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{str(path)!r}: not an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ClipDataset(Dataset[Clip]):
    """Records as clips, by index or by keys of `EpochSampler`: what is drawn depends on seed and key alone.

    Args:
        records: People.
        config: Sizes, skeleton and number of frames.
        augment: Random changes, or None for plain crops.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        config: ModelConfig,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.records, self.config, self.augment, self.seed = records, config, augment, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: DrawKey | int) -> Clip:
        epoch, repeat, index = key if isinstance(key, tuple) else (0, 0, key)
        record = self.records[index]
        rng = np.random.default_rng([self.seed, epoch, repeat, index])
        paths = record.frames if self.config.num_frames == 3 else record.frames[1:2]
        if self.augment is not None and len(paths) == 3:
            paths = jitter_frames(record, self.augment.frame_jitter, rng)
        loaded = {path: read_image(path) for path in set(paths)}
        images = [loaded[path] for path in paths]
        if self.augment is None:
            crops, keypoints, to_image = plain_clip(
                images, record.keypoints, record.box, self.config
            )
        else:
            crops, keypoints, to_image = augment_clip(
                images,
                record.keypoints,
                record.box,
                self.config,
                self.augment,
                rng,
                still=record.still,
                other=self._other(rng),
            )
        return Clip(
            images=torch.from_numpy(np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))),
            keypoints=crop_to_heatmap(torch.from_numpy(keypoints).float()),
            to_image=torch.from_numpy(to_image),
            index=index,
            key=torch.tensor([epoch, repeat, index]),
            video=record.video,
            frame=record.frame,
            number=record.number,
        )

    def _other(self, rng: np.random.Generator) -> np.ndarray | None:
        """Some other example's picture, for occluders; nothing is read or drawn where none are asked for."""
        if self.augment is None or not self.augment.occluder_texture:
            return None
        return read_image(self.records[int(rng.integers(len(self.records)))].frames[1])


def jitter_frames(record: ClipRecord, share: float, rng: np.random.Generator) -> tuple[Path, ...]:
    """The frames of a clip, each neighbour replaced with probability `share`: videos skip and repeat frames.

    In its stead comes the frame behind it or the key frame, with equal chance; the key frame where there is no further one.
    """
    if not share:
        return record.frames  # and nothing drawn: recipes without jitter stay as they were
    before, key, after = record.frames
    further = record.further or (key, key)
    replaced = rng.random(2) < share
    is_far = rng.random(2) < 0.5
    first, last = (
        (far if takes_far else key) if instead else near
        for near, far, instead, takes_far in zip(
            (before, after), further, replaced, is_far, strict=True
        )
    )
    return first, key, last


class EpochSampler(Sampler[DrawKey]):
    """Keys (epoch, repeat, index) of one rank, in batches that (seed, epoch) alone decides.

    Ranks share the order of one process whose batches are `world` times as large. Draws that do not fill a batch of
    every rank are left to the next epoch; a single rank with less than one batch takes what there is.

    Args:
        shares: For each record how often an epoch draws it on average; of records with the same fraction, every epoch
            draws the same number at random.
        seed: Of order and draws.
        batch_size: Of each rank.
        rank: Which of them this is.
        world: How many there are.
    """

    def __init__(
        self,
        shares: np.ndarray,
        seed: int = 0,
        *,
        batch_size: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.whole, fraction = np.divmod(np.asarray(shares, float), 1)
        # Each group by itself: drawn together without replacement, large and small shares would come closer.
        groups = [np.flatnonzero(fraction == value) for value in np.unique(fraction[fraction > 0])]
        self.drawn = [(group, round(fraction[group].sum())) for group in groups]
        self.seed, self.epoch = seed, 0
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self._done = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def resume(self, epoch: int, batches: int) -> None:
        """Leaves out the first batches of an epoch, which were trained on before."""
        self.epoch, self._done = epoch, (epoch, batches)

    def draws(self) -> list[tuple[int, int]]:
        """This epoch's (repeat, index) pairs of all ranks, in order."""
        rng = np.random.default_rng([self.seed, self.epoch])
        whole = self.whole.copy()
        for group, number in self.drawn:
            whole[rng.choice(group, number, replace=False)] += 1
        pairs = [
            (repeat, index) for index, times in enumerate(whole) for repeat in range(int(times))
        ]
        return [pairs[place] for place in rng.permutation(len(pairs))]

    def __len__(self) -> int:
        number = int(self.whole.sum()) + sum(number for _, number in self.drawn)
        if self.world == 1 and number < self.batch_size:
            return number
        return number // (self.batch_size * self.world) * self.batch_size

    def __iter__(self) -> Iterator[DrawKey]:
        draws, step = self.draws(), self.batch_size * self.world
        epoch, batches = self._done
        first = batches if epoch == self.epoch else 0
        for batch in range(first, -(-len(self) // self.batch_size)):
            start = batch * step + self.rank * self.batch_size
            for repeat, index in draws[start : start + self.batch_size]:
                yield self.epoch, repeat, index
