import pytest
import torch

from diffusionpose.errors import CheckpointError
from diffusionpose.model.checkpoint import read_weights
from diffusionpose.recipe import AnchorConfig, TrainConfig
from diffusionpose.skeleton import COCO17, POSETRACK15
from tests.data.made import posetrack_root
from tests.journeys.test_overfit import recipe
from tests.training.helpers import one_step, with_stem, write_stem

pytest.importorskip("lightning")

from diffusionpose.training.module import PoseTraining
from diffusionpose.training.sources import make_loaders


@pytest.fixture
def anchored(tmp_path):
    """A recipe whose stem starts from the weights that it is anchored to."""
    torch.manual_seed(0)
    root = posetrack_root(tmp_path / "data", videos=("000001_bonn",), num_frames=3, unlabelled=())
    config = with_stem(recipe(root, batch_size=2, optimizer={"warmup_steps": 1}))
    path = write_stem(tmp_path / "stem.safetensors", config.model.backbone.stem_width)
    anchor = AnchorConfig(weights=path, weight=0.5, share=1.0)
    return config.model_copy(update={"init_from": path, "anchor": anchor})


def test_an_anchor_pulls_a_stem_back_to_what_its_head_saw(anchored, tmp_path):
    module = PoseTraining(anchored, tmp_path / "run").train()
    images = next(iter(make_loaders(anchored).train))["images"]
    unlabelled = torch.full((len(images), 15, 2), torch.nan)
    stem = module.model.backbone.stem
    module.model.extract(images)
    assert float(module.anchor(images, unlabelled).detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in stem.smooth.parameters():
            parameter.mul_(1.5)
    optimizer, losses = torch.optim.Adam(stem.smooth.parameters(), 3e-3), []
    for _ in range(8):
        module.model.extract(images)
        loss = module.anchor(images, unlabelled)
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert 0 < losses[-1] < 0.5 * losses[0]


def test_an_anchor_does_not_hold_what_labels_say_is_wrong(anchored, tmp_path):
    anchor = PoseTraining(anchored, tmp_path / "run").anchor
    before = torch.zeros(1, COCO17.num_joints, 16, 12)
    before[:, :, 5, 7] = 1
    keypoints = torch.full((1, 15, 2), torch.nan)
    keypoints[0, POSETRACK15.index("left_knee")] = torch.tensor([7.4, 5.2])
    keypoints[0, POSETRACK15.index("right_hip")] = torch.tensor([2.0, 5.0])
    held = anchor._held(before, keypoints)[0].bool()
    assert [COCO17.joints[n] for n in (~held).nonzero()[:, 0]] == ["right_hip"]


def test_an_anchor_is_part_of_the_loss_and_not_of_the_model(anchored, tmp_path):
    torch.manual_seed(1)
    module, before, loss = one_step(anchored, tmp_path / "run")
    held = module.anchor.state_dict()
    torch.manual_seed(1)
    plain, _, without = one_step(anchored.model_copy(update={"anchor": None}), tmp_path / "other")
    assert float(loss) == pytest.approx(float(without), abs=1e-6)  # the stem has not changed yet
    assert plain.model.state_dict().keys() == before.keys() == module.model.state_dict().keys()
    for name, value in read_weights(anchored.anchor.weights).items():
        own = name.removeprefix("backbone.").removeprefix("anchor.")
        assert torch.equal(held[f"before.{own}"], value)


def test_an_anchor_that_does_not_fit_or_has_nothing_to_hold_is_refused(anchored, tmp_path):
    wide = anchored.model.backbone.model_copy(update={"stem_width": 1.75})
    config = anchored.model_copy(
        update={"model": anchored.model.model_copy(update={"backbone": wide}), "init_from": None}
    )
    with pytest.raises(CheckpointError, match=r"stem\.safetensors.*first"):
        PoseTraining(config, tmp_path)
    fields = anchored.model_dump(mode="json")
    fields["optimizer"]["stem_scale"] = 0
    with pytest.raises(ValueError, match="a stem that is trained"):
        TrainConfig.model_validate(fields)
