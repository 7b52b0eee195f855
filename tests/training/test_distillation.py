import pytest
import torch
from torch import nn

from diffusionpose.errors import CheckpointError, ConfigError
from diffusionpose.model.model import DiffusionPose
from diffusionpose.recipe import DistillationConfig, TeacherConfig, TrainConfig
from diffusionpose.skeleton import COCO17, POSETRACK15
from tests.data.made import posetrack_root
from tests.journeys.test_overfit import recipe
from tests.training.helpers import one_step, write_stem

pytest.importorskip("lightning")

from diffusionpose.training.distillation import Distillation, ModelTeacher, MoveNetTeacher
from diffusionpose.training.module import PoseTraining, weights_at
from diffusionpose.training.movenet import MoveNetHeatmaps
from diffusionpose.training.sources import make_loaders


class Echo(nn.Module):
    """A teacher whose heatmaps are the crop's brightness times its own number, plus the joint's."""

    def __init__(self, number):
        super().__init__()
        self.number, self.known = number, torch.arange(15) != number

    def forward(self, images, keys):
        del keys
        bright = nn.functional.avg_pool2d(images[:, images.shape[1] // 2, 0].float(), 4)
        return self.number * bright[:, None] + torch.arange(15.0).view(1, 15, 1, 1)


@pytest.fixture
def root(tmp_path):
    return posetrack_root(tmp_path / "data", videos=("000001_bonn",), num_frames=3, unlabelled=())


@pytest.fixture
def config(root):
    """A configuration with one frame and a plain head."""
    model = {
        "name": "head",
        "num_frames": 1,
        "backbone": {"hidden_size": 64, "depth": 1, "num_heads": 2},
        "encoder": {"kind": "none", "depth": 0},
        "decoder": {"kind": "head", "markov": False, "num_heads": 2},
    }
    return recipe(root, model=model, optimizer={"warmup_steps": 1})


@pytest.fixture
def saved(config, tmp_path):
    torch.manual_seed(0)
    return DiffusionPose(config.model).save_pretrained(tmp_path / "teacher", "# teacher")


def taught_by(config, *paths, weight=0.5):
    teachers = tuple(TeacherConfig(weights=path) for path in paths)
    distillation = DistillationConfig(teachers=teachers, weight=weight)
    return config.model_copy(update={"distillation": distillation})


@pytest.fixture
def echoes(config, saved):
    """Two teachers with shares 1 and 3."""
    shares = [TeacherConfig(weights=saved, share=share) for share in (1, 3)]
    distillation = Distillation(shares, config.model, weights_at, seed=3)
    distillation.teachers = [Echo(1), Echo(2)]
    return distillation


def keys_of(number):
    return torch.stack([torch.zeros(number), torch.zeros(number), torch.arange(number)], 1).long()


def test_every_clip_hears_its_own_teacher_in_its_own_frame(echoes):
    images = torch.randint(0, 256, (24, 3, 3, 256, 192), dtype=torch.uint8)
    keys = keys_of(24)
    heatmaps, known = echoes.lesson(images, keys)
    flip = torch.tensor(POSETRACK15.flip_permutation, dtype=torch.float32)
    drawn = [echoes._draw(key) for key in keys.tolist()]
    assert len(set(drawn)) == 4  # either teacher, either side
    for n, (teacher, mirrored) in enumerate(drawn):
        bright = nn.functional.avg_pool2d(images[n, 1, :1].float(), 4)
        joints = flip if mirrored else torch.arange(15.0)
        expected = (teacher + 1) * bright + joints.view(15, 1, 1)
        torch.testing.assert_close(heatmaps[n], expected)
        assert (~known[n]).nonzero().flatten().tolist() == [teacher + 1]


def test_who_teaches_a_clip_does_not_depend_on_the_others(echoes):
    images = torch.randint(0, 256, (9, 1, 3, 256, 192), dtype=torch.uint8)
    together = echoes.lesson(images, keys_of(9)).heatmaps
    alone = [echoes.lesson(images[n : n + 1], keys_of(9)[n : n + 1]).heatmaps for n in (8, 3, 0, 5)]
    assert torch.equal(torch.cat(alone), together[[8, 3, 0, 5]])


def test_teachers_are_drawn_by_their_shares_and_every_second_clip_is_mirrored(echoes):
    drawn = [echoes._draw(key) for key in keys_of(1_200).tolist()]
    assert sum(teacher for teacher, _ in drawn) / 1_200 == pytest.approx(0.75, abs=0.04)
    assert sum(mirrored for _, mirrored in drawn) / 1_200 == pytest.approx(0.5, abs=0.05)


def test_from_oneself_nothing_is_to_be_learnt_but_labels(config, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(Distillation, "_draw", lambda *_: (0, False))
    start = config.model_copy(update={"init_from": saved})
    _, _, alone = one_step(start, tmp_path / "alone")
    module, before, loss = one_step(taught_by(start, saved, weight=0.75), tmp_path / "taught")
    assert float(loss) == pytest.approx(0.25 * float(alone), rel=1e-5)
    # Teachers are neither saved nor averaged.
    assert {name.split(".")[0] for name in module.state_dict()} == {"model"}
    assert module.model.state_dict().keys() == before.keys()


def test_what_a_teacher_says_is_learnt(config, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(Distillation, "_draw", lambda *_: (0, False))
    module = PoseTraining(taught_by(config, saved, weight=1.0), tmp_path / "run").train()
    module.log = lambda *_, **__: None
    batch = next(iter(make_loaders(config).train))
    batch["keypoints"] = torch.full_like(batch["keypoints"], torch.nan)
    optimizer, losses = torch.optim.AdamW(module.model.parameters(), 2e-3), []
    for step in range(12):
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(("teacher_frames", "student_frames"), [(1, 3), (3, 1), (3, 3)])
def test_a_teacher_may_see_another_number_of_frames(
    config, root, tmp_path, teacher_frames, student_frames
):
    three = recipe(root).model
    models = {1: config.model, 3: three}
    path = DiffusionPose(models[teacher_frames]).save_pretrained(tmp_path / "teacher", "# teacher")
    teacher = ModelTeacher(str(path), models[student_frames]).eval()
    images = torch.randint(0, 256, (2, student_frames, 3, 256, 192), dtype=torch.uint8)
    seen = images[:, student_frames // 2]
    with torch.no_grad():
        said = teacher(images, keys_of(2))
        alike = teacher(torch.stack([seen] * student_frames, 1), keys_of(2))
    assert said.shape == (2, 15, 64, 48)
    sees_neighbours = not torch.allclose(said, alike, atol=1e-5)
    assert sees_neighbours == (teacher_frames == student_frames == 3)


def test_movenet_teaches_the_joints_that_it_knows(config, tmp_path):
    path = write_stem(tmp_path / "stem.safetensors", 0.5)
    teacher = MoveNetTeacher(path, config.model)
    unknown = [POSETRACK15.joints[n] for n in (~teacher.known).nonzero().flatten().tolist()]
    assert unknown == ["head_bottom", "head_top"]
    images = torch.randint(0, 256, (2, 3, 3, 256, 192), dtype=torch.uint8)
    with torch.no_grad():
        said = teacher(images, keys_of(2))
        own = MoveNetHeatmaps(path, 0.5)(images[:, 1])
    for joint in ("nose", "left_wrist", "right_ankle"):
        assert torch.equal(said[:, POSETRACK15.index(joint)], own[:, COCO17.index(joint)])
    assert not said[:, POSETRACK15.index("head_top")].any()


def test_teachers_that_do_not_fit_or_are_not_there_are_refused(config, saved, tmp_path):
    other = config.model.model_copy(update={"image_size": (128, 96), "heatmap_size": (32, 24)})
    with pytest.raises(ConfigError, match=r"teacher: image_size is \(256, 192\), not \(128, 96\)"):
        PoseTraining(taught_by(config.model_copy(update={"model": other}), saved), tmp_path)
    with pytest.raises(ConfigError, match=r"distillation\.teachers\.0\.weights: nowhere: no such"):
        PoseTraining(taught_by(config, "nowhere"), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: MoveNet's heatmap head is not in"
    ):
        PoseTraining(taught_by(config, saved / "model.safetensors"), tmp_path)
    fields = taught_by(config, saved).model_dump(mode="json")
    fields |= {"feature_cache": "cache"}
    fields["optimizer"]["backbone_scale"] = 0
    with pytest.raises(ValueError, match="distillation needs images"):
        TrainConfig.model_validate(fields)
