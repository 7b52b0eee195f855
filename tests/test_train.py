import json
import math
import shutil
from pathlib import Path
from threading import Timer

import pytest
import torch
from filelock import FileLock

from diffusionpose.config import model_config
from diffusionpose.data.clips import EpochSampler
from diffusionpose.errors import ConfigError, DataError, StoppedError
from diffusionpose.evaluate import evaluate
from diffusionpose.evaluate_options import EvaluateOptions
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import sha256_of
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.nn.heatmaps import encode
from diffusionpose.recipe import OptimizerConfig, SourceConfig, TrainConfig
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.version import __version__
from tests.data.made import coco_root, posetrack_root
from tests.journeys.test_overfit import recipe
from tests.training.helpers import changed_parts, one_step, with_stem

pytest.importorskip("lightning")

from diffusionpose.train import PoseTrackValidation, train
from diffusionpose.training.checkpoints import StopSignals
from diffusionpose.training.module import PoseTraining
from diffusionpose.training.optimizer import make_average, make_optimizer, part_scale, rate_at
from diffusionpose.training.run_facts import sessions_of, write_facts
from diffusionpose.training.sources import Ranks, fingerprint, load_source, make_loaders


def test_learning_rate_of_the_papers_recipe():
    config = OptimizerConfig(warmup_steps=1)
    rates = [rate_at(step, 2000, 20, config) for step in (0, 1599, 1600, 1999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1])


def test_rates_fall_with_the_depth_of_the_backbone():
    config = OptimizerConfig(layer_decay=0.5, backbone_scale=0.8)
    vit = "backbone.vit.encoder.layer."
    names = ("head.weight", "backbone.vit.layernorm.bias", f"{vit}11.mlp.fc1.weight")
    names += (f"{vit}0.mlp.fc1.weight", "backbone.vit.embeddings.position_embeddings")
    rates = [part_scale(name, 12, config) for name in names]
    assert rates == pytest.approx([1, 0.8, 0.4, 0.8 * 0.5**12, 0.8 * 0.5**13])
    assert part_scale("backbone.blocks.3.norm1.weight", 4, config) == pytest.approx(0.4)


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
    t, noise = module.draw(torch.stack([torch.arange(1_500)] * 3, 1))
    assert 0.21 < (t == 999).float().mean() < 0.29
    assert abs(float(noise.mean())) < 1e-3
    assert float(noise.std()) == pytest.approx(1, abs=1e-3)
    assert t.min() < 20
    assert 465 < t[t < 999].float().mean() < 535


@pytest.mark.parametrize(("scale", "expected"), [(0.0, set()), (1.0, {"backbone"})])
def test_a_frozen_backbone_stays_as_it_is(root, tmp_path, scale, expected):
    settings = {"backbone_scale": scale, "warmup_steps": 1}
    config = with_stem(recipe(root, optimizer=settings, batch_size=1))
    module, before, _ = one_step(config, tmp_path)
    assert changed_parts(module, before) == {"encoder", "decoder"} | expected


_STEM = ("first", "blocks.0", "blocks.9", "blocks.10", "blocks.16", "top", "lateral", "smooth")


@pytest.mark.parametrize(
    ("settings", "learning"),
    [
        ({"stem_scale": 0.0}, set()),
        ({"frozen_stem_blocks": 10}, {"blocks.10", "blocks.16", "top", "lateral", "smooth"}),
        ({}, set(_STEM)),
    ],
)
def test_as_much_of_the_stem_learns_as_is_asked_for(root, tmp_path, settings, learning):
    config = with_stem(recipe(root, optimizer={"warmup_steps": 1, **settings}, batch_size=1))
    module, before, _ = one_step(config, tmp_path)
    start = "backbone.stem."
    changed = {
        name.removeprefix(start)
        for name, value in module.model.state_dict().items()
        if name.startswith(start) and not torch.equal(value, before[name])
    }
    assert {part for part in _STEM if any(n.startswith(part + ".") for n in changed)} == learning
    assert "backbone" in changed_parts(module, before)


