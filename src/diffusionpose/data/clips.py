"""Clips for the model: crops of three frames by the key frame's box, and its keypoints."""

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
    """An annotated person in a key frame.

    Args:
        frames: Files of the frames t-1, t, t+1; the key frame replaces missing neighbours.
        keypoints: (num_joints, 2) pixels of the key frame, NaN where missing.
        box: xyxy pixels of the key frame.
        video: Name of the video.
        image_id: Id of the key frame in the data set, or its index in the video without ids.
        track_id: `structures.NO_TRACK` if unknown.
        still: Whether the three frames are one image, to which training may add synthetic motion.
        further: Files of the frames t-2 and t+2, for frame jitter; empty if there are none.
        frame: Index of the key frame in the video.
        number: Index of the person among all annotated people of the frame.
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
    """A sample of `ClipDataset`.

    `images` are (frames, 3, height, width) uint8 RGB crops, `keypoints` (joints, 2) are in heatmap
    pixels, NaN where missing, and `to_image` (2, 3) maps crop pixels to key frame pixels. `index`
    is that of the record, `key` is (epoch, repeat, index), and `video`, `frame` and `number`
    identify the person as in `ClipRecord`.
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
"""(epoch, repeat, index), where `repeat` counts the draws of a record within an epoch."""


def noise_of(
    batch: dict[str, Any], shape: Sequence[int], seed: int = 0
) -> Float[Tensor, "batch *shape"]:
    """Draw noise for each person, seeded by video, frame and number, whatever the batch."""
    people = zip(batch["video"], batch["frame"].tolist(), batch["number"].tolist(), strict=True)
    return torch.stack([seeded_noise(shape, (seed, *person)) for person in people])


def read_image(path: Path) -> np.ndarray:
    """Read an image as (height, width, 3) uint8 RGB.

    Raises:
        DataError: If the file is missing or not an image.
    """
    # Checked first, as OpenCV raises its own errors for invalid file names.
    if not is_file(path):
        raise DataError(f"{str(path)!r}: no such file")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{str(path)!r}: not an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ClipDataset(Dataset[Clip]):
    """Clips of records, by index or by keys of `EpochSampler`.

    The augmentation depends on seed and key only.

    Args:
        records: The people.
        config: Sizes, skeleton and number of frames.
        augment: Augmentation, or None for plain crops.
        seed: Seed of the augmentation.
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
        """Read a random record's image for occluders, if the recipe uses them."""
        if self.augment is None or not self.augment.occluder_texture:
            return None
        return read_image(self.records[int(rng.integers(len(self.records)))].frames[1])


def jitter_frames(record: ClipRecord, share: float, rng: np.random.Generator) -> tuple[Path, ...]:
    """Return the frames of a clip with each neighbour replaced with probability `share`.

    To simulate skipped and repeated frames, it is replaced by the frame beyond it or by the key
    frame, with equal probability; without a frame beyond, always by the key frame.
    """
    if not share:
        return record.frames  # without drawing, to reproduce recipes from before jitter existed
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
    """Samples the keys (epoch, repeat, index) of one rank, determined by (seed, epoch) alone.

    Ranks split the batches of a single process with `world` times the batch size. Draws that do not
    fill a batch for every rank are dropped, except for a single rank with less than one batch.

    Args:
        shares: Average number of draws of each record per epoch. Among records with the same
            fractional part, every epoch draws the same number at random.
        seed: Seed of order and draws.
        batch_size: Batch size per rank.
        rank: Rank of this process.
        world: Number of ranks.
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
        # Grouped by fraction: drawing from all at once without replacement would bias the shares.
        groups = [np.flatnonzero(fraction == value) for value in np.unique(fraction[fraction > 0])]
        self.drawn = [(group, round(fraction[group].sum())) for group in groups]
        self.seed, self.epoch = seed, 0
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self._done = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by the trainer before each one."""
        self.epoch = epoch

    def resume(self, epoch: int, batches: int) -> None:
        """Skip the first batches of an epoch, which have been trained on already."""
        self.epoch, self._done = epoch, (epoch, batches)

    def draws(self) -> list[tuple[int, int]]:
        """Return the (repeat, index) pairs of this epoch for all ranks, in order."""
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
