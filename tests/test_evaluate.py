"""Evaluation of a small model and of files, on synthetic data sets."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from diffusionpose.data.clips import read_image
from diffusionpose.data.posetrack_files import read_posetrack
from diffusionpose.errors import DataError, MissingExtraError, UsageError
from diffusionpose.evaluate import evaluate
from diffusionpose.evaluate_files import Deliveries
from diffusionpose.evaluate_options import EvaluateOptions
from diffusionpose.formats.posetrack_files import write_predictions
from diffusionpose.metrics.pck import Pck
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.worst_people import worst_people
from tests.data.made import coco_root, posetrack17_root, posetrack_root
from tests.metrics.made import video, whole_person


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Make a PoseTrack18 root: two videos of five annotated frames, with one person each."""
    return posetrack_root(tmp_path_factory.mktemp("sets") / "posetrack18_v0.45")


@pytest.fixture
def options(untrained, root):
    """Return a function that makes options for the small model on that root."""

    def make(**fields):
        base = {"model": str(untrained), "data": root, "device": "cpu", "num_resamples": 50}
        return EvaluateOptions(**(base | fields))

    return make


def people(report, side):
    return np.stack(
        [
            person.keypoints
            for pair in report.pairs
            for frame in getattr(pair, side).frames
            for person in frame.people
        ]
    )


def test_pck_agrees_with_the_metric_of_training(options):
    report = evaluate(options(metric="pck"))
    plain = Pck(POSETRACK15)
    assert people(report, "predicted").shape == (10, 15, 2)
    plain.update(people(report, "predicted"), people(report, "truth"))
    assert report.facts["values"]["Mean"] == pytest.approx(100 * plain.compute()["mean"])
    # Joints are in image coordinates, though the untrained network's are anywhere in the crop.
    for point in people(report, "predicted").reshape(-1, 2):
        assert (abs(point - [80, 60]) < 150).all()


def test_batches_and_order_of_work_change_nothing_and_the_seed_does(options):
    first, second, other = (
        people(evaluate(options(metric="pck", num_resamples=0, **fields)), "predicted")
        for fields in ({"batch_size": 3}, {"batch_size": 16}, {"seed": 1})
    )
    np.testing.assert_allclose(first, second, atol=1e-3)
    assert not np.allclose(first, other, atol=1e-3)


def test_the_json_says_everything_and_no_path(options, root, tmp_path):
    figures = tmp_path / "published.yaml"
    figures.write_text("rows: {Theirs: {Mean: 80}}")
    report = evaluate(options(stride=2, published=figures))
    facts = json.loads(report.to_json())
    assert str(root.parent) not in report.to_json()
    assert facts["metric"] == "posetrack-ap"
    assert facts["model"]["name"] == "untrained"
    assert len(facts["model"]["sha256"]) == 64
    assert (facts["data"], facts["split"], facts["boxes"]) == (root.name, "val", "true boxes")
    assert facts["label_version"] == "0.45"
    assert facts["counts"] == {"videos": 2, "frames": 6, "people": 6}
    assert facts["settings"]["stride"] == 2
    assert set(facts["joints"]) == set(POSETRACK15.joints)
    low, high = facts["intervals"]["values"]["Mean"]
    assert low <= facts["values"]["Mean"] <= high
    assert facts["intervals"]["resamples"] == 50
    assert facts["published"] == {"source": "published.yaml", "rows": {"Theirs": {"Mean": 80}}}
    assert facts["version"]
    assert "(labels 0.45); 2 videos, 6 frames, 6 people; boxes: true boxes" in report.table.title
    assert report.table.title.endswith("; boxes: true boxes; --stride 2")
    assert facts["truth"]["name"] == root.name
    assert facts["truth"]["sha256"] == sha256_of_files((root / "posetrack_data" / "val").iterdir())
    assert facts["detection_files"] is None
    title = evaluate(options(num_inference_steps=2, flip_test=True, seed=3)).table.title
    assert title.endswith("; boxes: true boxes; --seed 3; --steps 2; --flip-test")