def test_bfloat16_trains_as_float32_does(root, tmp_path):
    config = recipe(root)
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        module, before, loss = one_step(config, tmp_path, precision)
        assert changed_parts(module, before) == {"backbone", "encoder", "decoder"}
        losses.append(float(loss))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_gradients_are_clipped_in_both_precisions(root, tmp_path, monkeypatch, precision):
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        # Lightning's closure computes the gradients, and the module's hook clips them.
        def after():
            loss = closure()
            grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(grads)))
            return loss

        return step(self, after)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    optimizer = {"gradient_clip": 1e-3, "warmup_steps": 1}
    config = recipe(root, precision=precision, optimizer=optimizer, epochs=2)
    model = train(config, tmp_path / "run", progress=False)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2)
    assert (model / "model.safetensors").is_file()


def test_training_corrupts_the_true_heatmaps_at_the_drawn_steps(root, tmp_path, monkeypatch):
    config = recipe(root, final_timestep_share=0.0)
    loader = make_loaders(config).train
    module = PoseTraining(config, tmp_path).train()
    module.log = lambda *_, **__: None
    kind, seen = type(module.model), {}

    def corrupt(heatmaps, noise, t):
        seen.update(heatmaps=heatmaps, noise=noise, t=t)
        return kind.corrupt(module.model, heatmaps, noise, t)

    def denoise(x_t, t, conditions):
        seen.update(x_t=x_t, given_t=t)
        return kind.denoise(module.model, x_t, t, conditions)

    monkeypatch.setattr(module.model, "corrupt", corrupt)
    monkeypatch.setattr(module.model, "denoise", denoise)
    batch = next(iter(loader))
    module.training_step(batch, 0)
    expected = encode(batch["keypoints"], (64, 48), 2.0)
    torch.testing.assert_close(seen["heatmaps"], expected)
    assert torch.equal(seen["t"], seen["given_t"])
    alpha = module.model.scheduler.alphas_cumprod[seen["t"]].view(-1, 1, 1, 1)
    x_0 = (2 * expected - 1) * 0.5
    torch.testing.assert_close(seen["x_t"], alpha.sqrt() * x_0 + (1 - alpha).sqrt() * seen["noise"])


def test_the_average_forgets_the_random_start():
    average = make_average(0.99)._kwargs["avg_fn"]
    start, trained = torch.full((1,), 100.0), torch.zeros(1)
    mean = start
    for count in range(1, 60):
        mean = average(mean, trained, torch.tensor(count))
    assert mean < 1e-3 * start
    assert average(start, trained, torch.tensor(10**6)) == pytest.approx(99.0)


def test_the_sampler_is_told_the_epoch(root, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(EpochSampler, "set_epoch", lambda self, epoch: told.append(epoch))
    train(recipe(root, epochs=3), tmp_path / "run", progress=False)
    assert sorted(set(told)) == [0, 1, 2]


def test_rates_and_decay_by_group():
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
    assert of("backbone.stem.first.weight") == pytest.approx((0.05, 0.05))
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
    # The rate of the epoch's last step, not of the next one.
    peak = config.optimizer.learning_rate
    rates = [peak * rate_at(step, 2, 2, config.optimizer) for step in (0, 1)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates)
    records = load_source(config.train[0], POSETRACK15)
    assert json.loads((run / "run.json").read_text())["data_sha256"] == fingerprint(records)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config, run, progress=False)
    longer = TrainConfig.model_validate(config.model_dump() | {"epochs": 3, "workers": 0})
    train(longer, run, resume=True, progress=False)
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 3
    # With more epochs, the first step uses their schedule, not the rate at which the run ended.
    assert line["learning_rate"] == pytest.approx(peak * rate_at(2, 3, 3, config.optimizer))


