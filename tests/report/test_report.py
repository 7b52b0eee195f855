"""The report: its contents, no network use, and safety against names."""

import base64
import json
import re
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from diffusionpose.angles import ANGLES
from diffusionpose.errors import DataError
from diffusionpose.nn import heatmaps
from diffusionpose.poses import VideoPoses
from diffusionpose.predict import PosePipeline
from diffusionpose.report import Insight, make_report
from diffusionpose.report.insight import COLUMNS, MOST_KEPT, SEEDS, Sheet, _Kept, tiles
from diffusionpose.report.make import embedded_video, room, thinned
from diffusionpose.report.page import MISSING, PLACE_UNIT, ReportParts, ellipse, report_html
from diffusionpose.structures import FramePoses, VideoIssue
from diffusionpose.video import open_video
from tests.exports.test_exports import POSES

DEMO = Path(__file__).parents[2] / "examples" / "demo.mp4"


def payload_of(page):
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(text)


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_places_come_back_to_an_eighth_of_a_pixel():
    data = payload_of(report_html(POSES, ReportParts()))
    assert data["frames"] == [0, 1, 2, 3]
    assert data["times"] == [0, 0.04, 0.08, 0.12]
    part = payload_of(report_html(POSES[2:], ReportParts()))
    assert (part["frames"], part["times"], part["start"]) == (
        [2, 3],
        [0, 0.04],
        POSES.frame_times[2],
    )
    two, seven = data["people"]
    assert (two["id"], seven["id"]) == (2, 7)
    places = unpacked(seven["places"], "<i2").reshape(4, 15, 2)
    expected = POSES.track(7).keypoints
    known = np.isfinite(expected)
    assert (places[~known] == MISSING).all()
    np.testing.assert_allclose(places[known] * PLACE_UNIT, expected[known], atol=PLACE_UNIT / 2)
    scores = unpacked(seven["scores"], np.uint8).reshape(4, 15)
    assert scores[0, 0] == 191
    assert scores[1].max() == 0
    assert unpacked(two["filled"], np.uint8).sum() == 1


def test_somebody_who_passes_by_takes_the_room_of_these_frames_alone():
    person = POSES[0].people[0]
    frames = [
        FramePoses(index, Fraction(index, 25), (person,) if 100 <= index < 110 else ())
        for index in range(400)
    ]
    poses = VideoPoses.from_frames(POSES.header, frames, POSES.verdict)
    (packed,) = payload_of(report_html(poses, ReportParts()))["people"]
    assert packed["first"] == 100
    places = unpacked(packed["places"], "<i2").reshape(10, 15, 2)
    known = np.isfinite(person.keypoints[:, :2])
    expected = np.broadcast_to(person.keypoints[:, :2], places.shape)[:, known[:, 0]]
    np.testing.assert_allclose(places[:, known[:, 0]] * PLACE_UNIT, expected, atol=PLACE_UNIT / 2)
    for name, kind, number in (
        ("scores", np.uint8, 15),
        ("filled", np.uint8, 15),
        ("boxes", "<i2", 4),
        ("lengths", "<i2", len(POSES.header.limbs)),
        ("angles", "<i2", len(ANGLES)),
    ):
        assert unpacked(packed[name], kind).size == 10 * number, name


def test_a_name_cannot_break_out_of_the_page():
    name = '</script><script>alert(1)</script><!-- $data "&.mp4'
    video = replace(POSES.header.video, name=name)
    page = report_html(replace(POSES, header=replace(POSES.header, video=video)), ReportParts())
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    assert payload_of(page)["name"] == name


def test_the_page_asks_for_nothing_from_elsewhere():
    page = report_html(POSES, ReportParts(video=b"x", video_size=(2, 2)))
    assert "default-src 'none'" in page
    assert not re.findall(
        r"https?://|\b(?:fetch|XMLHttpRequest|WebSocket|import)\s*\(|url\(|@import", page
    )


def test_nobody_and_no_frames_make_a_page_too():
    empty = VideoPoses.from_frames(POSES.header, [], POSES.verdict)
    assert payload_of(report_html(empty, ReportParts()))["people"] == []


@pytest.mark.parametrize(
    ("severities", "summary"),
    [
        ([], "Read to its end; nothing lost."),
        (["info"], "Read to its end; noticed:"),
        (["info", "partial"], "Incomplete:"),
    ],
)
def test_nothing_is_said_to_be_lost_only_where_nothing_was_noticed(severities, summary):
    issues = tuple(VideoIssue("PTS_GAP", "about 5 frames are missing", one) for one in severities)
    page = report_html(replace(POSES, verdict=replace(POSES.verdict, issues=issues)), ReportParts())
    assert payload_of(page)["verdict"]["summary"] == summary
    assert "nothing lost" not in page.replace(summary, "")


