"""Pairing of frames and people."""

from dataclasses import replace

import numpy as np
import pytest

from diffusionpose.annotations import AnnotatedFrame
from diffusionpose.errors import DataError
from diffusionpose.metrics.pairs import VideoPair, frame_notes, matched_people, pair_videos
from diffusionpose.metrics.pck import VideoPck
from tests.metrics.made import pair, person, video, whole_person


def test_both_sides_of_a_pair_have_as_many_frames():
    with pytest.raises(ValueError, match="zip"):
        list(VideoPair(video("one", []), video("one", [], [])).frames)
    truth = video("one", [], [])
    with pytest.raises(DataError, match="one: 3 predicted frames, 2 in the truth"):
        pair_videos([truth], [video("one", [], [], [])])


def test_frames_without_a_name_say_nothing_of_the_order():
    truth = video("one", [], [])
    named, other = truth.frames
    nameless = replace(truth, frames=(replace(named, file_name=""), other))
    assert pair_videos([nameless], [replace(nameless, frames=nameless.frames[::-1])])


def test_other_names_are_told_once_for_all_and_slashes_are_no_matter():
    def other(name, file_name):
        truth = video(name, [])
        return VideoPair(truth, replace(truth, frames=(AnnotatedFrame(file_name),)))

    (note,) = frame_notes([other(name, "images/other/1.jpg") for name in "abc"])
    assert note.endswith("frames are paired by position (likewise in 2 more videos)")
    assert list(frame_notes([other("a", r"val\a\000000.jpg")])) == []


def test_people_are_matched_by_the_joints_and_the_size_of_the_truth():
    truth = whole_person((100, 100))
    whole = whole_person((100, 100), noise=2)
    nose = replace(truth, keypoints=np.full((15, 2), np.nan))
    nose.keypoints[0] = truth.keypoints[0]
    far = replace(whole_person((150, 100)), box=np.array([0.0, 0, 9000, 9000]))
    for found in ([nose, whole], [far, whole]):
        frames = AnnotatedFrame("a", (truth,)), AnnotatedFrame("a", tuple(found))
        ((_, chosen),) = matched_people(*frames, same_people=False)
        assert chosen is whole


def test_people_without_an_area_are_matched_by_distance():
    """With a single joint and no box, the area is 0 and so is every similarity."""
    head = (0, 0, 30, 40)
    truth = [person({"nose": place}, head) for place in ((50, 50), (200, 50))]
    found = [person({"nose": place}) for place in ((201, 50), (51, 50))]
    frames = AnnotatedFrame("a", tuple(truth)), AnnotatedFrame("a", tuple(found))
    assert [one for _, one in matched_people(*frames, same_people=False)] == found[::-1]
    metric = VideoPck([pair([truth], [found])], "head")
    assert metric.joints(np.ones(1))["nose"] == 100
