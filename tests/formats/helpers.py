"""A small result, arbitrary generated ones, and their contents as files."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from diffusionpose.formats import write_poses
from diffusionpose.structures import (
    NO_TRACK,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoInfo,
    VideoIssue,
    VideoVerdict,
)

NAN = float("nan")
TEMPORARY = re.compile(r"^\..+\.tmp-[0-9a-f]{8}$")


def make_header(
    joints: tuple[str, ...] = ("nose", "head_top", "left_wrist"), **video
) -> PosesHeader:
    facts = {"name": "clip.mp4", "width": 640, "height": 480, "container": "mp4", "codec": "h264"}
    facts["fingerprint"] = "cd34"
    return PosesHeader(
        video=VideoInfo(**{**facts, "average_rate": Fraction(30000, 1001), **video}),
        skeleton="small",
        joints=joints,
        limbs=((0, 1), (1, 2)),
        model={"name": "tiny", "sha256": "ab12"},
        settings={"seed": 7, "steps": [1, 2]},
        version="0.1.0",
    )


def make_person(track_id: int = 3, score: float = 0.5) -> PersonPose:
    keypoints = np.array([[10, 20, 0.9], [NAN, NAN, 0], [30.12345, 40.5, 0.12345]])
    return PersonPose(track_id, np.array([1.0, 2, 41, 62.0004]), 0.75, score, keypoints)


HEADER = make_header()
FRAMES = [
    FramePoses(0, Fraction(0), (make_person(3), make_person(NO_TRACK, 0.25))),
    FramePoses(1, Fraction(1001, 30000)),
    FramePoses(2, Fraction(2002, 30000), (make_person(4),)),
]
ISSUE = VideoIssue("gap", "2 frames are missing", "partial", 2)
VERDICT = VideoVerdict(5, 3, Fraction(3003, 30000), (ISSUE,))


def written(path: Path, format_name: str, frames=FRAMES, header=HEADER, verdict=VERDICT) -> str:
    write_poses(path, format_name, header, frames, verdict)
    return path.read_text(encoding="utf-8")


def strict(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


GOLDEN_JSON = """\
{
"schema": "diffusionpose/poses",
"schema_version": 1,
"version": "0.1.0",
"video": {"name": "clip.mp4", "width": 640, "height": 480, "container": "mp4", "codec": "h264", \
"rotation": 0, "average_rate": "30000/1001", "expected_frames": null, "has_audio": false, "fingerprint": "cd34"},
"verdict": {"status": "partial", "num_packets": 5, "num_frames": 3, "duration": "1001/10000", \
"issues": [{"code": "gap", "message": "2 frames are missing", "severity": "partial", "frame": 2}]},
"skeleton": {"name": "small", "joints": ["nose", "head_top", "left_wrist"], "limbs": [[0, 1], [1, 2]]},
"model": {"name": "tiny", "sha256": "ab12"},
"settings": {"seed": 7, "steps": [1, 2]},
"frames": [
{"index": 0, "time": 0.0, "time_exact": "0/1", "people": [\
{"track_id": 3, "box": [1.0, 2.0, 41.0, 62.0], "box_score": 0.75, "score": 0.5, \
"keypoints": [[10.0, 20.0, 0.9], [null, null, 0.0], [30.123, 40.5, 0.1234]]}, \
{"track_id": null, "box": [1.0, 2.0, 41.0, 62.0], "box_score": 0.75, "score": 0.25, \
"keypoints": [[10.0, 20.0, 0.9], [null, null, 0.0], [30.123, 40.5, 0.1234]]}]},
{"index": 1, "time": 0.033367, "time_exact": "1001/30000", "people": []},
{"index": 2, "time": 0.066733, "time_exact": "1001/15000", "people": [\
{"track_id": 4, "box": [1.0, 2.0, 41.0, 62.0], "box_score": 0.75, "score": 0.5, \
"keypoints": [[10.0, 20.0, 0.9], [null, null, 0.0], [30.123, 40.5, 0.1234]]}]}
]
}
"""


finite = st.floats(-1e5, 1e5)
unit = st.floats(0, 1)
joint = st.one_of(
    st.tuples(finite, finite, unit), st.just((NAN, NAN, 0.0)), st.just((-0.0, 0.0, -0.0))
)


@st.composite
def person(draw, num_joints: int, track_id: int) -> PersonPose:
    keypoints = np.array(draw(st.lists(joint, min_size=num_joints, max_size=num_joints)))
    box = np.array(draw(st.tuples(finite, finite, finite, finite)))
    return PersonPose(track_id, box, draw(unit), draw(unit), keypoints)


@st.composite
def results(draw) -> tuple[PosesHeader, list[FramePoses], VideoVerdict]:
    header = make_header(
        name=draw(st.text(min_size=1)),
        expected_frames=draw(st.none() | st.integers(0, 99)),
        average_rate=draw(st.none() | st.just(Fraction(25))),
    )
    frames, time = [], draw(st.fractions(-1, 1, max_denominator=10**6))
    for index in sorted(draw(st.sets(st.integers(0, 10**6), max_size=4))):
        time += draw(st.fractions(Fraction(1, 90000), 100, max_denominator=90000))
        ids = draw(st.lists(st.integers(0, 9), unique=True, max_size=3)) + draw(
            st.lists(st.just(NO_TRACK), max_size=1)
        )
        people = tuple(draw(person(3, each)) for each in ids)
        frames.append(FramePoses(index, time, people, draw(st.booleans())))
    severities = st.sampled_from(["info", "partial"])
    issues = st.builds(VideoIssue, st.text(), st.text(), severities, st.none() | st.integers(0, 9))
    verdict = VideoVerdict(
        9, len(frames), Fraction(1, 3), tuple(draw(st.lists(issues, max_size=2)))
    )
    return header, frames, verdict
