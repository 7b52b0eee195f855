"""Distillation: a model also learns from the heatmaps of other models.

Each clip gets one teacher, drawn by the teachers' shares, which sees the clip or its mirror image.
In expectation this is the mean over all teachers and both views, at the cost of one forward pass.
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
    """Target heatmaps from the teachers, and which joints they predict at all."""

    heatmaps: Float[Tensor, "batch joints height width"]
    known: Bool[Tensor, "batch joints"]


class ModelTeacher(nn.Module):
    """A DiffusionPose model as teacher, with one-step inference.

    Clips are adapted to the teacher's number of frames: a single frame is repeated, and a
    single-frame teacher sees the key frame only.

    Args:
        name: Folder, or the name of a bundled model.
        student: Configuration of the student; skeleton and sizes must match.

    Raises:
        CheckpointError: If the teacher cannot be read.
        ConfigError: If its skeleton or sizes differ from the student's.
    """

    def __init__(self, name: str, student: ModelConfig) -> None:
        super().__init__()
        self.model = DiffusionPose.from_pretrained(name)
        config = self.model.config
        for setting in ("skeleton", "image_size", "heatmap_size"):
            own, wanted = getattr(config, setting), getattr(student, setting)
            if own != wanted:
                raise ConfigError(
                    f"distillation: {name}: {setting} is {own}, not {wanted} as in the student; "
                    "use a teacher with the same settings"
                )
        self.known = torch.ones(self.model.num_joints, dtype=torch.bool)
        self.requires_grad_(False)

    def forward(
        self,
        images: Shaped[Tensor, "batch frames 3 image_height image_width"],
        keys: Int[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch joints height width"]:
        """Predict heatmaps of the key frame, with noise seeded by the clips' keys."""
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
    """The original MoveNet as teacher, for the joints that it shares with the student.

    Args:
        weights: File written by `tools/make_stem.py`.
        student: Configuration of the student.

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
        """Predict heatmaps of the key frame; zero for joints that MoveNet does not have."""
        del keys
        found = self.movenet(images[:, images.shape[1] // 2])
        maps = found.new_zeros(len(found), len(self.known), *found.shape[2:])
        maps[:, self.joints] = found[:, self.columns]
        return maps


class Distillation:
    """The teachers of a run; not an `nn.Module`, so that they are neither saved nor averaged.

    Args:
        teachers: Teachers of the recipe.
        student: Configuration of the student.
        find: Resolves a teacher's weights, given path and setting, to a file or folder.
        seed: Seed for the assignment of teachers to clips.

    Raises:
        CheckpointError: If a teacher's weights cannot be read.
        ConfigError: If a teacher does not fit the student.
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
        """Run the teachers on a batch of clips.

        Args:
            images: RGB crops in [0, 255].
            keys: Epoch, repeat and record, which determine teacher and mirroring.
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
