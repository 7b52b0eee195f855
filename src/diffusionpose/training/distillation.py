"""Distillation: a model learns the heatmaps of others besides the labels.

Every clip has one teacher, drawn by its share, who sees the clip or its mirror image: on average that is learning the mean of
all teachers over both, for the price of one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from diffusionpose.config import ModelConfig
from diffusionpose.errors import ConfigError
from diffusionpose.model.model import DiffusionPose
from diffusionpose.nn.diffusion import keyed_generator, seeded_noise
from diffusionpose.recipe import TeacherConfig
from diffusionpose.training.movenet import MoveNetHeatmaps, shared_joints


class Lesson(NamedTuple):
    """What teachers say of a batch: (batch, joints, height, width) heatmaps; (batch, joints) whether they know the joint."""

    heatmaps: Float[Tensor, "batch joints height width"]
    known: Bool[Tensor, "batch joints"]


class ModelTeacher(nn.Module):
    """Another model of ours, one step from noise. One of three frames sees a single frame three times, one of one the key frame.

    Args:
        name: Folder, or the name of a bundled model.
        student: Of whom it must know the joints, at the same sizes.

    Raises:
        CheckpointError: If it cannot be read.
        ConfigError: If its joints or sizes are others.
    """

    def __init__(self, name: str, student: ModelConfig) -> None:
        super().__init__()
        self.model = DiffusionPose.from_pretrained(name)
        config = self.model.config
        for setting in ("skeleton", "image_size", "heatmap_size"):
            own, wanted = getattr(config, setting), getattr(student, setting)
            if own != wanted:
                raise ConfigError(
                    f"distillation: {name}: {setting} is {own}, not {wanted} as of the model that learns"
                )
        self.known = torch.ones(self.model.num_joints, dtype=torch.bool)
        self.requires_grad_(False)

    def forward(
        self,
        images: Shaped[Tensor, "batch frames 3 image_height image_width"],
        keys: Int[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch joints height width"]:
        """Heatmaps of the key frame; the noise is drawn by the clips' keys."""
        frames, own = images.shape[1], self.model.config.num_frames
        if own < frames:
            images = images[:, frames // 2 : frames // 2 + 1]
        features = self.model.extract(images)
        features = features.expand(-1, own, -1, -1)
        noise = torch.stack(
            [seeded_noise(self.model.noise_shape, tuple(key)) for key in keys.tolist()]
        ).to(images.device)
        return self.model.generate(self.model.encode(features), noise).float()


class MoveNetTeacher(nn.Module):
    """MoveNet as it came, for the joints that it shares with the model that learns.

    Args:
        weights: File of `tools/make_stem.py`.
        student: The model that learns.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
    """

    def __init__(self, weights: Path, student: ModelConfig) -> None:
        super().__init__()
        self.movenet = MoveNetHeatmaps(weights)
        self.joints, self.columns = shared_joints(student.skeleton_graph)
        self.known = torch.zeros(student.skeleton_graph.num_joints, dtype=torch.bool)
        self.known[self.joints] = True

    def forward(
        self,
        images: Shaped[Tensor, "batch frames 3 image_height image_width"],
        keys: Int[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch joints height width"]:
        """Heatmaps of the key frame, zero for joints that it does not know."""
        del keys
        found = self.movenet(images[:, images.shape[1] // 2])
        maps = found.new_zeros(len(found), len(self.known), *found.shape[2:])
        maps[:, self.joints] = found[:, self.columns]
        return maps


class Distillation:
    """The teachers of a run. No module: they are neither saved with the run nor averaged.

    Args:
        teachers: Of the recipe.
        student: Configuration of the model that learns.
        find: Where weights are: a file, a folder or a bundled model's.
        seed: Of who teaches what.

    Raises:
        CheckpointError: If a teacher's weights cannot be read.
        ConfigError: If a teacher does not fit the model.
    """

    def __init__(
        self,
        teachers: Sequence[TeacherConfig],
        student: ModelConfig,
        find: Callable[[Path, str], Path],
        seed: int,
    ) -> None:
        self.seed, self._flip = seed, list(student.skeleton_graph.flip_permutation)
        self._shares = torch.tensor([teacher.share for teacher in teachers])
        self.teachers = [
            self._load(find(teacher.weights, f"distillation.teachers.{number}.weights"), student)
            for number, teacher in enumerate(teachers)
        ]

    @staticmethod
    def _load(path: Path, student: ModelConfig) -> ModelTeacher | MoveNetTeacher:
        if path.is_dir():
            return ModelTeacher(str(path), student).eval()
        return MoveNetTeacher(path, student).eval()

    @torch.no_grad()
    def lesson(
        self,
        images: Shaped[Tensor, "batch frames 3 image_height image_width"],
        keys: Int[Tensor, "batch 3"],
    ) -> Lesson:
        """What the teachers say of these clips.

        Args:
            images: RGB crops in [0, 255].
            keys: Epoch, repeat and record, which draw teacher and mirror.
        """
        draws = [self._draw(key) for key in keys.tolist()]
        teacher, mirrored = (torch.tensor(column) for column in zip(*draws, strict=True))
        mirrored = mirrored.to(images.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1, 1), images.flip(-1), images)
        maps, known = [], []
        for number, module in enumerate(self.teachers):
            mine = (teacher == number).nonzero().flatten().to(images.device)
            if len(mine):
                module.to(images.device)
                maps.append(module(images[mine], keys[mine]))
                known.append(module.known.to(images.device).expand(len(mine), -1))
        back = teacher.argsort(stable=True).argsort().to(images.device)
        heatmaps = torch.cat(maps)[back]
        mirror = heatmaps.flip(-1)[:, self._flip]
        return Lesson(
            torch.where(mirrored.view(-1, 1, 1, 1), mirror, heatmaps), torch.cat(known)[back]
        )

    def _draw(self, key: Sequence[int]) -> tuple[int, bool]:
        generator = keyed_generator((self.seed, "teacher", *key))
        teacher = torch.multinomial(self._shares, 1, generator=generator)
        return int(teacher), bool(torch.rand((), generator=generator) < 0.5)