def test_counts_of_one_are_singular():
    verdict = replace(POSES.verdict, num_frames=1)
    poses = replace(POSES[3:], verdict=verdict)
    facts = dict(payload_of(report_html(poses, ReportParts()))["facts"])
    assert facts["Length"].startswith("1 frame, ")
    assert facts["People"] == "1 track, 1 pose"
    assert repr(poses).startswith("VideoPoses('clip.mp4': 1 frame, 1 track, 1 pose, ")


def test_settings_that_were_given_again_stand_in_their_order():
    settings = {"seed": 0, "smooth": ["butterworth:6", "one-euro"]}
    header = replace(POSES.header, settings=settings)
    facts = dict(payload_of(report_html(replace(POSES, header=header), ReportParts()))["facts"])
    assert facts["Settings"] == "seed 0, smooth butterworth:6 then one-euro"


def test_heatmaps_as_tiles():
    maps = np.zeros((7, 4, 3))
    maps[6, 1, 2] = 1.5
    sheet = tiles(maps)
    assert sheet.shape == (2 * 4, COLUMNS * 3)
    assert np.argwhere(sheet == 255).tolist() == [[4 + 1, 3 + 2]]


def test_an_ellipse_by_its_axes():
    rng = np.random.default_rng(0)
    turn = np.deg2rad(30)
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = rng.normal(0, [4, 1], (4000, 2)) @ axes + [50, 20]
    mean, (major, minor, degrees) = ellipse(points)
    assert mean == pytest.approx([50, 20], abs=0.3)
    assert (major, minor) == pytest.approx((8, 2), rel=0.05)
    assert degrees % 180 == pytest.approx(30, abs=1)


@pytest.mark.parametrize(("seconds", "times"), [(0, 1), (10, 1), (25, 2.5), (150, 15), (7200, 15)])
def test_the_page_of_a_long_video_has_room_up_to_a_limit(seconds, times):
    assert room(seconds) == times


def test_too_many_heatmaps_are_thinned_by_frames():
    sheets = {(1, n): Sheet(b"0" * 100, np.eye(2, 3)) for n in range(10)}
    assert len(thinned(sheets, 1000)) == 10
    assert [frame for _, frame in thinned(sheets, 400)] == [0, 3, 6, 9]


def test_the_video_of_a_part_is_that_part(untrained, made_video, made_boxes, tmp_path):
    from diffusionpose.detection import BoxesFile

    pipeline = PosePipeline.from_pretrained(untrained, device="cpu")
    poses = pipeline(made_video, boxes=BoxesFile.load(made_boxes))
    with open_video(made_video) as reader:
        content, size = embedded_video(reader, poses[4:9], 1e9, hide_faces=False)
    path = tmp_path / "part.mp4"
    path.write_bytes(content)
    with open_video(made_video) as reader, open_video(path) as part:
        whole = [cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA) for frame in reader]
        shown = list(part)
    assert len(shown) == 5
    assert shown[0].time == 0
    for frame in shown:
        error = [np.abs(image.astype(int) - frame.image).mean() for image in whole]
        assert np.argmin(error) == 4 + frame.index


