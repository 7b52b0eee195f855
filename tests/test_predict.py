import json
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusionpose import PosePipeline
from diffusionpose.detection import BoxesFile, load_detector
from diffusionpose.errors import DataError, UsageError
from diffusionpose.exports import EXPORTS, ExportOptions
from diffusionpose.formats import FORMATS
from diffusionpose.poses import VideoPoses
from diffusionpose.postprocess import Butterworth, OneEuro
from diffusionpose.predict import (
    WINDOWS_AHEAD,
    PredictOptions,
    _Features,
    choose_device,
)
from diffusionpose.predict_files import predict_files
from diffusionpose.results import ResultOptions, convert
from diffusionpose.stages import detect, track, windows
from diffusionpose.structures import NO_TRACK, Boxes, Frame
from diffusionpose.tracking import Tracker
from diffusionpose.video import VideoWriter, open_video

DEMO = Path(__file__).parents[1] / "examples" / "demo.mp4"


def frames(number):
    return [Frame(i, Fraction(i, 25), np.full((8, 8, 3), i, np.uint8)) for i in range(number)]


class CountingDetector:
    name = "counting"
    start_score = 0.3

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen += [int(image[0, 0, 0]) for image in images]
        return [Boxes([[1, 1, 5, 7]], [0.9]) for _ in images]


def pipeline(folder, boxes, **options):
    found = PosePipeline.from_pretrained(folder, device="cpu", **options)
    if isinstance(boxes, StubDetector):
        found.detector = boxes
        return found
    return found.with_boxes(BoxesFile.load(boxes))


def test_windows_have_the_key_frame_stand_in_at_both_ends():
    people = Boxes.empty()
    found = list(windows((frame, people) for frame in frames(3)))
    indices = [(w.previous.index, w.key.index, w.following.index) for w in found]
    assert indices == [(0, 0, 1), (0, 1, 2), (1, 2, 2)]
    (alone,) = windows((frame, people) for frame in frames(1))
    assert (alone.previous.index, alone.following.index) == (0, 0)
    assert list(windows([])) == []


def test_windows_end_at_cuts():
    marked = [replace(frame, cut=frame.index in (2, 3)) for frame in frames(5)]
    found = list(windows((frame, Boxes.empty()) for frame in marked))
    indices = [(w.previous.index, w.key.index, w.following.index) for w in found]
    assert indices == [(0, 0, 1), (0, 1, 1), (2, 2, 2), (3, 3, 4), (3, 4, 4)]


def test_detector_looks_at_the_first_frame_of_a_scene():
    marked = [replace(frame, cut=frame.index in (6, 9)) for frame in frames(16)]
    detector = CountingDetector()
    list(detect(marked, detector, 4))
    assert detector.seen == [0, 4, 6, 9, 13]


def test_detector_looks_at_every_nth_frame_and_every_frame_has_its_people():
    detector = CountingDetector()
    tracker = Tracker(start_score=0.3, detect_every=4)
    found = list(track(detect(frames(20), detector, 4), tracker))
    assert detector.seen == [0, 4, 8, 12, 16]
    assert [frame.index for frame, _ in found] == list(range(20))
    assert all(len(boxes) == 1 for _, boxes in found[:17])


def test_detector_looks_at_every_nth_of_the_frames_that_come():
    detector = CountingDetector()
    thinned = frames(20)[1::3]
    found = list(track(detect(thinned, detector, 3), Tracker(start_score=0.3, detect_every=3)))
    assert detector.seen == [1, 10, 19]
    assert all(len(boxes) == 1 for _, boxes in found)


