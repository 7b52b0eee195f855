"""Ablation suites of small runs on cached features: run once, resumed, and tabulated."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from diffusionpose.cli import app
from diffusionpose.data.clips import ClipDataset
from diffusionpose.errors import ConfigError
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import sha256_of
from diffusionpose.recipe import AugmentConfig
from diffusionpose.version import __version__
from tests.data.made import posetrack_root
from tests.journeys.test_overfit import recipe

pytest.importorskip("lightning")

from diffusionpose.ablate import RESULT, check_inputs, jobs_of, read_suite, run_all, run_job
from diffusionpose.ablation_plots import plot_suite
from diffusionpose.ablation_report import report, spread
from diffusionpose.train import train
from diffusionpose.training.features import FeatureClips
from diffusionpose.training.sources import load_source


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return posetrack_root(tmp_path_factory.mktemp("set") / "people")


def settings(root, folder, **changes):
    validation = {"kind": "posetrack", "root": str(root), "split": "val"}
    harder = validation | {"corruption": {"occlusion": 1.0, "blur": 1.0, "flip": 0.0}}
    return {
        "validation": [validation, harder],
        "feature_cache": str(folder / "features"),
        "feature_draws": 2,
        "optimizer": {"backbone_scale": 0.0, "warmup_steps": 1},
        "augment": {},
        "epochs": 2,
        "batch_size": 5,
    } | changes


def written(root, folder, rows, **more):
    config = recipe(root, **settings(root, folder))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    names = [row["name"] for row in rows]
    table = {"title": "T", "claim": "C", "reference": names[0], "rows": names}
    suite = {"recipe": "recipe.yaml", "seeds": [0, 1], "rows": rows, "tables": [table]} | more
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return folder / "suite.yaml"


ROWS = [
    {"name": "head", "label": "plain head", "settings": ["model.decoder.kind=head"]},
    {"name": "whole", "label": "the model", "steps": [1, 2]},
]


def test_a_suite_is_run_once_and_told_in_a_table(root, tmp_path):
    tables = [
        {"title": "T", "claim": "C", "reference": "head", "rows": ["head", "whole"]},
        {"title": "S", "claim": "D", "reference": "whole", "rows": ["whole"]},
    ]
    suite = written(root, tmp_path, ROWS, tables=tables)
    jobs = jobs_of(suite, tmp_path / "out")
    assert [(job.seed, job.row.name) for job in jobs[:2]] == [(0, "head"), (0, "whole")]
    done = []
    assert run_all(jobs, 2, lambda job, good: done.append((job.row.name, job.seed, good))) == []
    assert sorted(done) == [(name, seed, True) for name in ("head", "whole") for seed in (0, 1)]
    # Training and two validation sets, for each seed's initial backbone.
    assert len(list((tmp_path / "features").glob("*.keypoints.npy"))) == 6
    content = json.loads((tmp_path / "out" / "whole" / "seed-1" / RESULT).read_text())
    assert set(content["pck"]) == {"people_val", "people_val_harder"}
    assert set(content["pck"]["people_val"]) == {"1", "2"}
    # Figures measured during training and afterwards are the same.
    last = (tmp_path / "out" / "whole" / "seed-1" / "metrics.jsonl").read_text().splitlines()[-1]
    anew = float(f"{content['pck']['people_val']['1']:.6g}")
    assert json.loads(last)["val/pck_people_val"] == anew
    preface, by_difference, by_steps = "\n".join(report(read_suite(suite), jobs)).split("## ")
    assert preface.startswith("Measured here, not the paper's figures: mean ± standard deviation")
    # 2 videos of 5 labelled frames each
    assert "- people_val: 10 people, stride 1\n" in preface
    assert "- people_val_harder: 10 people, stride 1, changed by blur 1, occlusion 1\n" in preface
    assert "Claim: C" in by_difference
    row = next(line for line in by_difference.splitlines() if line.startswith("| the model | 2 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    whole, head = (
        [
            json.loads((tmp_path / "out" / name / f"seed-{seed}" / RESULT).read_text())["pck"]
            for seed in (0, 1)
        ]
        for name in ("whole", "head")
    )
    clean = [100 * pck["people_val"]["1"] for pck in whole]
    gains = [
        100 * (a["people_val"]["1"] - b["people_val"]["1"])
        for a, b in zip(whole, head, strict=True)
    ]
    assert cells[2:4] == [f"{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}" for v in (clean, gains)]
    assert "people_val, 1 step, PCK@0.2, % | people_val, 2 steps, PCK@0.2, %" in by_steps
    for file in plot_suite(read_suite(suite), jobs, tmp_path / "plots"):
        picture = cv2.imread(str(file))
        assert picture is not None
        assert picture.std() > 5
    run_all(jobs, 2, lambda *_: pytest.fail("all was done"))
    # Results with other settings are not reused.
    others = jobs_of(suite, tmp_path / "out", ("epochs=3",))
    with pytest.raises(ConfigError, match=r"different settings \(epochs: 2 there, 3 here"):
        run_all(others, 2, lambda *_: None)
    # The location of cached features does not matter; whether they are cached does.
    assert all(job.is_done for job in jobs_of(suite, tmp_path / "out", ("feature_cache=/other",)))
    others = jobs_of(suite, tmp_path / "out", ("feature_cache=null",))
    with pytest.raises(ConfigError, match=r"feature_cache: .*features there, None here"):
        run_all(others, 2, lambda *_: None)
    # More inference steps are measured with the existing weights.
    more = written(root, tmp_path, [ROWS[0] | {"steps": [1, 4]}], seeds=[0], tables=[])
    (job,) = jobs_of(more, tmp_path / "out")
    weights = sha256_of(job.run / "model" / "model.safetensors")
    assert not job.is_done
    assert run_all([job], 1, lambda *_: None) == []
    assert job.is_done
    assert sha256_of(job.run / "model" / "model.safetensors") == weights


def test_a_suite_is_measured_by_the_metric_that_its_recipe_names(root, tmp_path):
    row = {"name": "whole", "label": "a|b", "steps": [1, 2], "settings": ["epochs=1"]}
    again = {"title": "S", "claim": "D", "reference": "whole", "rows": ["whole"]}
    suite = written(root, tmp_path, [row, ROWS[0] | {"settings": row["settings"]}], seeds=[0])
    content = yaml.safe_load(suite.read_text())
    suite.write_text(yaml.safe_dump(content | {"tables": [*content["tables"], again]}))
    first, second = jobs_of(suite, tmp_path / "out", ("validation_metric=posetrack-ap",))
    assert run_all([first], 1, lambda *_: None) == []
    result = json.loads((first.run / RESULT).read_text())
    assert set(result["pck"]) == {"people_val", "people_val_harder"}
    last = json.loads((first.run / "metrics.jsonl").read_text().splitlines()[-1])
    found = result["ap"]["people_val"]
    assert set(found) == {"1", "2"}
    assert last["val/ap_people_val"] == float(f"{found['1']:.6g}")
    by_difference, by_steps = "\n".join(report(read_suite(suite), [first, second])).split("## ")[1:]
    head = (
        "| row | seeds | people_val, PoseTrack AP, % | minus a\\|b | people_val_harder, PCK@0.2, %"
    )
    assert head in by_difference
    assert f"| a\\|b | 1 | {found['1']:.1f} |  |" in by_difference
    assert f"| a\\|b | 1 | {found['1']:.1f} | {found['2']:.1f} |" in by_steps
    assert all(
        plot.is_file() for plot in plot_suite(read_suite(suite), [first], tmp_path / "plots")
    )
    # A result that lacks figures requested by the recipe is incomplete, and measured again.
    (first.run / RESULT).write_text(json.dumps({"pck": result["pck"]}))
    assert not first.is_done


def test_runs_on_other_data_weights_or_versions_are_not_pooled(root, tmp_path):
    own = Path(shutil.copytree(root, tmp_path / "people"))
    first = recipe(own, **settings(own, tmp_path, epochs=1, validation=[]))
    weights = train(first, tmp_path / "first", progress=False)
    row = ROWS[0] | {"settings": [*ROWS[0]["settings"], f"init_from={weights}", "epochs=1"]}
    suite = written(own, tmp_path, [row])
    jobs = jobs_of(suite, tmp_path / "out")
    assert run_all(jobs[:1], 1, lambda *_: None) == []
    result = jobs[0].run / RESULT
    content = json.loads(result.read_text())
    facts = json.loads((jobs[0].run / "run.json").read_text())
    assert content["version"] == __version__
    for key in ("data_sha256", "validation_sha256", "weights_sha256"):
        assert content[key] == facts[key]
    assert content["weights_sha256"] == {"init_from": sha256_of(weights / "model.safetensors")}

    def other(path, change):
        before = path.read_bytes()
        path.write_bytes(change(before))
        with pytest.raises(ConfigError) as told:
            run_all(jobs, 1, lambda *_: None)
        path.write_bytes(before)
        assert str(jobs[0].run) in str(told.value)
        return str(told.value)

    labels = next((own / "posetrack_data" / "val").glob("*.json"))

    def moved(text):
        whole = json.loads(text)
        for one in whole["annotations"]:
            one["bbox"][0] += 1
        return json.dumps(whole).encode()

    assert "the training data differ from those of the current files" in other(labels, moved)
    assert "the weights of init_from differ from those of" in other(
        weights / "model.safetensors", lambda text: text[:-1] + bytes([text[-1] ^ 1])
    )
    # Existing results that must not be pooled are rejected in the table.
    second = jobs[1].run
    shutil.copytree(jobs[0].run, second)
    run = (second / "recipe.yaml").read_text().replace("seed: 0", "seed: 1")
    (second / "recipe.yaml").write_text(run)
    older = content | {"version": "0.0.1"}
    (second / RESULT).write_text(json.dumps(older))
    (note,) = check_inputs(jobs)
    assert (
        note
        == f"results are from several versions: {__version__} ({jobs[0].run}), 0.0.1 ({second})"
    )
    (second / RESULT).write_text(json.dumps(older | {"validation_sha256": "0"}))
    with pytest.raises(ConfigError, match=f"{second}: the validation data differ from those of"):
        list(report(read_suite(suite), jobs))
    # A result of an earlier release, which did not record this, is mentioned.
    (second / RESULT).write_text(json.dumps({"pck": content["pck"], "version": __version__}))
    assert check_inputs(jobs) == [f"1 results have no fingerprint of their data, such as {second}"]


def test_a_failing_row_is_named_and_the_others_are_run(root, tmp_path, capfd):
    gone = {"name": "gone", "label": "gone", "settings": [f"init_from={tmp_path}/absent"]}
    last = ROWS[0] | {"name": "last"}
    suite = written(root, tmp_path, [gone, ROWS[0], last], seeds=[0])
    jobs = jobs_of(suite, tmp_path / "out")
    failed = run_all(jobs, 1, lambda *_: None)
    assert [job.row.name for job in failed] == ["gone"]
    assert [job.is_done for job in jobs] == [False, True, True]
    assert f"{tmp_path}/absent" in capfd.readouterr().err


def test_progress_reads_no_run_anew(root, tmp_path, monkeypatch):
    """A folder that no longer fits, of a run that another process made meanwhile, is named in the end."""
    suite = written(root, tmp_path, [ROWS[0]], seeds=[0, 1, 2])
    there, ends, other = jobs_of(suite, tmp_path / "out")
    finished(there, [0.1])

    def run_all(jobs, workers, on_done):
        finished(replace(other, config=other.config.model_copy(update={"epochs": 9})), [0.1])
        on_done(jobs[1], True)
        on_done(jobs[2], False)
        return [jobs[2]]

    monkeypatch.setattr("diffusionpose.ablate.run_all", run_all)
    done = CliRunner().invoke(app, ["ablate", str(suite), "--out", str(tmp_path / "out")])
    assert done.stderr.splitlines() == [f"2/3 {ends.run} done", f"2/3 {other.run} FAILED"]
    with pytest.raises(ConfigError, match="epochs: 9 there, 2 here"):
        raise done.exception


def test_the_shipped_suite_has_every_row_of_the_papers_tables():
    path = Path(__file__).parent.parent / "configs" / "ablations.yaml"
    jobs = jobs_of(path, Path("out"), data=Path("/data"))
    assert len({job.seed for job in jobs}) >= 3
    rows = {job.row.name: job.config for job in jobs}
    parts = {
        name: (
            config.model.encoder.kind,
            config.model.decoder.kind,
            config.model.decoder.position_conditions,
            config.model.decoder.markov,
            config.loss.alpha > 0,
        )
        for name, config in rows.items()
    }
    whole = ("spatio_temporal", "hcdb", True, True, True)
    assert parts["full"] == whole
    assert parts["no-encoder"] == ("none", *whole[1:])
    assert parts["transformer"] == ("joint_attention", *whole[1:])
    assert [parts[name][:2] for name in ("baseline", "encoder-unet")] == [
        ("none", "unet"),
        ("spatio_temporal", "unet"),
    ]
    added = [parts[name][2:] for name in ("features-only", "position", "markov-layer", "full")]
    assert added == [(n > 0, n > 1, n > 2) for n in range(4)]
    # All rows share one recipe and differ only in the settings that they name.
    assert (
        len(
            {
                config.model_copy(
                    update={"model": rows["full"].model, "loss": rows["full"].loss, "seed": 0}
                ).model_dump_json()
                for name, config in rows.items()
                if name != "last-step"
            }
        )
        == 1
    )


def test_differences_are_taken_seed_by_seed():
    assert spread([0.5, 0.52, 0.54]) == "52.0 ± 2.0"
    assert spread([0.5]) == "50.0"
    assert spread([]) == spread([math.nan]) == spread([0.5, math.nan]) == "-"


def test_figures_that_do_not_exist_are_null_and_shown_as_dashes(root, tmp_path, monkeypatch):
    row = ROWS[0] | {"settings": [*ROWS[0]["settings"], "epochs=1"]}
    suite = written(root, tmp_path, [row, row | {"name": "again", "steps": [1, 2]}])
    jobs = jobs_of(suite, tmp_path / "out")
    monkeypatch.setattr("diffusionpose.ablate.score", lambda *_: math.nan)
    for job in jobs:
        run_job(job)
    content = json.loads((jobs[0].run / RESULT).read_text(), parse_constant=pytest.fail)
    assert content["pck"]["people_val"] == {"1": None}
    assert all(job.is_done for job in jobs)
    assert "| plain head | 2 | - | - | - | - |" in list(report(read_suite(suite), jobs))
    files = plot_suite(read_suite(suite), jobs, tmp_path / "plots")
    assert [file.name for file in files] == ["training.png", "steps.png"]
    drawn = []
    monkeypatch.setattr(
        "diffusionpose.ablation_plots._saved", lambda figure, _: drawn.append(figure)
    )
    suite = written(root, tmp_path, [row | {"name": "again", "steps": [16, 1]}])
    several = jobs_of(suite, tmp_path / "out")[:1]
    run_job(several[0])
    plot_suite(read_suite(suite), several, tmp_path / "plots")
    ticks = [label.get_text() for label in drawn[1].axes[0].get_xticklabels()]
    assert ticks == ["1", "16"]
    # Without tables, no training curves are plotted.
    plain = read_suite(written(root, tmp_path, [row], tables=[]))
    assert plot_suite(plain, jobs[:1], tmp_path / "plots") == []
    assert list(report(plain, jobs[:1])) == []


def finished(job, curve):
    """Write what a finished run leaves, with these validation figures by epoch."""
    job.run.mkdir(parents=True)
    (job.run / "recipe.yaml").write_text(yaml.safe_dump(job.config.model_dump(mode="json")))
    result = {"pck": {source: {"1": 0.5} for source in job.metrics}}
    (job.run / RESULT).write_text(json.dumps(result))
    lines = [
        {"step": 2 * epoch} | {f"val/pck_{source}": value for source in job.metrics}
        for epoch, value in enumerate(curve, 1)
    ]
    # An epoch without a figure at all.
    lines.insert(1, {"step": 3, "train/loss": 1.0})
    (job.run / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))


def test_curves_are_drawn_as_far_as_all_seeds_have_them(root, tmp_path, monkeypatch):
    rows = [ROWS[0], ROWS[0] | {"name": "failed", "label": "failed"}]
    suite = written(root, tmp_path, rows)
    jobs = jobs_of(suite, tmp_path / "out")
    figures = {"head": ([0.1, 0.2, 0.3], [0.3, 0.4]), "failed": ([0.1, None], [0.1, None])}
    for job in jobs:
        finished(job, figures[job.row.name][job.seed])
    drawn = []
    monkeypatch.setattr(
        "diffusionpose.ablation_plots._saved", lambda figure, _: drawn.append(figure)
    )
    plot_suite(read_suite(suite), jobs, tmp_path / "plots")
    axis = drawn[0].axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axis.get_lines()}
    np.testing.assert_allclose(lines["plain head"], [[2, 20], [4, 30]])
    names = [text.get_text() for text in drawn[0].axes[1].get_legend().get_texts()]
    assert names == ["plain head", "failed (off the scale)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [ROWS[0], ROWS[0]]}, "row names must not repeat"),
        ({"tables": [{"title": "t", "claim": "c", "rows": ["x"], "reference": "head"}]}, "'x'"),
        ({"rows": [ROWS[0] | {"settings": ["model.colour=red"]}]}, "unknown key"),
        ({"more": 1}, "unknown key"),
        ({"rows": [ROWS[0] | {"steps": [2]}]}, "steps must include 1"),
        ({"rows": [ROWS[0] | {"steps": [1, 0]}]}, "rows.0.steps.1: .* greater than or equal to 1"),
        ({"rows": [ROWS[0] | {"steps": [1, -2]}]}, "rows.0.steps.1: .* greater than or equal to 1"),
        ({"rows": [ROWS[0] | {"steps": [1, 3, 1]}]}, "rows.0: steps must not repeat"),
        (
            {"rows": [ROWS[0] | {"steps": [1, 1001]}]},
            "row 'head': 1001 steps exceed the 1000 of its schedule",
        ),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"seeds": [0, 1, 0]}, "seeds must not repeat"),
        ({"seeds": [0, -1]}, "seeds.1: .* greater than or equal to 0"),
        (
            {"rows": [ROWS[0], ROWS[1] | {"settings": ["validation_metric=posetrack-ap"]}]},
            "row 'whole': validation_metric is posetrack-ap, but pck in row 'head'",
        ),
        (
            {"rows": [ROWS[0], ROWS[1] | {"settings": ["validation.1.stride=2"]}]},
            "row 'whole': validation.1.stride is 2, but 1 in row 'head'",
        ),
        (
            {"rows": [ROWS[1], ROWS[0] | {"settings": ["validation.0.label=other"]}]},
            "row 'head': validation.0.label is other, but None in row 'whole'",
        ),
        (
            {"rows": [ROWS[1], ROWS[0] | {"settings": ["validation=[]"]}]},
            "row 'head': validation.0.*: all rows must use the same validation",
        ),
    ],
)
def test_mistakes_in_a_suite_are_named(root, tmp_path, change, message):
    suite = written(root, tmp_path, ROWS)
    content = yaml.safe_load(suite.read_text()) | {"tables": []} | change
    suite.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        jobs_of(suite, tmp_path / "out")


def test_kept_features_are_those_of_the_clips(root, tmp_path):
    config = recipe(root, **settings(root, tmp_path))
    torch.manual_seed(0)
    model = DiffusionPose(config.model).eval()
    records = load_source(config.train[0], config.model.skeleton_graph)
    clips = ClipDataset(records, config.model, AugmentConfig(), seed=3)
    kept = FeatureClips(clips, model, tmp_path, draws=2)
    for epoch, repeat, index in ((0, 0, 4), (1, 0, 4), (2, 0, 7), (1, 1, 9)):
        clip = clips[(epoch + repeat) % 2, 0, index]
        with torch.inference_mode():
            expected = model.extract(clip["images"][None])[0]
        found = kept[epoch, repeat, index]
        torch.testing.assert_close(found["features"], expected, atol=5e-3, rtol=1e-3)
        assert torch.equal(found["keypoints"].nan_to_num(-1), clip["keypoints"].nan_to_num(-1))
        assert found["key"].tolist() == [epoch, repeat, index]
    assert not torch.equal(kept[0, 0, 4]["features"], kept[1, 0, 4]["features"])
    files = sorted(tmp_path.glob("*.npy"))
    FeatureClips(clips, model, tmp_path, draws=2)
    assert sorted(tmp_path.glob("*.npy")) == files
    torch.nn.init.normal_(next(model.backbone.parameters()))
    FeatureClips(clips, model, tmp_path, draws=2)
    assert len(list(tmp_path.glob("*.npy"))) == 2 * len(files)


def test_kept_features_are_made_anew_when_what_they_depend_on_changes(root, tmp_path):
    own = Path(shutil.copytree(root, tmp_path / "people"))
    config = recipe(own, **settings(own, tmp_path))
    records = load_source(config.train[0], config.model.skeleton_graph)
    heads = config.model.backbone.model_copy(update={"num_heads": 4})
    others = config.model.model_copy(update={"backbone": heads})
    names = set()

    def kept(model_config, records):
        torch.manual_seed(0)
        clips = ClipDataset(records, model_config, AugmentConfig(), seed=3)
        FeatureClips(clips, DiffusionPose(model_config).eval(), tmp_path / "features")
        names.add(frozenset(path.name for path in (tmp_path / "features").iterdir()))
        return len(names)

    assert kept(config.model, records) == 1
    assert kept(config.model, records) == 1
    assert kept(others, records) == 2
    assert kept(config.model, [replace(record, still=True) for record in records]) == 3
    image = records[0].frames[1]
    image.write_bytes(image.read_bytes() + b"more")
    assert kept(config.model, records) == 4


def test_a_cache_needs_a_frozen_backbone(root, tmp_path):
    with pytest.raises(ConfigError, match="backbone_scale 0"):
        recipe(root, **settings(root, tmp_path, optimizer={"backbone_scale": 0.1}))


def test_frozen_weights_stay_bit_for_bit_in_the_average(root, tmp_path):
    config = recipe(root, **settings(root, tmp_path, epochs=3))
    torch.manual_seed(config.seed)
    folder = train(config, tmp_path / "run", progress=False)
    from lightning import seed_everything

    seed_everything(config.seed, verbose=False)
    start = DiffusionPose(config.model).backbone.state_dict()
    end = DiffusionPose.from_pretrained(folder).backbone.state_dict()
    assert all(torch.equal(end[name], value) for name, value in start.items())
    assert np.isfinite(
        json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["train/total"]
    )