def test_a_whole_report(untrained, made_video, made_boxes, tmp_path, monkeypatch):
    from diffusionpose.detection import BoxesFile

    pipeline = PosePipeline.from_pretrained(untrained, device="cpu").with_boxes(
        BoxesFile.load(made_boxes)
    )
    # Replace the noisy heatmaps of an untrained model by peaks, as decoding smooths noise.
    peaks = torch.stack([torch.linspace(4, 44, 15), torch.linspace(60, 5, 15)], 1)
    maps = heatmaps.encode(peaks, (64, 48), 2.0)
    monkeypatch.setattr(
        pipeline.network,
        "_generate",
        lambda features, noise: maps.expand(len(features), -1, -1, -1),
    )
    with open_video(made_video) as reader:
        insight = Insight(pipeline.network, frame=5)
        frames = [poses for _, poses in pipeline.watched_by(insight).stream(reader)]
        poses = VideoPoses.from_frames(pipeline.header(reader.info), frames, reader.verdict)
        make_report(poses, tmp_path / "a.html", reader.again(), insight)
    data = payload_of((tmp_path / "a.html").read_text())
    assert data["video"].startswith("data:video/mp4;base64,")
    assert len(data["sheets"]) == len(poses.frame_index)
    track = poses.track_ids[0]
    picture, to_image = data["sheets"][f"{track}/3"]
    sheet = cv2.imdecode(unpacked(picture.split(",")[1], np.uint8), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape == (3 * 64, 5 * 48)
    # The brightest point of a joint's tile is at its keypoint, to within a heatmap pixel.
    tiles = sheet.reshape(3, 64, 5, 48).transpose(0, 2, 1, 3).reshape(15, 64, 48)
    person = next(person for person in poses[3].people if person.track_id == track)
    pixel = np.hypot(to_image[0], to_image[3])
    for tile, point in zip(tiles, person.keypoints[:, :2], strict=True):
        y, x = np.unravel_index(tile.argmax(), tile.shape)
        place = np.reshape(to_image, (2, 3)) @ [x, y, 1]
        assert np.abs(place - point).max() < 2 * pixel
    (theatre, *_) = data["theatres"]
    assert theatre["frame"] == 5
    assert {steps: len(path) for steps, path in theatre["stages"].items()} == {
        "1": 2, "2": 3, "4": 5, "8": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("present", "guess", "num_frames", "expected"),
    [
        (range(60), None, 60, 30),
        (range(1000), 500, 1000, 500),
        (range(36), 30, 36, 18),
        (range(10), None, 100, 9),
        ((*range(10), *range(95, 100)), None, 100, 9),
        ((*range(10), *range(80, 100)), None, 100, 80),
        ((301,), None, 1000, 301),
    ],
)
def test_the_frame_that_is_nearest_to_the_middle_is_kept(present, guess, num_frames, expected):
    kept = _Kept(guess, is_asked=False)
    for frame in present:
        kept.add(frame, f"someone in {frame}")
        kept.add(frame, "another")
    assert kept.nearest(num_frames // 2) == (expected, [f"someone in {expected}", "another"])


def test_of_a_video_of_unknown_length_few_frames_are_kept():
    kept = _Kept(None, is_asked=False)
    for frame in range(3000):
        kept.add(frame, "someone")
        assert len(kept._people) <= MOST_KEPT + 1
    assert abs(kept.nearest(1500)[0] - 1500) < 3000 / MOST_KEPT


@pytest.mark.parametrize(
    ("asked", "frames", "looked_into", "notes"),
    [
        (None, 12, 6, []),
        (5, 12, 5, []),
        (2, 12, 3, ["there is nobody in frame 2: the report shows frame 3, the nearest with people"]),
        (999, 12, 7, ["the video has no frame 999, the last one is 11: the report shows frame 7, the nearest with people"]),
        (0, 3, None, ["the report does not show denoising: there is nobody in frame 0, and nobody in any other"]),
    ],
)  # fmt: skip
def test_where_the_look_inside_is_and_why(untrained, made_video, made_boxes, asked, frames, looked_into, notes, tmp_path):  # fmt: skip
    from diffusionpose.detection import BoxesFile

    boxes = json.loads(made_boxes.read_text())["frames"]
    later = [one | {"boxes": one["boxes"] if 3 <= one["index"] <= 7 else []} for one in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps({"frames": later}))
    pipeline = PosePipeline.from_pretrained(untrained, device="cpu").with_boxes(
        BoxesFile.load(tmp_path / "boxes.json")
    )
    insight = Insight(pipeline.network, asked)
    with open_video(made_video) as reader:
        found = list(pipeline.watched_by(insight).stream(islice(reader, frames)))
    assert len(found) == frames
    theatres = insight.theatres(frames)
    assert [one.track_id for one in theatres] == ([] if looked_into is None else [4, 9])
    assert {one.frame for one in theatres} == ({looked_into} - {None})
    assert insight.notes(frames) == notes


def test_another_video_is_refused(made_video, tmp_path):
    with open_video(made_video) as reader, pytest.raises(DataError, match="the poses are of clip"):
        make_report(POSES, tmp_path / "a.html", reader)
    assert list(tmp_path.iterdir()) == []


def test_another_video_of_the_same_size_is_refused(made_video, tmp_path):
    copy = tmp_path / made_video.name
    copy.write_bytes(made_video.read_bytes() + b"\0\0\0\x08free")
    with open_video(copy) as other, open_video(made_video) as reader:
        poses = VideoPoses.from_frames(
            replace(POSES.header, video=other.info), POSES.frames(), POSES.verdict
        )
        with pytest.raises(DataError, match="differs from figure"):
            make_report(poses, tmp_path / "a.html", reader)


def test_what_is_looked_into_in_bfloat16_is_what_float32_shows():
    theatres = []
    for precision in ("float32", "bfloat16"):
        pipeline = PosePipeline.from_pretrained("tiny", device="cpu", precision=precision)
        insight = Insight(pipeline.network, frame=1)
        with open_video(DEMO) as reader:
            list(pipeline.watched_by(insight).stream(islice(reader, 3)))
        theatres.append(insight.theatres(3)[0])
    exact, rounded = theatres
    assert rounded.points.shape == exact.points.shape == (SEEDS, 15, 2)
    assert rounded.points.dtype == np.float64
    for steps, maps in exact.stages.items():
        np.testing.assert_allclose(rounded.stages[steps], maps, atol=0.05)