def sha256_of_files(files):
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def test_the_json_of_files_says_which_and_how(tmp_path):
    people = [whole_person((100, 120))]
    one = video("v", people, people, people)
    for folder in ("truth", "found"):
        write_predictions([one], tmp_path / folder, "posetrack18")
    chosen = {"truth": tmp_path / "truth", "predictions": tmp_path / "found", "metric": "pckh"}
    report = evaluate(EvaluateOptions(**chosen, stride=2, num_resamples=0))
    assert report.facts["settings"] == {"stride": 2, "seed": 0}
    for key, folder in (("truth", "truth"), ("predictions", "found")):
        expected = {"name": folder, "sha256": sha256_of_files((tmp_path / folder).iterdir())}
        assert report.facts[key] == expected
    assert report.table.title.endswith("; boxes: those of the predictions; --stride 2")
    # Without anything unusual, the title has no addition.
    assert evaluate(EvaluateOptions(**chosen)).table.title.endswith("those of the predictions")


@pytest.mark.parametrize("layout", ["posetrack17", "posetrack18"])
def test_written_predictions_score_the_same(options, root, tmp_path, layout):
    chosen = options(layout=layout)
    report = evaluate(chosen)
    out = tmp_path / "predictions"
    assert Deliveries(predictions=out).deliver(report, chosen) == [out]
    files = sorted(path.name for path in out.iterdir())
    assert files == ["000001_bonn.json", "000002_mpii.json"]
    assert read_posetrack(out / files[0]).layout == layout
    truth = root / "posetrack_data" / "val"
    again = evaluate(EvaluateOptions(truth=truth, predictions=out, num_resamples=50))
    assert again.facts["values"] == pytest.approx(report.facts["values"], abs=1e-6)
    assert again.facts["predictions"]["name"] == "predictions"
    assert again.facts["boxes"] == "those of the predictions"
    assert not any("nobody predicted" in note for note in again.warnings)
    halved = evaluate(options(layout=layout, stride=2))
    thinned = tmp_path / "thinned"
    Deliveries(predictions=thinned).deliver(halved, chosen)
    whole = evaluate(EvaluateOptions(truth=truth, predictions=thinned, num_resamples=0))
    assert "4 of 10 annotated frames have no predictions" in whole.warnings


def test_posetrack17_roots(untrained, tmp_path):
    root = posetrack17_root(tmp_path / "pt17")
    base = {"model": str(untrained), "data": root, "device": "cpu", "num_resamples": 0}
    report = evaluate(EvaluateOptions(**base))
    assert report.facts["counts"]["people"] == 10
    assert np.isfinite(people(report, "predicted")).all()
    out = tmp_path / "out"
    Deliveries(predictions=out).deliver(report, EvaluateOptions(**base))
    assert read_posetrack(next(out.iterdir())).layout == "posetrack17"


def test_coco_stills(untrained, tmp_path):
    coco_root(tmp_path / "coco")
    report = evaluate(
        EvaluateOptions(
            model=str(untrained),
            data=tmp_path / "coco",
            layout="coco",
            annotations=Path("train.json"),
            images=Path("images"),
            metric="pck",
            device="cpu",
        )
    )
    assert report.facts["counts"] == {"videos": 4, "frames": 4, "people": 3}
    assert report.facts["split"] == "train.json"
    assert "coco train.json; 4 images, 3 people; boxes: true boxes" in report.table.title


def test_detections_are_matched_and_counted(options, root, tmp_path):
    rows = []
    for name in ("000001_bonn", "000002_mpii"):
        for index in (1, 2, 3):
            image = f"images/val/{name}/{index:06d}.jpg"
            rows.append({"image_name": image, "bbox": [30, 5, 90, 110], "score": 0.9})
            rows.append({"image_name": image, "bbox": [1, 5, 20, 50], "score": 0.1})
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(rows))
    report = evaluate(options(boxes=str(file), metric="pck"))
    assert report.facts["boxes"] == "detections boxes.json from score 0.2"
    left_out = {"below the score": 6, "without an area": 0, "of other categories": 0}
    assert report.facts["detections"] == {"taken": 6} | left_out
    assert report.facts["detection_files"] == {
        "name": "boxes.json",
        "sha256": sha256_of_files([file]),
    }
    assert "4 of 10 annotated frames have no predictions" in report.warnings
    found = [p for one in report.pairs for f in one.predicted.frames for p in f.people]
    found = [person for person in found if person.has_points]
    assert len(found) == 6
    for person in found:
        assert person.score == pytest.approx(0.9 * person.scores.mean())
    weak = evaluate(options(boxes=str(file), metric="pck", box_score=0.05))
    assert sum(p.has_points for v in weak.pairs for f in v.predicted.frames for p in f.people) == 12
    file.write_text(json.dumps(rows[1::2]))
    with pytest.raises(DataError, match=r"an annotated frame \(0 taken, 6 below the score"):
        evaluate(options(boxes=str(file), metric="pck"))