class LooseDetector:
    """Return whatever it was given."""

    name, start_score = "loose", 0.5

    def __init__(self, found):
        self.found = found

    def __call__(self, images):
        return self.found


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (Boxes([[1, 1, 5, 7]], [0.9]), "must return a list with one Boxes per image"),
        ([], "must return a list with one Boxes per image"),
        ([np.array([[1, 1, 5, 7]])], "must return a list with one Boxes per image"),
        ([Boxes([[5, 5, 3, 4]], [0.9])], r"box \[5.0, 5.0, 3.0, 4.0\] is not \[x1, y1, x2, y2\]"),
        ([Boxes([[1, 1, np.nan, 7]], [0.9])], "is not"),
        ([Boxes([[1, 1, np.inf, 7]], [0.9])], "is not"),
        ([Boxes([[1, 1, 5, 7]], [90])], r"score 90 is not in \[0, 1\]"),
        ([Boxes([[1, 1, 5, 7]], [np.nan])], "score nan is not"),
        ([Boxes([[1, 1, 5, 7]], [0.9], [3])], "must not set track ids"),
    ],
)
def test_what_a_detector_must_not_give_is_told(found, match):
    with pytest.raises(UsageError, match=f"^detector loose: frame 0: .*{match}"):
        list(detect(frames(1), LooseDetector(found)))


def test_what_is_no_detector_is_told_before_the_video_is_read(untrained):
    whole = PosePipeline.from_pretrained(untrained, device="cpu")
    with pytest.raises(
        UsageError, match="function is not a detector, it has no name and no start_sc"
    ):
        PosePipeline(whole.network, lambda images: [], whole.options)
    for boxes in ("boxes.json", np.zeros((1, 4)), {0: Boxes.empty()}):
        with pytest.raises(
            UsageError, match=r"boxes must be a BoxesFile, not .*: BoxesFile.load\(path"
        ):
            whole(DEMO, boxes=boxes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("flip_test", True), ("num_inference_steps", 4), ("precision", "bfloat16")],
)
def test_a_result_does_not_claim_what_the_network_did_not_do(untrained, name, value):
    whole = PosePipeline.from_pretrained(untrained, device="cpu")
    with pytest.raises(UsageError, match=f"{name} is {value!r} in the options, but the network"):
        PosePipeline(whole.network, whole.detector, PredictOptions(**{name: value}))


def test_numbers_and_devices_of_other_libraries_will_do(untrained):
    options = PredictOptions(seed=np.int64(3), batch_size=np.int32(2))
    assert json.loads(json.dumps(options.settings()))["seed"] == 3
    device = torch.device("cpu")
    assert PosePipeline.from_pretrained(untrained, device=device).network.device == device


@pytest.mark.parametrize("name", ["flip_test", "hold_crops", "find_cuts"])
@pytest.mark.parametrize("value", ["no", 1, None])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(UsageError, match=f"{name} must be True or False, not {value!r}"):
        PredictOptions(**{name: value})


@pytest.mark.parametrize("given", ["demo.mp4", [np.zeros((8, 8, 3), np.uint8)]])
def test_a_stream_takes_frames_alone(untrained, given):
    stream = PosePipeline.from_pretrained(untrained, device="cpu").stream(given)
    with pytest.raises(UsageError, match=r"takes Frames, not (str|ndarray): open_video"):
        next(stream)


