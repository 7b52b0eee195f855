"""`VideoPoses`: arrays agree with the frames that they are made from."""

import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from diffusionpose.errors import DataError
from diffusionpose.formats import write_poses
from diffusionpose.poses import VideoPoses
from diffusionpose.structures import NO_TRACK, FramePoses, VideoVerdict
from tests.formats.helpers import FRAMES, GOLDEN_JSON, HEADER, VERDICT, make_person, results

POSES = VideoPoses.from_frames(HEADER, FRAMES, VERDICT)


def same(frame: FramePoses, other: FramePoses) -> bool:
    """Whether two frames are bitwise equal."""
    if (frame.index, frame.time, frame.cut) != (other.index, other.time, other.cut):
        return False
    if len(frame.people) != len(other.people):
        return False
    return all(
        (a.track_id, a.box_score, a.score) == (b.track_id, b.box_score, b.score)
        and np.array_equal(a.box, b.box)
        and np.array_equal(a.keypoints, b.keypoints, equal_nan=True)
        for a, b in zip(frame.people, other.people, strict=True)
    )


def test_arrays_are_rows_of_people():
    assert POSES.frame_indices.tolist() == [0, 1, 2]
    assert POSES.frame_index.tolist() == [0, 0, 2]
    assert POSES.track_id.tolist() == [3, NO_TRACK, 4]
    assert POSES.score.tolist() == [0.5, 0.25, 0.5]
    assert POSES.keypoints.shape == (3, 3, 2)
    assert POSES.keypoint_scores[0].tolist() == [0.9, 0, 0.12345]
    assert np.isnan(POSES.keypoints[:, 1]).all()
    np.testing.assert_allclose(POSES.frame_times, [0, 1001 / 30000, 2002 / 30000])
    np.testing.assert_allclose(POSES.time, [0, 0, 2002 / 30000])
    assert POSES.skeleton.joints == HEADER.joints


@settings(deadline=None, max_examples=40)
@given(results())
def test_frames_come_back_as_they_were(result):
    header, frames, verdict = result
    poses = VideoPoses.from_frames(header, frames, verdict)
    assert len(poses) == len(frames)
    assert all(same(a, b) for a, b in zip(poses.frames(), frames, strict=True))


@settings(deadline=None, max_examples=40)
@given(results())
def test_json_to_poses_to_json_is_the_same_file(tmp_path_factory, result):
    header, frames, verdict = result
    folder = tmp_path_factory.mktemp("poses")
    write_poses(folder / "a.json", "json", header, frames, verdict)
    loaded = VideoPoses.load(folder / "a.json")
    loaded.save(folder / "b.json")
    assert (folder / "b.json").read_bytes() == (folder / "a.json").read_bytes()
    assert loaded.exact_times == tuple(frame.time for frame in frames)