@pytest.fixture
def finished(root, tmp_path):
    """Return a recipe and a finished run of it."""
    validation = [{"kind": "posetrack", "root": str(root), "split": "val"}]
    config = recipe(root, validation=validation, epochs=2)
    train(config, tmp_path / "run", progress=False)
    return config, tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"learning_rate": 1e-5}}, "optimizer.learning_rate: .* there, 1e-05 here"),
        ({"seed": 5}, "seed: 0 there, 5 here"),
        ({"batch_size": 1}, "batch_size"),
        ({"model": {"sigma": 3.0}}, "model.sigma: 2.0 there, 3.0 here"),
        ({"train": [{"stride": 2}]}, "train.0.stride: 1 there, 2 here"),
    ],
)
def test_a_run_goes_on_with_its_own_settings_only(finished, changes, message):
    config, run = finished
    values = config.model_dump(mode="json")
    for key, change in changes.items():
        is_list = isinstance(change, list)
        inner = values[key][0] if is_list else values[key]
        changed = change[0] if is_list else change
        merged = inner | changed if isinstance(changed, dict) else changed
        values[key] = [merged] if is_list else merged
    recipe_before = (run / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match=message):
        train(TrainConfig.model_validate(values), run, resume=True, progress=False)
    assert (run / "recipe.yaml").read_text() == recipe_before


def test_a_run_goes_on_with_kept_features_wherever_they_lie(root, tmp_path):
    frozen = {"backbone_scale": 0.0, "warmup_steps": 1}
    config = recipe(root, optimizer=frozen, feature_cache=tmp_path / "features", epochs=1)
    run = tmp_path / "run"
    train(config, run, progress=False)
    without = config.model_copy(update={"feature_cache": None, "epochs": 2})
    with pytest.raises(ConfigError, match=r"feature_cache: .*features there, None here"):
        train(without, run, resume=True, progress=False)
    elsewhere = without.model_copy(update={"feature_cache": tmp_path / "elsewhere"})
    train(elsewhere, run, resume=True, progress=False)
    assert list((tmp_path / "elsewhere").glob("features-*.npy"))


def test_a_run_goes_on_with_its_own_data_and_processes_only(finished, root):
    config, run = finished
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"processes": 2}))
    with pytest.raises(ConfigError, match="a run of 2 processes, not 1"):
        train(config, run, resume=True, progress=False)
    (run / "run.json").write_text(json.dumps(facts))
    (file,) = (root / "posetrack_data" / "val").glob("*.json")
    content = json.loads(file.read_text())
    content["annotations"][0]["keypoints"][0] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="other data"):
        train(config, run, resume=True, progress=False)


def changed_label(root, split, key="keypoints"):
    file = next((root / "posetrack_data" / split).glob("*.json"))
    content = json.loads(file.read_text())
    content["annotations"][0][key][2 if key == "bbox_head" else 0] += 1
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("metric", "key"),
    [("pck", "keypoints"), ("posetrack-ap", "keypoints"), ("posetrack-ap", "bbox_head")],
)
def test_a_run_goes_on_with_its_own_validation_data_only(root, tmp_path, metric, key):
    shutil.copytree(root / "posetrack_data" / "val", root / "posetrack_data" / "train")
    measured = [{"kind": "posetrack", "root": str(root), "split": "train"}]
    config = recipe(root, validation=measured, validation_metric=metric, epochs=1)
    run = tmp_path / "run"
    train(config, run, progress=False)
    longer = config.model_copy(update={"epochs": 2})
    changed_label(root, "train", key)
    with pytest.raises(ConfigError, match="other validation data"):
        train(longer, run, resume=True, progress=False)
    # A run of an earlier release, which did not record this, can be resumed.
    facts = json.loads((run / "run.json").read_text())
    del facts["validation_sha256"]
    (run / "run.json").write_text(json.dumps(facts))
    train(longer, run, resume=True, progress=False)
    assert json.loads((run / "run.json").read_text())["validation_sha256"]


def test_a_run_goes_on_beside_its_own_weights_only(finished, tmp_path):
    config, first = finished
    start = first / "model"
    config = TrainConfig.model_validate(config.model_dump() | {"init_from": start, "epochs": 1})
    run = tmp_path / "second"
    train(config, run, progress=False)
    weights = start / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="other weights: init_from"):
        train(config.model_copy(update={"epochs": 2}), run, resume=True, progress=False)