def test_people_who_cannot_be_cut_out_stay_missed(options, root, tmp_path):
    truth = tmp_path / "root" / "posetrack_data" / "val"
    truth.mkdir(parents=True)
    (tmp_path / "root" / "images").symlink_to(root / "images")
    content = json.loads((root / "posetrack_data" / "val" / "000001_bonn.json").read_text())
    empty = content["annotations"][0] | {"id": 1, "track_id": 5, "keypoints": [0.0] * 51}
    content["annotations"].insert(0, empty | {"bbox": [1, 1, 50, 50]})
    (truth / "000001_bonn.json").write_text(json.dumps(content))
    report = evaluate(options(data=tmp_path / "root", metric="pck", num_resamples=0))
    frame = report.pairs[0].predicted.frames[1]
    assert [person.has_points for person in frame.people] == [False, True]
    assert frame.people[1].track_id == 0


def test_a_subset_keeps_the_other_frames_as_neighbours(options, root):
    (root / "challenging.txt").write_text("images/val/000001_bonn/000003.jpg\n")
    report = evaluate(options(metric="pck", subset=Path("challenging.txt")))
    assert report.facts["counts"] == {"videos": 1, "frames": 1, "people": 1}
    assert report.facts["split"] == "val, subset challenging.txt"
    whole = evaluate(options(metric="pck", num_resamples=0))
    one = report.pairs[0].predicted.frames[3].people[0].keypoints
    same = whole.pairs[0].predicted.frames[3].people[0].keypoints
    np.testing.assert_allclose(one, same, atol=1e-3)


def test_files_of_predict_may_keep_their_names(tmp_path):
    one = video("v", [whole_person((100, 120))])
    for folder, name in (("truth", "v.json"), ("found", "v.posetrack.json")):
        (path,) = write_predictions([one], tmp_path / folder, "posetrack18")
        path.rename(path.with_name(name))
    options = EvaluateOptions(
        truth=tmp_path / "truth", predictions=tmp_path / "found", metric="pckh"
    )
    assert evaluate(options).facts["values"]["Mean"] == 100
    write_predictions([one], tmp_path / "found", "posetrack18")
    with pytest.raises(DataError, match="two files for the video v"):
        evaluate(options)


FILES = {"model": None, "truth": Path("x"), "predictions": Path("y"), "device": "auto"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "map"}, "unknown metric 'map'; choose from posetrack-ap"),
        ({"layout": "mpii"}, "layout 'mpii'"),
        ({"model": None}, "--model and --data, or --truth"),
        ({"data": None}, "--model needs --data"),
        ({"truth": "x"}, "either --model"),
        ({"layout": "coco"}, "needs --annotations and --images"),
        ({"annotations": Path("x.json")}, "need --layout coco"),
        ({"stride": 0}, "--stride must be at least 1"),
        ({"batch_size": 0}, "--batch-size"),
        ({"num_inference_steps": 0}, "--steps must be at least 1, not 0"),
        ({"num_resamples": -1}, "--resamples"),
        ({"box_score": 2.0}, "--box-score"),
        ({"metric": "mota", "boxes": "x.json"}, "track ids, which detections do not have"),
        (FILES | {"boxes": "z", "num_inference_steps": 2}, "--boxes, --steps: only with --model"),
        (FILES | {"data": None, "split": "other"}, "--split: only with --model"),
        (FILES | {"layout": "coco"}, "--layout coco needs --model"),
    ],
)
def test_options_that_contradict_each_other(options, fields, message):
    with pytest.raises(UsageError, match=message):
        options(**fields)


def test_what_the_metric_lacks_is_said_before_the_network_works(options, tmp_path, monkeypatch):
    bare = posetrack_root(tmp_path)
    for file in (bare / "posetrack_data" / "val").iterdir():
        file.write_text(file.read_text().replace('"bbox_head"', '"other"'))
    monkeypatch.setattr("diffusionpose.evaluate.load_network", None)
    for metric in ("posetrack-ap", "pckh", "mota"):
        with pytest.raises(DataError, match=r"000001_bonn: frame 1 .*without a head box"):
            evaluate(options(data=bare, metric=metric))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"diffusionpose\[eval\]"):
        evaluate(options(metric="oks"))