def test_files_of_every_format(tmp_path):
    POSES.to_json(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == GOLDEN_JSON
    for name in ("csv", "posetrack", "coco"):
        getattr(POSES, f"to_{name}")(tmp_path / "a")
        write_poses(tmp_path / "b", name, HEADER, FRAMES, VERDICT)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_load_refuses_what_is_no_result(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError):
        VideoPoses.load(tmp_path / "a.json")


def test_frames_by_position_and_slices():
    assert same(POSES[0], FRAMES[0])
    assert same(POSES[-1], FRAMES[2])
    assert [frame.index for frame in POSES] == [0, 1, 2]
    with pytest.raises(IndexError, match="no frame at position 3: there are 3"):
        POSES[3]
    part = POSES[1:]
    assert isinstance(part, VideoPoses)
    assert len(part) == 2
    assert part.track_ids == (4,)
    assert all(same(a, b) for a, b in zip(part.frames(), FRAMES[1:], strict=True))
    assert [frame.index for frame in POSES[::2]] == [0, 2]
    assert len(POSES[5:]) == 0
    with pytest.raises(ValueError, match="reversed"):
        POSES[::-1]


def test_a_slice_knows_its_cuts():
    frames = [FramePoses(i, Fraction(i, 25), cut=i in (2, 3, 7)) for i in range(10)]
    poses = VideoPoses.from_frames(HEADER, frames, VERDICT)
    assert np.flatnonzero(poses.cuts).tolist() == [2, 3, 7]
    assert poses[3].cut
    assert not poses[4].cut
    # The first frame of a slice is not a cut.
    assert np.flatnonzero(poses[3:].cuts).tolist() == [4]
    # Cuts lie between frames 0, 4 and 8, but at none of them.
    assert poses[::4].cuts.tolist() == [False, True, True]
    assert poses[5:5].cuts.tolist() == []
    with pytest.raises(ValueError, match=r"cuts is \(3,\), not \(10,\)"):
        replace(poses, cuts=np.zeros(3, bool))


def test_indices_need_not_be_positions():
    frames = [replace(frame, index=10 * frame.index + 5) for frame in FRAMES]
    poses = VideoPoses.from_frames(HEADER, frames, VERDICT)
    assert same(poses[2], frames[2])
    assert poses.track(4).present.tolist() == [False, False, True]
    np.testing.assert_allclose(poses.time, POSES.time)


def test_a_track_has_a_row_for_every_frame():
    track = POSES.track(3)
    assert len(track) == 3
    assert track.present.tolist() == [True, False, False]
    assert track.span == slice(0, 1)
    np.testing.assert_array_equal(track.keypoints[0], make_person().keypoints[:, :2])
    np.testing.assert_array_equal(track.box[0], make_person().box)
    for array in (track.keypoints, track.keypoint_scores, track.box, track.box_score, track.score):
        assert len(array) == 3
        assert np.isnan(array[1:]).all()
    np.testing.assert_allclose(track.times, POSES.frame_times)
    assert POSES.track_ids == (3, 4)


@pytest.mark.parametrize("track_id", [7, NO_TRACK])
def test_a_track_that_is_not_there(track_id):
    with pytest.raises(KeyError, match=re.escape("choose from [3, 4]")):
        POSES.track(track_id)


def test_a_video_without_people():
    frames = [FramePoses(0, Fraction(0)), FramePoses(1, Fraction(1, 25))]
    poses = VideoPoses.from_frames(HEADER, frames, VideoVerdict(2, 2, Fraction(2, 25)))
    assert len(poses) == 2
    assert poses.keypoints.shape == (0, 3, 2)
    assert poses.track_ids == ()
    assert all(same(a, b) for a, b in zip(poses.frames(), frames, strict=True))
    assert len(VideoPoses.from_frames(HEADER, [], VideoVerdict(0, 0, Fraction(0)))) == 0


def person(**changes):
    return (replace(make_person(), **changes),)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (FramePoses(4, Fraction(1), person(keypoints=np.zeros((2, 3)))), r"\(2, 3\), not \(3, 3\)"),
        (FramePoses(4, Fraction(1), person(keypoints=np.zeros((3, 2)))), r"\(3, 2\), not \(3, 3\)"),
        (
            FramePoses(4, Fraction(1), person(filled=(3,))),
            r"filled is \(3,\), but there are 3 joints",
        ),
        ((None, FRAMES[0]), "must be FramePoses, not tuple: PosePipeline.stream"),
    ],
)
def test_frames_that_do_not_fit_are_told(frame, said):
    with pytest.raises(ValueError, match=said):
        VideoPoses.from_frames(HEADER, [frame], VERDICT)


def test_times_are_exact():
    with pytest.raises(ValueError, match="exact_times are not exact: give Fractions"):
        replace(POSES, exact_times=tuple(POSES.frame_times))


def test_a_frame_is_a_copy():
    frame = POSES[0].people[0]
    frame.box[:], frame.keypoints[:] = 0, 0
    assert same(POSES[0], FRAMES[0])


def test_repr_is_one_short_line():
    assert repr(POSES) == "VideoPoses('clip.mp4': 3 frames, 2 tracks, 3 poses, small, partial)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box": np.zeros((2, 4))}, r"box is \(2, 4\), not \(3, 4\)"),
        ({"keypoints": np.zeros((3, 4, 2))}, r"keypoints is \(3, 4, 2\), not \(3, 3, 2\)"),
        ({"exact_times": (Fraction(0),)}, r"frame_indices is \(3,\), not \(1,\)"),
        ({"frame_indices": [0, 2, 1]}, "frame_indices do not increase"),
        ({"exact_times": (Fraction(0), Fraction(1), Fraction(1))}, "exact_times do not increase"),
        ({"frame_index": [2, 0, 0]}, "frame_index is not sorted"),
        ({"frame_index": [0, 0, 9]}, "not in frame_indices"),
        ({"track_id": [3, 3, 4]}, "the same track id"),
        ({"keypoints": np.full((3, 3, 2), [1, np.nan])}, "both or neither"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(POSES, **changes)


def test_frames_that_do_not_fit_the_header_are_refused():
    with pytest.raises(ValueError, match=r"reshape|keypoints"):
        VideoPoses.from_frames(replace(HEADER, joints=("a", "b")), FRAMES, VERDICT)