def test_a_finished_run_that_is_resumed_keeps_its_weights(finished):
    config, run = finished
    weights, metrics = run / "model" / "model.safetensors", run / "metrics.jsonl"
    before, lines = sha256_of(weights), metrics.read_text()
    card = (run / "model" / "README.md").read_text()
    weights.unlink()  # as if killed between the last checkpoint and the model
    train(config, run, resume=True, progress=False)
    assert sha256_of(weights) == before
    assert metrics.read_text() == lines
    assert (run / "model" / "README.md").read_text() == card


def test_a_run_keeps_who_trained_what(finished):
    config, run = finished
    facts = json.loads((run / "run.json").read_text())
    (first,) = facts["sessions"]
    assert first["first_step"] == 0
    # As written by an earlier release.
    other = {"version": "0.0.1", "git": "abc", "torch": "1.0", "machine": "M", "threads": 1}
    (run / "run.json").write_text(
        json.dumps({k: facts[k] for k in facts if k != "sessions"} | other)
    )
    before = {name: (run / name).read_text() for name in ("run.json", "recipe.yaml")}
    # Nothing is left to train: resuming changes nothing.
    train(config.model_copy(update={"epochs": 1}), run, resume=True, progress=False)
    assert {name: (run / name).read_text() for name in before} == before
    assert "diffusionpose 0.0.1, recipe" in (run / "model" / "README.md").read_text()
    longer, told = config.model_copy(update={"epochs": 3}), []
    train(longer, run, resume=True, progress=False, on_warning=told.append)
    assert len(told) == 1
    assert f"version {__version__}, not 0.0.1, git" in told[0]
    assert f"torch {torch.__version__}, not 1.0" in told[0]
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert sessions == [{"first_step": 0} | other, first | {"first_step": 2}]
    # A session that ended before its first checkpoint leaves no trained weights.
    inputs = {key: value for key, value in facts.items() if key.endswith("sha256")}
    write_facts(longer, run, inputs, Ranks(), 2)
    assert [one["first_step"] for one in sessions_of(run)] == [0, 2]
    assert (
        f"diffusionpose 0.0.1, {__version__}, recipe" in (run / "model" / "README.md").read_text()
    )


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(finished):
    config, run = finished
    expected = sha256_of(run / "model" / "model.safetensors")
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(ConfigError, match="leave --resume out"):
        train(config, run, resume=True, progress=False)
    train(config, run, progress=False)
    assert sha256_of(run / "model" / "model.safetensors") == expected
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_line_of_metrics_that_was_cut_short_does_not_stop_a_run(finished):
    config, run = finished
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"epoch": 2, "st')
    longer = config.model_copy(update={"epochs": 3})
    train(longer, run, resume=True, progress=False)
    lines = metrics.read_text().splitlines()
    assert lines[:2] == whole.splitlines()
    assert json.loads(lines[2])["step"] == 3


