import json
import math

import pytest
import torch

from diffusionpose.config import OptimizerConfig, SourceConfig, TrainConfig, model_config
from diffusionpose.errors import ConfigError, DataError
from diffusionpose.skeleton import POSETRACK15
from tests.data.made import coco_root, posetrack_root
from tests.journeys.test_overfit import recipe

pytest.importorskip("lightning")

from diffusionpose.train import (
    PoseTraining,
    fingerprint,
    load_source,
    make_optimizer,
    rate_at,
    train,
)


def test_learning_rate_of_the_papers_recipe():
    config = OptimizerConfig(warmup_steps=1)
    rates = [rate_at(step, 2000, 20, config) for step in (0, 1599, 1600, 1999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1])


def test_cosine_and_warm_up():
    config = OptimizerConfig(warmup_steps=10, schedule="cosine")
    rates = [rate_at(step, 1000, 5, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10], rel=1e-2)
    assert rates[500] == pytest.approx(0.505, abs=0.01)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert all(math.isfinite(rate) for rate in rates)


@pytest.fixture
def root(tmp_path):
    return posetrack_root(tmp_path / "data", videos=("000001_bonn",), num_frames=3, unlabelled=())


def test_a_share_of_timesteps_is_the_last(root, tmp_path):
    module = PoseTraining(recipe(root, final_timestep_share=0.25), tmp_path)
    torch.manual_seed(0)
    t = module.timesteps(20_000)
    assert 0.24 < (t == 999).float().mean() < 0.26
    assert (t.min(), t.max()) == (0, 999)
    assert 480 < t[t < 999].float().mean() < 520


def test_a_frozen_backbone_stays_as_it_is(root, tmp_path):
    config = recipe(root, optimizer={"backbone_scale": 0.0, "warmup_steps": 1}, epochs=2)
    torch.manual_seed(config.seed)
    before = {k: v.clone() for k, v in PoseTraining(config, tmp_path).model.state_dict().items()}
    module = PoseTraining(config, tmp_path).train()
    assert not module.model.backbone.training
    optimizer = make_optimizer(module.model, config.optimizer, lambda _: 1.0)["optimizer"]
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in trained for p in module.model.backbone.parameters())
    assert any(id(p) in trained for p in module.model.encoder.parameters())
    assert before.keys() == module.model.state_dict().keys()


def test_rates_and_decay_by_group():
    from diffusionpose.model.model import DiffusionPose

    model = DiffusionPose(model_config("tiny"))
    config = OptimizerConfig(learning_rate=1.0, backbone_scale=0.5, stem_scale=0.1)
    groups = make_optimizer(model, config, lambda _: 1.0)["optimizer"].param_groups
    owner = {id(p): group for group in groups for p in group["params"]}
    parameters = dict(model.named_parameters())

    def of(name):
        group = owner[id(parameters[name])]
        return group["initial_lr"], group["weight_decay"]

    assert of("encoder.blocks.0.gate.weight") == (1.0, 0.05)
    assert of("encoder.blocks.0.gate.bias") == (1.0, 0.0)
    assert of("encoder.keypoint_tokens") == (1.0, 0.0)
    assert of("backbone.project.weight") == (0.5, 0.05)
    assert of("backbone.stem.features.0.0.weight") == pytest.approx((0.05, 0.05))
    assert len(owner) == len(parameters)


def test_a_run_leaves_what_is_needed_to_repeat_it_and_to_go_on(root, tmp_path):
    config = recipe(
        root, validation=[{"kind": "posetrack", "root": str(root), "split": "val"}], epochs=2
    )
    run = tmp_path / "run"
    model = train(config, run, progress=False)
    assert {path.name for path in run.iterdir()} >= {
        "recipe.yaml",
        "run.json",
        "metrics.jsonl",
        "model",
    }
    assert model == run / "model"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert "val/pck_data_val" in lines[0]
    records = load_source(config.train[0], POSETRACK15)
    assert json.loads((run / "run.json").read_text())["data_sha256"] == fingerprint(records)
    with pytest.raises(ConfigError, match="holds a run already"):
        train(config, run, progress=False)
    longer = TrainConfig.model_validate(config.model_dump() | {"epochs": 3})
    train(longer, run, resume=True, progress=False)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 3


def test_sources_say_what_they_lack(tmp_path):
    root = coco_root(tmp_path / "coco")
    for fields, message in (
        ({"kind": "posetrack"}, "split"),
        ({"kind": "coco"}, "annotations"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_source(SourceConfig.model_validate({"root": root} | fields), POSETRACK15)
    empty = {"kind": "coco", "root": root, "annotations": "train.json", "images": "images"}
    content = json.loads((root / "train.json").read_text())
    (root / "train.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(DataError, match="no annotated people"):
        load_source(SourceConfig.model_validate(empty), POSETRACK15)
