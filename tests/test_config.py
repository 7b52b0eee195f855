from pathlib import Path

import pytest

from diffusionpose.config import ModelConfig, model_config, parse, read_yaml
from diffusionpose.errors import ConfigError
from diffusionpose.recipe import TrainConfig, override, read_recipe

RECIPE = """
name: test
model: tiny
train:
  - {kind: posetrack, root: data, split: train}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_size_may_stand_for_the_model_and_be_changed(recipe):
    config = read_recipe(recipe, ["model.decoder.markov=false", "optimizer.milestones=[3, 5]"])
    assert config.model.backbone == model_config("tiny").backbone
    assert not config.model.decoder.markov
    assert config.optimizer.milestones == (3, 5)
    assert str(read_recipe(recipe, ["train.0.root=elsewhere"]).train[0].root) == "elsewhere"


def test_resolved_config_reads_back_the_same(recipe):
    config = read_recipe(recipe)
    assert parse(TrainConfig, config.model_dump(mode="json"), "x") == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "epoch: unknown key"),
        ("model.decoder.depht=3", "model.decoder.depht: unknown key"),
        ("epochs=many", "epochs"),
        ("epochs", "a.b=value"),
        ("name.x=1", "'name' has no keys"),
        ("name.x.y=1", "no such key or index: 'x'"),
        ("train.7.root=x", "no such key or index: '7'"),
        ("train=[]", "train"),
        ("model.signal=1", "model.signal: unknown key"),
        ("loss.alpha=-1", "loss.alpha"),
        ("epochs=true", "epochs: expected a number, found true"),
        ("seed=false", "seed: expected a number, found false"),
        ("optimizer.learning_rate=yes", "optimizer.learning_rate: expected a number, found true"),
        ("augment.flip=on", "augment.flip: expected a number, found true"),
        ("optimizer.milestones=[3, yes]", "optimizer.milestones: expected a number, found true"),
        (
            "model.decoder.num_iterations=true",
            "model.decoder.num_iterations: expected a number, found true",
        ),
        ("model.num_frames=true", "model.num_frames: expected a number, found true"),
        ("optimizer.milestones=[-3]", "optimizer.milestones.0: .* greater than or equal to 1"),
        ("optimizer.milestones=[9, 3]", r"optimizer: milestones must be increasing, not \[9, 3\]"),
        ("optimizer.milestones=[3, 3]", r"optimizer: milestones must be increasing, not \[3, 3\]"),
        ("model.sigma=0.4", "model.sigma: .* greater than or equal to 0.5"),
        ("model.sigma=24.1", r"model: sigma 24.1 is more than 24, half .* \(64, 48\)"),
        ("train.0.share=1e12", "train.0.share: .* less than or equal to 1000"),
    ],
)
def test_mistakes_name_the_key(recipe, setting, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe, [setting])


def test_flags_stay_flags(recipe):
    settings = ["model.decoder.markov=no", "model.sigma=24", "model.decoder.feature_kernels=on"]
    config = read_recipe(recipe, settings).model
    assert (config.decoder.markov, config.decoder.feature_kernels, config.sigma) == (
        False,
        True,
        24,
    )


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_files_that_are_no_recipe(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        read_recipe(path)


def test_a_duplicate_key_is_named_with_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("epochs: 2\noptimizer:\n  warmup_steps: 1\n  warmup_steps: 2\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml: .* line 4: duplicate key 'warmup_steps'"):
        read_yaml(path)
    # A merged key may be overridden, and keys may be repeated in different mappings.
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b], x: 3}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 3, "y": 1}}


def test_configs_are_frozen_and_override_leaves_its_input_alone():
    with pytest.raises(ValueError, match="frozen"):
        ModelConfig().name = "x"
    values = {"a": {"b": 1}}
    assert override(values, ["a.c=2"]) == {"a": {"b": 1, "c": 2}}
    assert values == {"a": {"b": 1}}


RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    "path", [p for p in RECIPES if p.stem != "ablations"], ids=lambda path: path.stem
)
def test_shipped_recipes_are_valid(path):
    config = read_recipe(path, data=Path("/data"))
    assert config.name == path.stem
    assert all(source.root.is_relative_to("/data") for source in config.train)


def test_data_fills_the_roots_of_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    sources = (
        "{kind: posetrack, root: DATA/a, split: x}, {kind: posetrack, root: /b/DATA, split: x}"
    )
    path.write_text(
        f"name: n\nmodel: tiny\ntrain: [{sources}]\nvalidation: [{{kind: posetrack, root: DATA}}]\n"
    )
    config = read_recipe(path, data=Path("/mine"))
    assert [source.root for source in config.train] == [Path("/mine/a"), Path("/b/DATA")]
    assert config.validation[0].root == Path("/mine")
    with pytest.raises(ConfigError, match="--data"):
        read_recipe(path)
    settings = ["train.0.root=/c", "validation.0.root=/d"]
    assert read_recipe(path, settings).train[0].root == Path("/c")