def test_two_processes_do_not_train_in_one_folder(root, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    lock = FileLock(run / ".lock", thread_local=False)
    lock.acquire()
    monkeypatch.setattr("diffusionpose.train.LOCK_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="in use by another training process"):
        train(recipe(root), run, progress=False)
    # As by the loader workers of a killed run, which live on for some seconds.
    monkeypatch.setattr("diffusionpose.train.LOCK_SECONDS", 30.0)
    Timer(0.5, lock.release).start()
    assert train(recipe(root), run, progress=False).is_dir()


def test_validation_sources_have_names_of_their_own(root):
    source = {"kind": "posetrack", "root": str(root), "split": "val"}
    with pytest.raises(ValueError, match="two validation sources are named data_val"):
        recipe(root, validation=[source, source | {"stride": 2}])
    labelled = recipe(root, validation=[source, source | {"stride": 2, "label": "half"}])
    assert [one.name for one in labelled.validation] == ["data_val", "half"]


def test_precision_may_be_a_number_as_yaml_reads_it(root):
    assert recipe(root, precision=32).precision == "32"
    with pytest.raises(ValueError, match="precision"):
        recipe(root, precision=16)


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


def test_sources_may_be_subsets(tmp_path):
    for kind, root, fields in (
        ("posetrack", posetrack_root(tmp_path / "a"), {"split": "val"}),
        ("coco", coco_root(tmp_path / "b"), {"annotations": "train.json", "images": "images"}),
    ):
        (root / "subset.txt").write_text({"posetrack": "000002_mpii", "coco": "1.png"}[kind])
        values = {"kind": kind, "root": root, "subset": "subset.txt"} | fields
        records = load_source(SourceConfig.model_validate(values), POSETRACK15)
        assert {record.video for record in records} == {
            {"posetrack": "000002_mpii", "coco": "1"}[kind]
        }


def test_posetrack_ap_of_a_validation_is_that_of_evaluate(tmp_path):
    root = posetrack_root(tmp_path / "data")
    source = {"kind": "posetrack", "root": str(root), "split": "val"}
    harder = source | {"corruption": {"blur": 1.0}}
    config = recipe(root, validation=[source, harder], validation_metric="posetrack-ap", epochs=2)
    model = train(config, tmp_path / "run", progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    # Degraded copies are measured by PCK alone; AP needs the unmodified images.
    names = {key for key in json.loads(lines[-1]) if key.startswith("val/")}
    assert names == {"val/ap_data_val", "val/pck_data_val", "val/pck_data_val_harder"}
    options = EvaluateOptions(model=str(model), data=root, batch_size=3, num_resamples=0)
    expected = evaluate(options).facts["values"]["Mean"]
    assert json.loads(lines[-1])["val/ap_data_val"] == pytest.approx(expected, abs=1e-3)
    for file in (root / "posetrack_data" / "val").glob("*.json"):
        file.write_text(file.read_text().replace('"bbox_head"', '"other"'))
    with pytest.raises(DataError, match="head box"):
        train(config, tmp_path / "other", progress=False)


@pytest.mark.parametrize("kind", ["posetrack", "coco"])
def test_a_validation_and_evaluate_give_a_person_the_same_noise(tmp_path, monkeypatch, kind):
    root = {"posetrack": posetrack_root, "coco": coco_root}[kind](tmp_path / "data")
    file = next(root.glob("*.json"), None) or next((root / "posetrack_data" / "val").glob("*.json"))
    content = json.loads(file.read_text())
    # An unusable person comes first in a frame: the next one keeps the second place.
    first = content["annotations"][0]
    nobody = first | {"id": 1_000, "track_id": 9, "keypoints": [0] * len(first["keypoints"])}
    content["annotations"].insert(0, nobody)
    file.write_text(json.dumps(content))
    where = (
        {"split": "val"} if kind == "posetrack" else {"annotations": file.name, "images": "images"}
    )
    source = {"kind": kind, "root": str(root)} | where
    config = recipe(root, train=[source], validation=[source], batch_size=2, epochs=1)
    keys: list[tuple] = []

    def noted(shape, key):
        keys.append(key)
        return seeded_noise(shape, key)

    monkeypatch.setattr("diffusionpose.data.clips.seeded_noise", noted)
    train(config, tmp_path / "run", progress=False)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    measured = keys.copy()
    keys.clear()
    places = {key: Path(value) if key != "split" else value for key, value in where.items()}
    options = EvaluateOptions(
        "pck", str(tmp_path / "run" / "model"), root, layout=kind, num_resamples=0, **places
    )
    report = evaluate(options)
    assert set(measured) <= set(keys)
    assert len(set(measured)) == len(measured) > 1
    assert any(number == 1 for *_, number in measured)
    (name,) = (key for key in line if key.startswith("val/pck"))
    assert 100 * line[name] == pytest.approx(report.facts["values"]["Mean"], abs=1e-3)


def test_posetrack_ap_stops_on_signals(tmp_path):
    root = posetrack_root(tmp_path / "data")
    source = {"kind": "posetrack", "root": str(root), "split": "val"}
    config, signals = recipe(root, validation=[source]), StopSignals(tmp_path / "last.ckpt")
    evaluator = PoseTrackValidation(config.validation[0], config, Ranks(), signals)
    model = DiffusionPose(config.model)
    assert evaluator(model, torch.device("cpu")) >= 0
    signals.number = 15
    with pytest.raises(StoppedError, match="terminated: during validation; nothing is saved yet"):
        evaluator(model, torch.device("cpu"))