def test_true_boxes_put_no_track_to_the_test(options):
    pytest.importorskip("motmetrics")
    report = evaluate(options(metric="mota", num_resamples=0))
    assert any("track ids are taken from the ground truth" in note for note in report.warnings)
    assert report.facts["values"]["Mean"] <= 100


def test_one_video_has_no_interval(tmp_path):
    truth, found = tmp_path / "truth", tmp_path / "found"
    one = video("v", [whole_person((100, 120), track_id=1)])
    for folder in (truth, found):
        write_predictions([one], folder, "posetrack18")
    report = evaluate(EvaluateOptions(truth=truth, predictions=found))
    assert report.facts["values"]["Mean"] == 100
    assert report.facts["intervals"] is None
    assert any("one video" in note for note in report.warnings)
    (found / "v.json").unlink()
    with pytest.raises(DataError, match="no annotation files"):
        evaluate(EvaluateOptions(truth=truth, predictions=found))


def test_figures_that_do_not_exist_are_null(options):
    facts = json.loads(evaluate(options(metric="pck", num_resamples=20)).to_json())
    assert facts["values"]["Head"] is None
    assert facts["intervals"]["values"]["Head"] == [None, None]
    assert math.isfinite(facts["values"]["Mean"])


def test_the_worst_people_are_shown_worst_first(options, root, tmp_path):
    chosen = options(metric="pck", num_resamples=0)
    report = evaluate(chosen)
    misses = worst_people(report.pairs, 4)
    alike = [miss.similarity for miss in misses]
    assert len(alike) == 4
    assert alike == sorted(alike)
    assert max(alike) <= min(m.similarity for m in worst_people(report.pairs, 20)[4:])
    picture = tmp_path / "worst.png"
    Deliveries(worst=picture).deliver(report, chosen)
    sheet = read_image(picture)
    assert sheet.shape[1] > 5 * 270
    green = (abs(sheet.astype(int) - [60, 220, 130]) < 40).all(axis=-1).mean()
    orange = (abs(sheet.astype(int) - [245, 134, 20]) < 40).all(axis=-1).mean()
    assert green > 0.005
    assert orange > 0.002


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table_format": "html"}, "text, markdown, latex"),
        ({"worst": "x.gif"}, "must end in .png"),
        ({"json": "there.json"}, "there.json already exists"),
    ],
)
def test_deliveries_that_cannot_be_made(options, tmp_path, monkeypatch, fields, message):
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("mine")
    wishes = {k: v if k == "table_format" else Path(v) for k, v in fields.items()}
    with pytest.raises(UsageError, match=message):
        Deliveries(**wishes).check(options())
    if "json" in wishes:
        Deliveries(**wishes, overwrite=True).check(options())


def test_files_that_are_read_are_never_replaced(options, root, tmp_path):
    videos = root / "posetrack_data" / "val"
    truth = next(videos.iterdir())
    found, figures = tmp_path / "found.json", tmp_path / "figures.yaml"
    link = tmp_path / "link.json"
    link.symlink_to(truth)
    for file in (found, figures):
        file.write_text("mine")
    by_files = EvaluateOptions(truth=videos, predictions=found, published=figures)
    by_model, by_boxes = options(), options(boxes=str(found))
    for chosen, file in (
        (by_files, truth), (by_files, link), (by_files, found), (by_files, figures),
        (by_model, truth), (by_boxes, found), (by_model, Path(by_model.model) / "config.json"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="is the source itself: choose another --json"):
            Deliveries(json=file, overwrite=True).check(chosen)
    with pytest.raises(UsageError, match="the source itself: choose another --write-predictions"):
        Deliveries(predictions=videos, overwrite=True).check(by_model)
    image = next(root.glob("images/**/*.jpg"))
    with pytest.raises(UsageError, match="in the folder of --data: choose another --worst"):
        Deliveries(worst=image, overwrite=True).check(by_model)
    other = tmp_path / "other.png"
    other.write_text("an earlier picture")
    for chosen in (by_model, options(model="x" * 5000)):
        Deliveries(worst=other, overwrite=True).check(chosen)


def test_files_need_a_root_for_pictures():
    files = EvaluateOptions(truth=Path("a"), predictions=Path("b"))
    with pytest.raises(UsageError, match="--worst needs the images"):
        Deliveries(worst=Path("x.png")).check(files)
    with pytest.raises(UsageError, match="predictions are files already"):
        Deliveries(predictions=Path("x")).check(files)
