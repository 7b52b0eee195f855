"""The command line as users see it: outcomes, exit codes, one-line errors."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffusionpose import __version__, cli
from diffusionpose.doctor import Finding
from diffusionpose.predict_files import Outcome
from diffusionpose.structures import VideoVerdict
from tests.data.made import coco_root, edit, posetrack_root, put
from tests.video.helpers import CLIPS


@pytest.fixture
def predict(run, untrained, made_boxes, tmp_path):
    """Run `predict` with the small model and given boxes into `tmp_path / "out"`."""

    def call(source, *options):
        base = ("--model", untrained, "--boxes", made_boxes, "--out", tmp_path / "out")
        return run("predict", source, *base, *options)

    return call


def test_predict_writes_what_it_says(predict, made_video, tmp_path):
    code, out, err = predict(made_video, "--format", "csv,coco")
    assert (code, err) == (0, "")
    names = ["figure.coco.json", "figure.mp4", "figure.poses.csv", "figure.poses.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert out.startswith("12 frames, 2 people:")
    assert all(name in out for name in names)
    result = json.loads((tmp_path / "out" / "figure.poses.json").read_text())
    assert len(result["frames"]) == 12
    assert result["settings"]["detector"] == "boxes.json"
    assert str(tmp_path) not in json.dumps(result)


def test_counts_of_one_are_singular(capsys):
    cli.say(Outcome((Path("a.poses.json"),), VideoVerdict(1, 1, Fraction(1, 25)), 1), quiet=False)
    assert capsys.readouterr().out == "1 frame, 1 person:\n  a.poses.json\n"


def test_the_same_video_and_seed_give_the_same_bytes(predict, made_video, tmp_path):
    file = tmp_path / "out" / "figure.poses.json"
    predict(made_video, "--no-video", "--quiet")
    first = file.read_bytes()
    predict(made_video, "--no-video", "--quiet")
    assert file.read_bytes() == first
    assert not (tmp_path / "out" / "figure.mp4").exists()


def test_a_partial_video_is_delivered_named_and_ends_with_4(predict, tmp_path):
    code, out, err = predict(CLIPS / "01_trunc_faststart.mp4", "--no-video")
    assert code == 4
    assert "TRUNCATED" in err
    result = json.loads((tmp_path / "out" / "01_trunc_faststart.poses.json").read_text())
    assert result["verdict"]["status"] == "partial"
    assert out.startswith(f"{len(result['frames'])} frames")


def test_the_report_of_a_partial_video_is_delivered_named_and_ends_with_4(run, untrained, tmp_path):
    page = tmp_path / "a.html"
    source = CLIPS / "01_trunc_faststart.mp4"
    code, out, err = run("report", source, "--model", untrained, "-o", page, "--look-at", 3)
    assert (code, out) == (4, f"{page}\n")
    assert "diffusionpose: partial: TRUNCATED: " in err
    assert "note: the report does not show denoising: there is nobody in frame 3" in err
    assert page.exists()


def test_the_report_of_a_folder_of_images_has_its_rate(run, untrained, made_video, tmp_path):
    folder, page = tmp_path / "images", tmp_path / "a.html"
    folder.mkdir()
    for n in range(3):
        cv2.imwrite(str(folder / f"{n}.png"), np.zeros((96, 128, 3), np.uint8))
    code, _, err = run("report", folder, "--model", untrained, "--fps", 5, "-o", page)
    assert (code, err) == (0, "")
    assert '"times": [0.0, 0.2, 0.4]' in page.read_text()


def test_options_that_change_nothing_are_refused(run, predict, made_video, tmp_path):
    result = tmp_path / "out" / "figure.poses.json"
    predict(made_video, "--no-video")
    code, _, err = predict(made_video, "--look-at", 5)
    assert (code, err.count("\n")) == (2, 1)
    assert "--look-at needs --report" in err
    assert predict(made_video, "--report", "--look-at", -1)[0] == 2
    for option in (("--look-at", 5), ("--seed", 0), ("--model", "tiny"), ("--device", "cpu"), ("--fps", 5)):  # fmt: skip
        code, _, err = run("report", result, *option, "-o", tmp_path / "a.html")
        assert (code, err.count("\n")) == (2, 1)
        assert f"{option[0]} applies to a video, not to a result" in err
    assert not (tmp_path / "a.html").exists()
    assert run("report", result, "-o", tmp_path / "a.html")[0] == 0


REFUSED = [
    "03_zero_bytes.mp4",
    "04_zero_frames.mp4",
    "16_audio_only.mp4",
    "17_text.mp4",
    "23_unknown_codec.mp4",
    "27_hls_ssrf.m3u8",
    "29_concat_local_file.ffconcat",
    "36_trunc_in_first_frame.mp4",
]


@pytest.mark.parametrize("source", REFUSED)
def test_refused_sources_end_with_3_one_line_and_no_files(predict, tmp_path, source):
    code, out, err = predict(CLIPS / source)
    assert (code, out) == (3, "")
    assert err.startswith("diffusionpose: error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "xml"], "xml"),
        (["--device", "tpu"], "tpu"),
        (["--steps", "0"], "num_inference_steps"),
        (["--batch-size", "0"], "batch_size"),
        (["--precision", "float64"], "precision"),
        (["--detector", "x.onnx"], "leave --detector out"),
        (
            ["--smooth", "butterworth:20"],
            "needs more than 25 frames per second: use a cut-off below 10 Hz",
        ),
        (["--fps", "25"], "fps"),
        (["--fps", "nan"], "fps"),
        (["--fps", "1e9"], "fps"),
        (["--device", "cpu:x"], "cpu:x"),
        (["--boxes", "/dev/zero"], "not a regular file"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_usage_errors_end_with_2(predict, made_video, options, message):
    code, _, err = predict(made_video, *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("there", ["figure.mp4", "figure.poses.csv"])
def test_nothing_of_the_users_is_replaced_or_mixed_unless_asked(
    predict, made_video, tmp_path, there
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_text("mine")
    code, _, err = predict(made_video)
    assert code == 2
    assert there in err
    assert "--overwrite" in err
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert predict(made_video, "--format", "csv", "--overwrite")[0] == 0
    assert predict(made_video, "--format", "csv")[0] == 0  # now a result of this video
    assert (tmp_path / "out" / there).read_bytes() != b"mine"


def test_a_person_s_file_of_another_stays_unless_asked_for(predict, made_video, tmp_path):
    mine = tmp_path / "out" / "figure.person4.trc"
    mine.parent.mkdir()
    mine.write_text("mine")
    wanted = ["--format", "trc", "--height-m", "1.7", "--no-video"]
    code, _, err = predict(made_video, *wanted)
    assert (code, mine.read_text()) == (2, "mine")
    assert "figure.person4.trc exists and is not a result of this video" in err
    assert predict(made_video, *wanted, "--overwrite")[0] == 0
    assert mine.read_text() != "mine"


def test_another_camera_s_video_of_the_same_name_does_not_take_the_place_of_results(
    predict, made_video, tmp_path
):
    """Name, size, rate, codec and length are equal."""
    other = tmp_path / "right" / made_video.name
    other.parent.mkdir()
    other.write_bytes(made_video.read_bytes() + b"\0\0\0\x08free")
    result = tmp_path / "out" / "figure.poses.json"
    assert predict(made_video)[0] == 0
    content = result.read_bytes()
    code, _, err = predict(other)
    assert code == 2
    assert "not a result of this video" in err
    assert result.read_bytes() == content
    assert predict(other, "--overwrite")[0] == 0
    assert result.read_bytes() != content


def test_what_is_left_of_an_earlier_run_is_named(predict, made_video, tmp_path):
    out = tmp_path / "out"
    assert predict(made_video, "--format", "csv,trc", "--height-m", "1.7")[0] == 0
    (out / "figure2.poses.csv").write_text("of another")
    code, _, err = predict(made_video, "--no-video", "--smooth", "one-euro")
    assert code == 0
    (note,) = [line for line in err.splitlines() if "left from before" in line]
    left = {"figure.mp4", "figure.poses.csv", "figure.person4.trc", "figure.person9.trc"}
    assert set(note.split(": ")[-1].split(", ")) == left
    again = predict(made_video, "--format", "csv,trc", "--height-m", "1.7")
    assert "left from before" not in again[2]


def test_only_the_json_is_a_result(run, tmp_path):
    (tmp_path / "a.coco.json").write_text("{}")
    for verb in (["report"], ["compare", tmp_path / "a.coco.json"], ["convert"]):
        code, _, err = run(*verb, tmp_path / "a.coco.json")
        assert code == 1
        assert "only NAME.poses.json holds the whole result: pass that file" in err


def test_a_folder_s_name_has_no_suffix(run, untrained, tmp_path):
    for name in ("walk.1", "walk.2"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), np.zeros((90, 120, 3), np.uint8))
        end = ("--out", tmp_path / "out", "--model", untrained, "--device", "cpu")
        assert run("predict", tmp_path / name, "--no-video", *end)[0] == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"walk.1.poses.json", "walk.2.poses.json"}


def test_a_folder_at_another_rate_is_the_same_video(run, untrained, tmp_path):
    (tmp_path / "walk").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "walk" / f"{index}.png"), np.full((90, 120, 3), index, np.uint8))
    arguments = ["predict", tmp_path / "walk", "--model", untrained, "--out", tmp_path / "out"]
    assert run(*arguments)[0] == 0
    assert run(*arguments, "--fps", "30")[0] == 0


def test_results_may_lie_beside_their_source_but_never_replace_it(
    run, untrained, made_boxes, made_video, tmp_path
):
    source = tmp_path / "figure.mp4"
    source.write_bytes(made_video.read_bytes())
    arguments = ["--model", untrained, "--boxes", made_boxes, "--out", tmp_path, "--overwrite"]
    code, _, err = run("predict", source, *arguments)
    assert code == 2
    assert "is the source itself" in err
    assert run("predict", source, *arguments, "--no-video")[0] == 0
    assert (tmp_path / "figure.poses.json").exists()
    assert source.read_bytes() == made_video.read_bytes()


def test_boxes_that_cannot_be_meant_are_named(run, untrained, made_video, tmp_path):
    boxes = tmp_path / "far.json"
    arguments = ["--model", untrained, "--boxes", boxes, "--out", tmp_path / "out", "--no-video"]
    boxes.write_text('{"frames": [{"index": 2, "boxes": [{"box": [500, 5, 560, 90]}]}]}')
    code, _, err = run("predict", made_video, *arguments)
    assert code == 2
    assert "far.json: frame 2: box [500.0, 5.0, 560.0, 90.0] lies outside" in err
    boxes.write_text('{"frames": [{"index": 999, "boxes": [{"box": [5, 5, 60, 90]}]}]}')
    code, _, err = run("predict", made_video, *arguments)
    assert code == 0
    assert err == "note: far.json has boxes for frame 999, but the last frame is 11\n"


def test_weights_that_are_no_numbers_end_with_1(run, untrained, made_video, tmp_path):
    import torch

    from diffusionpose import DiffusionPose

    model = DiffusionPose.from_pretrained(untrained)
    torch.nn.init.constant_(model.decoder.norm.bias, float("nan"))
    broken = model.save_pretrained(tmp_path / "broken", "card")
    code, _, err = run("predict", made_video, "--model", broken, "--out", tmp_path / "out")
    assert code == 1
    assert "decoder.norm.bias holds NaN or infinite values" in err


def test_a_missing_model_ends_with_1(run, made_video, tmp_path):
    code, _, err = run("predict", made_video, "--model", tmp_path, "--out", tmp_path / "out")
    assert code == 1
    assert "config.json" in err


def test_version_and_help(run):
    assert run("--version")[:2] == (0, f"diffusionpose {__version__}\n")
    code, out, _ = run("predict", "--help")
    assert code == 0
    assert "--num-hypotheses" in out


@pytest.mark.parametrize(("status", "expected"), [("slow", 0), ("broken", 1)])
def test_doctor_prints_the_command_and_ends_with_1_if_a_part_is_broken(
    run, monkeypatch, status, expected
):
    found = [Finding("torch", "ok", "2.10"), Finding("video", status, "no H.264", "pip install av")]
    monkeypatch.setattr("diffusionpose.doctor.examine", lambda: iter(found))
    code, out, err = run("doctor")
    assert (code, err) == (expected, "")
    assert out.splitlines()[1] == f"{status:<7} video            no H.264: pip install av"


def test_models_lists_every_size(run):
    code, out, _ = run("models")
    assert code == 0
    for size in ("tiny", "small", "base", "large", "huge"):
        assert size in out
    assert "216.8 M" in out


def test_data_check_ends_with_0_when_clean_and_1_with_problems(run, tmp_path):
    root, report = posetrack_root(tmp_path / "data"), tmp_path / "report.json"
    code, out, err = run("data", "check", root, "--json", report)
    assert (code, err) == (0, "")
    assert "found: 2 files, 2 videos, 12 frames, 10 labelled frames, 10 people, 150 joints" in out
    assert out.endswith("no problems\n")
    assert json.loads(report.read_text())["is_clean"] is True
    file = root / "posetrack_data/val/000001_bonn.json"
    edit(file, put(["annotations", 2, "bbox"], [5, 5, -1, 3]))
    command = ("data", "check", root, "--no-images", "--json", report)
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert "report.json already exists: choose another --json, or pass --overwrite" in err
    code, out, err = run(*command, "--overwrite")
    assert (code, err) == (1, "")
    assert (
        f"empty-box: {file}: annotations[2].bbox: the box has no area: width -1, height 3\n" in out
    )
    assert out.endswith("1 problem\n")
    (finding,) = json.loads(report.read_text())["findings"]
    assert finding == {
        "code": "empty-box", "file": str(file), "where": "annotations[2].bbox", "message": "the box has no area: width -1, height 3",
    }  # fmt: skip


def test_data_check_never_replaces_annotations(run, tmp_path):
    root, coco = posetrack_root(tmp_path / "posetrack"), tmp_path / "coco"
    coco_root(coco)
    for folder, file in (
        (root, root / "posetrack_data/val/000001_bonn.json"),
        (coco, next(coco.rglob("*.json"))),
    ):
        before = file.read_bytes()
        # Of another split than the one that is checked, too.
        for options in ((), ("--split", "other")):
            code, out, err = run("data", "check", folder, *options, "--json", file, "--overwrite")
            assert (code, out) == (2, "")
            assert "is the source itself: choose another --json" in err
            assert file.read_bytes() == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("options", "expected", "message"),
    [
        (["--split", "test"], 1, "available splits: val"),
        (["--layout", "mpii"], 2, "layout 'mpii'"),
        (["--layout", "coco"], 1, "no annotation files"),
        (["--json", "."], 2, "cannot write"),
        (["--no-such-option"], 2, "No such option"),
    ],
)
def test_data_check_says_what_is_wrong_with_its_use(run, tmp_path, options, expected, message):
    root = posetrack_root(tmp_path, videos=("000001_bonn",), num_frames=2)
    code, out, err = run("data", "check", root, *options)
    assert (code, out) == (expected, "")
    assert message in err
    assert "Traceback" not in err


def test_data_check_of_nothing_is_one_line(run, tmp_path):
    for root in (tmp_path, tmp_path / "nothing", Path(__file__)):
        code, out, err = run("data", "check", root)
        assert (code, out, err.count("\n")) == (1, "", 1)


def test_train_names_a_wrong_key(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodel: tiny\ntrain: []\n")
    code, _, err = run("train", recipe, "--set", "model.decoder.depht=3")
    assert code == 2
    assert "model.decoder.depht: unknown key" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.learning_rate=nan", "finite number"),
        ("batch_size=0", "batch_size"),
        ("seed=-1", "seed"),
        ("model.backbone.depth=1000000000", "depth"),
        ("augment.rotation=[", "invalid YAML"),
        ("name=../../x", "name"),
    ],
)
def test_train_refuses_impossible_settings(run, tmp_path, setting, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodel: tiny\ntrain: [{kind: coco, root: x}]\n")
    code, _, err = run("train", recipe, "--out", tmp_path / "run", "--set", setting)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_at_its_start_does_not_block_another(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodel: tiny\ntrain: [{kind: coco, root: x}]\n")
    for _ in range(2):
        code, _, err = run("train", recipe, "--out", tmp_path / "run")
        assert code == 2
        assert "needs `annotations` and `images`" in err
    code, _, err = run("train", recipe, "--out", tmp_path / "run", "--resume")
    assert code == 2
    assert "nothing to resume from" in err
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"junk")
    code, _, err = run("train", recipe, "--out", tmp_path / "run", "--resume")
    assert code == 1
    assert "not a file of plain tensors" in err


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, 143, "diffusionpose: error: terminated\n"),
        (signal.SIGINT, 130, "diffusionpose: error: interrupted\n"),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing_under_a_final_name(
    untrained, made_boxes, made_video, tmp_path, sent, code, message
):
    out = tmp_path / "out"
    arguments = ["--model", untrained, "--boxes", made_boxes, "--out", out, "--steps", "1000"]
    command = [sys.executable, "-m", "diffusionpose", "predict", made_video, *arguments]
    process = subprocess.Popen(
        [*map(str, command)],
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out.exists() and any(out.iterdir())):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, message)
    left = [path.name for path in out.iterdir()]
    assert bool(left) == (sent == signal.SIGKILL)
    assert all(name.startswith(".") and ".tmp-" in name for name in left)


@pytest.fixture
def evaluate(run, untrained, tmp_path):
    """Run `evaluate` with the small model on a synthetic data set in `tmp_path / "set"`."""
    root = posetrack_root(tmp_path / "set")

    def call(*options):
        base = ("--model", untrained, "--data", root, "--device", "cpu", "--resamples", 20)
        return run("evaluate", *base, *options)

    return call


def test_evaluate_prints_a_table_and_writes_what_was_asked_for(evaluate, run, tmp_path):
    figures, report, picture = (tmp_path / name for name in ("f.yaml", "all.json", "worst.png"))
    figures.write_text("source: their table\nrows: {Theirs: {Mean: 80.5}}\n")
    written = tmp_path / "predictions"
    code, out, err = evaluate(
        "--json", report, "--worst", picture, "--write-predictions", written, "--published", figures
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("PoseTrack AP; set val; 2 videos, 10 frames, 10 people; boxes: true")
    assert lines[1].split()[:3] == ["Head", "Shoulder", "Elbow"]
    assert lines[2].split()[0] == "untrained"
    assert lines[3].split()[:3] == ["95", "%", "interval"]
    assert "published, not measured here (their table):" in lines
    assert lines[-1].split()[-1] == "80.5"
    assert all(str(path) in err for path in (report, picture, written))
    assert len(list(written.iterdir())) == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    values = json.loads(report.read_text())["values"]

    truth = tmp_path / "set" / "posetrack_data" / "val"
    files = ("--truth", truth, "--predictions", written, "--json", report)
    code, _, err = run("evaluate", *files)
    assert (code, err.count("\n")) == (2, 1)
    assert "all.json already exists: choose another --json, or pass --overwrite" in err
    code, out, _ = run("evaluate", *files, "--overwrite", "--format", "latex", "--resamples", 20)
    assert code == 0
    assert "\\toprule" in out
    assert json.loads(report.read_text())["values"] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--metric", "map"], 2, "choose from posetrack-ap, oks"),
        (["--format", "html"], 2, "text, markdown, latex"),
        (["--truth", "x"], 2, "give either --model and --data, or --truth and --predictions"),
        (["--boxes", "nothing.json"], 1, "nothing.json: no such file"),
        (["--split", "test"], 1, "available splits: val"),
        (["--published", "nothing.yaml"], 2, "nothing.yaml: no such file"),
        (["--steps", "100000"], 2, "num_inference_steps"),
        (["--layout", "coco"], 2, "needs --annotations and --images"),
    ],
)
def test_evaluate_says_in_one_line_what_is_wrong(evaluate, options, code, message):
    found, out, err = evaluate(*options)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message in err


def test_evaluate_names_the_extra_that_is_missing(evaluate, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = evaluate("--metric", "oks")
    assert code == 1
    assert err.endswith("'faster-coco-eval'; install it with: pip install 'diffusionpose[eval]'\n")