def test_result_has_every_frame_and_only_the_people_in_the_boxes(untrained, made_video, made_boxes):
    poses = pipeline(untrained, made_boxes)(made_video)
    assert len(poses) == 12
    assert poses.track_ids == (4, 9)
    assert np.flatnonzero(poses.track(9).present).tolist() == [3, 4, 5, 6, 7]
    assert poses.keypoints.shape == (17, 15, 2)
    assert poses.verdict.status == "ok"
    assert poses.header.model["name"] == "untrained"
    assert len(str(poses.header.model["sha256"])) == 64
    # A person's score is the mean joint score times the box score.
    second = poses.track_id == 9
    expected = poses.keypoint_scores[second].mean(1) * 0.5
    np.testing.assert_allclose(poses.score[second], expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_hypotheses": 2, "flip_test": True}])
def test_batch_size_does_not_change_the_answer(untrained, made_video, made_boxes, options):
    results = [
        pipeline(untrained, made_boxes, batch_size=size, **options)(made_video)
        for size in (1, 5, 32)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.keypoints, results[0].keypoints, atol=1e-3)
        np.testing.assert_array_equal(other.track_id, results[0].track_id)


def test_a_person_alone_gets_the_same_pose_as_in_company(untrained, made_video, made_boxes):
    given = BoxesFile.load(made_boxes)
    alone = {i: given.boxes_at(i)[given.boxes_at(i).track_ids == 4] for i in range(12)}
    full = pipeline(untrained, made_boxes)
    both, one = full(made_video), full(made_video, boxes=BoxesFile(alone))
    np.testing.assert_allclose(both.keypoints[both.track_id == 4], one.keypoints, atol=1e-3)


def test_seed_decides_and_renaming_does_not_matter(untrained, made_video, made_boxes, tmp_path):
    renamed = tmp_path / "other.mp4"
    renamed.write_bytes(made_video.read_bytes())
    first = pipeline(untrained, made_boxes, seed=1)
    a, b = first(made_video), first(renamed)
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    c = pipeline(untrained, made_boxes, seed=2)(made_video)
    assert not np.allclose(a.keypoints, c.keypoints)


def stand_still(num_frames):
    """Return a person whose boxes jitter too little to leave the crop window."""
    return [[20 + index % 2, 10, 80 + index % 2, 110] for index in range(num_frames)]


class StubDetector:
    """Return prepared boxes, one per frame, in order."""

    name, start_score = "stub", 0.5

    def __init__(self, boxes):
        self.boxes = iter(boxes)

    def __call__(self, images):
        box = np.array([next(self.boxes)], float)
        return [Boxes(box, np.ones(1)) for _ in images]


class DoubtfulDetector:
    """The bundled detector with low scores only, and with a false positive in an empty place."""

    name, start_score = "doubtful", 0.4

    def __init__(self):
        self.detector = load_detector(None)

    def __call__(self, images):
        (found,) = self.detector(images)
        boxes = np.concatenate([found.boxes[:1], [[5.0, 240, 105, 490]]])
        return [Boxes(boxes, np.full(len(boxes), 0.3))]


@pytest.mark.parametrize("detect_every", [1, 3])
def test_of_doubtful_boxes_those_with_a_good_pose_are_people(detect_every):
    found = PosePipeline.from_pretrained("tiny", device="cpu", detect_every=detect_every)
    with open_video(DEMO) as reader:
        walk = list(islice(reader, 12))

    def people():
        return [[one.track_id for one in poses.people] for _, poses in found.stream(walk)]

    assert people() == [[1]] * 12
    found.detector = DoubtfulDetector()
    assert people() == [[1]] * 12
    # Without calibration, scores are not probabilities, and poses confirm nobody.
    found.network.config = found.network.config.model_copy(update={"calibration": None})
    assert people() == [[]] * 12


@pytest.mark.parametrize("flip_test", [False, True])
def test_shared_features_change_no_bit(untrained, made_video, flip_test, monkeypatch):
    """With kept windows, features are computed once per frame, without changing keypoints."""
    counts = []

    def run(forget):
        found = pipeline(
            untrained, StubDetector(stand_still(12)), flip_test=flip_test, batch_size=3
        )
        features = found.network.features
        counts.append(0)

        def counted(images):
            counts[-1] += len(images)
            return features(images)

        monkeypatch.setattr(found.network, "features", counted)
        if forget:
            of = _Features.of

            def anew(self, crops):
                # One by one, so that nothing is shared within a batch either.
                parts = []
                for crop in crops:
                    self._known.clear()
                    parts.append(of(self, [crop]))
                return torch.cat(parts)

            monkeypatch.setattr(_Features, "of", anew)
        return found(made_video).keypoints

    shared, alone = run(forget=False), run(forget=True)
    assert len(shared) == 12
    np.testing.assert_array_equal(shared, alone)
    assert counts == [12, 12 + 10 + 12]


def test_windows_of_given_boxes_and_without_holding_are_the_boxes_own(
    untrained, made_video, made_boxes
):
    kept = pipeline(untrained, made_boxes)(made_video)
    own = pipeline(untrained, made_boxes, hold_crops=False)(made_video)
    np.testing.assert_array_equal(kept.keypoints, own.keypoints)
    held = pipeline(untrained, StubDetector(stand_still(12)))(made_video)
    moved = pipeline(untrained, StubDetector(stand_still(12)), hold_crops=False)(made_video)
    assert not np.array_equal(held.keypoints, moved.keypoints)


def test_an_error_of_the_detector_reaches_the_caller(untrained, made_video):
    failing = pipeline(untrained, StubDetector(stand_still(5)))
    with pytest.raises(RuntimeError, match="StopIteration"):
        failing(made_video)
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_hypotheses_are_averaged(untrained, made_video, made_boxes):
    one = pipeline(untrained, made_boxes).network
    images = torch.randint(0, 256, (6, 3, 256, 192), dtype=torch.uint8)
    features = one.features(images).unflatten(0, (2, 3))
    noise = torch.randn(2, 4, *one.noise_shape)
    mean = one.heatmaps(features, noise)
    single = torch.stack([one.heatmaps(features, noise[:, n : n + 1]) for n in range(4)]).mean(0)
    torch.testing.assert_close(mean, single, atol=1e-5, rtol=1e-4)


def test_flip_test_is_symmetric(untrained, made_boxes):
    both = pipeline(untrained, made_boxes, flip_test=True).network
    images = torch.randint(0, 256, (3, 3, 256, 192), dtype=torch.uint8)
    noise = torch.randn(1, 1, *both.noise_shape)
    swap = list(both.config.skeleton_graph.flip_permutation)
    straight = both.heatmaps(both.features(images)[None], noise)
    mirrored = both.heatmaps(both.features(images.flip(-1))[None], noise.flip(-1)[:, :, swap])
    torch.testing.assert_close(mirrored.flip(-1)[:, swap], straight, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def cut_video(tmp_path_factory):
    """Write the bundled clip's first frames, mirrored from the 12th on as another scene."""
    path = tmp_path_factory.mktemp("cut") / "cut.mp4"
    with open_video(DEMO) as reader:
        size = reader.info.width, reader.info.height
        with VideoWriter(path, *size, rate=Fraction(25)) as writer:
            for frame in islice(reader, 24):
                image = frame.image[:, ::-1] if frame.index >= 12 else frame.image
                writer.write(replace(frame, image=np.ascontiguousarray(image)))
    return path


def standing(track_id=NO_TRACK):
    """Return boxes of a person who stands in the centre of 24 frames."""
    boxes = Boxes([[380, 60, 520, 480]], [1], [track_id])
    return BoxesFile(dict.fromkeys(range(24), boxes))


def test_ids_do_not_pass_a_cut(untrained, cut_video, tmp_path):
    whole = PosePipeline.from_pretrained(untrained, device="cpu").with_boxes(standing())
    found = whole(cut_video)
    assert np.flatnonzero(found.cuts).tolist() == [12]
    assert [np.flatnonzero(found.track(one).present).tolist() for one in found.track_ids] == [
        list(range(12)),
        list(range(12, 24)),
    ]
    assert [issue.code for issue in found.verdict.issues] == ["CUTS"]
    assert found.verdict.status == "ok"
    with open_video(cut_video) as reader:
        outcome = predict_files(whole, reader, tmp_path, video=False)
    saved = VideoPoses.load(outcome.files[0])
    assert saved.cuts.tolist() == found.cuts.tolist()
    assert saved.verdict == outcome.verdict == found.verdict
    assert saved.header.settings["find_cuts"] is True


def test_poses_of_a_scene_are_those_of_a_video_of_it_alone(untrained, cut_video):
    boxes = standing(track_id=5)
    found = PosePipeline.from_pretrained(untrained, device="cpu").with_boxes(boxes)(cut_video)
    # Ids given by the user are kept.
    assert found.track_ids == (5,)
    with open_video(cut_video) as reader:
        second = [frame for frame in reader if frame.index >= 12]
    whole = PosePipeline.from_pretrained(untrained, device="cpu", find_cuts=False)
    alone = [poses for _, poses in whole.with_boxes(boxes).stream(second)]
    blind = whole.with_boxes(boxes)(cut_video)
    assert not blind.cuts.any()
    assert not blind.verdict.issues
    at_cut = [frames.people[0].keypoints for frames in (found[12], alone[0], blind[12])]
    np.testing.assert_allclose(at_cut[0], at_cut[1], atol=1e-3)
    assert np.abs(at_cut[0] - at_cut[2]).max() > 0.01
    for poses, expected in zip(found[12:].frames(), alone, strict=True):
        np.testing.assert_allclose(
            poses.people[0].keypoints, expected.people[0].keypoints, atol=1e-3
        )


def test_streaming_gives_frames_in_order_as_they_come(untrained, made_video, made_boxes):
    stream = pipeline(untrained, made_boxes, batch_size=3)
    with open_video(made_video) as reader:
        frame, poses = next(iter(stream.stream(reader)))
        assert frame.index == poses.index == 0
        assert frame.image.shape == (120, 160, 3)


def test_the_bundled_model_starts_light(made_video, tmp_path):
    """Packages as slow to import as torch are not loaded and leave no temporary files."""
    code = (
        "import sys, diffusionpose\n"
        "diffusionpose.PosePipeline.from_pretrained(device='cpu')(sys.argv[1])\n"
        "print([m for m in ('diffusers', 'torch._dynamo', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, made_video],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_only_a_bounded_number_of_frames_is_alive_at_a_time(untrained):
    stream = PosePipeline.from_pretrained(untrained, device="cpu", batch_size=4)
    stream.detector = CountingDetector()
    born, most = [], 0

    def camera():
        nonlocal most
        for index in range(150):
            image = np.zeros((60, 40, 3), np.uint8)
            born.append(weakref.ref(image))
            yield Frame(index, Fraction(index, 25), image)
            most = max(most, sum(ref() is not None for ref in born))

    assert len([poses.index for _, poses in stream.stream(camera())]) == 150
    # The tracker's lag, a batch, the window, and those computed ahead.
    assert 20 < most < 21 + 4 + 6 + WINDOWS_AHEAD


def test_files_appear_together_and_the_video_plays(untrained, made_video, made_boxes, tmp_path):
    seen = []
    with open_video(made_video) as reader:
        outcome = predict_files(
            pipeline(untrained, made_boxes),
            reader,
            tmp_path,
            ResultOptions(formats=("json", "csv", "posetrack", "coco")),
            on_frame=lambda poses: seen.append(poses.index),
        )
    assert seen == list(range(12))
    assert outcome.num_people == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in outcome.files
    )
    with open_video(tmp_path / "figure.mp4") as result, open_video(made_video) as source:
        assert [f.time for f in result] == [f.time for f in source]
        assert result.info.codec == "h264"


def test_smoothed_files_and_film_agree_and_a_report_sees_the_result(
    untrained, made_video, made_boxes, tmp_path
):
    wanted = ResultOptions(("json", "csv", "npz", "angles"), 3, OneEuro())
    seen = []

    def page(poses):
        seen.append(poses)
        return "page"

    with open_video(made_video) as reader:
        outcome = predict_files(
            pipeline(untrained, made_boxes), reader, tmp_path, wanted, also={".html": page}
        )
    with open_video(made_video) as reader:
        predict_files(pipeline(untrained, made_boxes), reader, tmp_path / "raw")
    names = {path.name for path in outcome.files}
    assert names == {
        "figure.poses.json", "figure.poses.csv", "figure.poses.npz", "figure.angles.csv", "figure.mp4",
        "figure.html",
    }  # fmt: skip
    assert (tmp_path / "figure.html").read_text() == "page"
    found = VideoPoses.load(tmp_path / "figure.poses.json")
    raw = VideoPoses.load(tmp_path / "raw" / "figure.poses.json")
    assert found.header.settings["smooth"] == "one-euro"
    assert "smooth" not in raw.header.settings
    np.testing.assert_allclose(seen[0].keypoints, found.keypoints, atol=1e-3)
    assert np.abs(found.keypoints - raw.keypoints).max() > 0.01
    with open_video(tmp_path / "figure.mp4") as result, open_video(made_video) as source:
        assert [f.time for f in result] == [f.time for f in source]


@pytest.mark.parametrize(
    "changes", [{}, {"min_score": 0.05, "fill_gaps": 5, "smoother": OneEuro()}]
)
def test_what_predict_writes_is_what_convert_makes_of_its_result(
    untrained, made_video, made_boxes, tmp_path, changes
):
    names = ("json", *(name for name in FORMATS | EXPORTS if name not in ("json", "trc", "c3d")))
    wanted = ResultOptions(names, **changes)
    for folder, options in (("own", wanted), ("plain", ResultOptions())):
        with open_video(made_video) as reader:
            predict_files(pipeline(untrained, made_boxes), reader, tmp_path / folder, options)
    convert(tmp_path / "plain" / "figure.poses.json", tmp_path / "converted", wanted)
    for file in (tmp_path / "converted").rglob("*"):
        if file.is_file():
            same = tmp_path / "own" / file.relative_to(tmp_path / "converted")
            assert file.read_bytes() == same.read_bytes(), file.name


def test_hidden_faces_change_the_film_alone(untrained, made_video, made_boxes, tmp_path):
    for name, hidden in (("shown", False), ("hidden", True)):
        with open_video(made_video) as reader:
            predict_files(
                pipeline(untrained, made_boxes), reader, tmp_path / name, hide_faces=hidden
            )
    files = [tmp_path / name / "figure.poses.json" for name in ("shown", "hidden")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with open_video(tmp_path / "shown" / "figure.mp4") as one:
        before = next(iter(one)).image
    with open_video(tmp_path / "hidden" / "figure.mp4") as other:
        after = next(iter(other)).image
    assert (np.abs(before.astype(int) - after) > 30).any()


def test_faces_whose_joints_are_dropped_are_covered_where_they_were_found(
    untrained, made_video, made_boxes, tmp_path
):
    found = pipeline(untrained, made_boxes)(made_video)
    seen = []

    def blurred(image, people, skeleton):
        seen.append([person.keypoints[:, :2] for person in people])
        return image

    with open_video(made_video) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusionpose.predict_files.blur_faces", blurred)
        wanted = ResultOptions(min_score=1.0)
        predict_files(pipeline(untrained, made_boxes), reader, tmp_path, wanted, hide_faces=True)
    for poses, shown in zip(found.frames(), seen, strict=True):
        for person in poses.people:
            assert any(np.allclose(person.keypoints[:, :2], one, atol=1e-3) for one in shown)


def test_the_source_is_never_overwritten(untrained, made_video, made_boxes, tmp_path):
    copy = tmp_path / "figure.mp4"
    copy.write_bytes(made_video.read_bytes())
    with open_video(copy) as reader, pytest.raises(UsageError, match="the source itself"):
        predict_files(pipeline(untrained, made_boxes), reader, tmp_path)
    assert copy.read_bytes() == made_video.read_bytes()
    assert list(tmp_path.iterdir()) == [copy]


def test_a_failure_on_the_way_leaves_nothing(untrained, made_video, made_boxes, tmp_path):
    def stop(poses):
        if poses.index == 8:
            raise KeyboardInterrupt

    with open_video(made_video) as reader, pytest.raises(KeyboardInterrupt):
        predict_files(pipeline(untrained, made_boxes), reader, tmp_path, on_frame=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "last",
    [
        "diffusionpose.exports.files.StagedExports._stage",
        "diffusionpose.formats.PosesWriter.stage",
        "diffusionpose.video.VideoWriter.close",
    ],
)
def test_a_failure_at_the_end_leaves_nothing(
    untrained, made_video, made_boxes, tmp_path, monkeypatch, last
):
    def fail(*_):
        raise DataError("at the end")

    monkeypatch.setattr(last, fail)
    wanted, also = ResultOptions(("json", "npz")), {".report.html": lambda _: "page"}
    with open_video(made_video) as reader, pytest.raises(DataError, match="at the end"):
        predict_files(pipeline(untrained, made_boxes), reader, tmp_path, wanted, also=also)
    assert list(tmp_path.iterdir()) == []


def test_nobody_in_the_video_costs_only_the_files_a_person(untrained, made_video, tmp_path):
    nobody = tmp_path / "boxes.json"
    nobody.write_text('{"frames": []}')
    wanted = ResultOptions(("json", "npz", "trc"), export=ExportOptions(1.8))
    with open_video(made_video) as reader:
        outcome = predict_files(pipeline(untrained, nobody), reader, tmp_path / "out", wanted)
    names = {"figure.poses.json", "figure.poses.npz", "figure.mp4"}
    assert {path.name for path in outcome.files} == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert outcome.notes == ("no trc file was written: nobody has a track id",)


def test_too_few_frames_a_second_are_told_before_the_first_frame(
    untrained, made_video, made_boxes, tmp_path
):
    wanted, seen = ResultOptions(smoother=Butterworth(20)), []
    whole = pipeline(untrained, made_boxes)
    message = "butterworth:20 needs more than 25 frames per second"
    with open_video(made_video) as reader, pytest.raises(UsageError, match=message):
        predict_files(whole, reader, tmp_path, wanted, on_frame=seen.append)
    assert seen == list(tmp_path.iterdir()) == []


def test_what_only_true_times_show_costs_only_the_smoothing(untrained, tmp_path):
    """The mean frame rate is high enough, but not that of the frames with the person."""
    times = [Fraction(n, 5) for n in range(18)]
    times += [times[-1] + Fraction(n, 100) for n in range(1, 20)]
    source, boxes = tmp_path / "slow.mp4", tmp_path / "boxes.json"
    with VideoWriter(source, 64, 48, rate=Fraction(25)) as writer:
        for index, time in enumerate(times):
            writer.write(Frame(index, time, np.full((48, 64, 3), 5 * index, np.uint8)))
    person = [{"box": [5, 5, 40, 45], "track_id": 1}]
    given = [{"index": n, "boxes": person} for n in range(18) if n != 9]
    boxes.write_text(json.dumps({"frames": given}))
    wanted = ResultOptions(("json", "npz"), fill_gaps=1, smoother=Butterworth(2.2))
    with open_video(source) as reader:
        assert reader.info.average_rate > 6
        outcome = predict_files(pipeline(untrained, boxes), reader, tmp_path / "out", wanted)
    (note,) = outcome.notes
    assert note.startswith("not smoothed: 5 frames per second are too few for the Butter")
    found = VideoPoses.load(tmp_path / "out" / "slow.poses.json")
    assert found.header.settings["fill_gaps"] == 1
    assert "smooth" not in found.header.settings
    assert found.track(1).present.sum() == 18
    assert len(outcome.files) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"num_inference_steps": 0},
        {"detect_every": -1},
        {"num_hypotheses": 1.5},
        {"seed": "a"},
        {"batch_size": True},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        PredictOptions(**options)


def test_more_steps_than_the_schedule_has(untrained):
    with pytest.raises(UsageError, match="this model has at most 1000"):
        PosePipeline.from_pretrained(untrained, device="cpu", num_inference_steps=1001)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(UsageError, match="tpu"):
        choose_device("tpu")
