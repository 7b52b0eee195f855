"""Rendered images, checked by their pixels."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from diffusionpose.render import (
    CENTRE_WHITE,
    LEFT_ORANGE,
    RIGHT_BLUE,
    RenderStyle,
    contact_sheet,
    draw_poses,
    track_colour,
)
from diffusionpose.skeleton import COCO17, POSETRACK15, SKELETONS
from diffusionpose.structures import NO_TRACK, Frame, PersonPose

PLACES = {
    "nose": (100, 50), "head_bottom": (100, 70), "head_top": (100, 30),
    "left_shoulder": (130, 80), "right_shoulder": (70, 80),
    "left_elbow": (140, 115), "right_elbow": (60, 115),
    "left_wrist": (145, 150), "right_wrist": (55, 150),
    "left_hip": (120, 150), "right_hip": (80, 150),
    "left_knee": (122, 190), "right_knee": (78, 190),
    "left_ankle": (124, 230), "right_ankle": (76, 230),
}  # fmt: skip
NO_TAG = RenderStyle(show_tags=False)
GREY = np.full((260, 200, 3), 128, np.uint8)


def make_person(score: float = 1.0, track_id: int = 0, **places) -> PersonPose:
    """Make a person who faces the camera; named joints are moved, or missing if None."""
    chosen = {**PLACES, **places}
    rows = [(*(chosen[name] or (np.nan, np.nan)), score) for name in POSETRACK15.joints]
    return PersonPose(track_id, np.array([45.0, 20, 155, 240]), 0.9, 0.8, np.array(rows))


def draw(*people: PersonPose, image: np.ndarray = GREY, style: RenderStyle = NO_TAG) -> np.ndarray:
    return draw_poses(image, people, POSETRACK15, style=style)


def midpoint(image: np.ndarray, a: str, b: str) -> np.ndarray:
    x, y = (np.array(PLACES[a]) + PLACES[b]) / 2
    return image[round(y), round(x)].astype(int)


def changed(image: np.ndarray, other: np.ndarray = GREY) -> np.ndarray:
    return (image != other).any(axis=2)


@pytest.mark.parametrize(
    ("a", "b", "colour"),
    [
        ("left_elbow", "left_wrist", LEFT_ORANGE),
        ("right_elbow", "right_wrist", RIGHT_BLUE),
        ("left_hip", "left_knee", LEFT_ORANGE),
        ("head_bottom", "right_hip", RIGHT_BLUE),
        ("nose", "head_bottom", CENTRE_WHITE),
    ],
)
@pytest.mark.parametrize("background", [0, 128, 255])
def test_limbs_have_the_colour_of_their_side(a, b, colour, background):
    image = draw(make_person(), image=np.full_like(GREY, background))
    np.testing.assert_allclose(midpoint(image, a, b), colour, atol=1)


def test_limbs_from_side_to_side_are_central():
    joints = np.full((17, 3), np.nan)
    joints[COCO17.index("left_shoulder")] = 130, 80, 1
    joints[COCO17.index("right_shoulder")] = 70, 80, 1
    person = PersonPose(NO_TRACK, np.array([0.0, 0, 200, 260]), 1, 1, joints)
    image = draw_poses(GREY, [person], COCO17)
    np.testing.assert_allclose(image[80, 100], CENTRE_WHITE, atol=1)


@pytest.mark.parametrize("x", [122, 122.25, 122.4, 121.7])
def test_limbs_and_joints_lie_where_they_are_to_a_fraction_of_a_pixel(x):
    places = {**dict.fromkeys(PLACES), "left_hip": (x, 150), "left_knee": (x, 190)}
    weight = np.abs(draw(make_person(**places)).astype(float) - 128).sum(axis=2)
    for row in (150, 170, 190):
        centre = np.average(np.arange(weight.shape[1]), weights=weight[row])
        assert centre == pytest.approx(x, abs=0.2)


def test_outline_is_darker_than_a_light_background():
    image = draw(make_person(), image=np.full_like(GREY, 255))
    (x0, y0), (x1, y1) = PLACES["left_hip"], PLACES["left_knee"]
    row = image[(y0 + y1) // 2, x0 - 8 : x1 + 9].sum(axis=1)
    assert row.min() < sum(LEFT_ORANGE) - 50


def test_opacity_rises_with_the_score_without_steps():
    strengths = []
    for score in np.linspace(0.2, 0.7, 26):
        image = draw(make_person(score))
        strengths.append(np.abs(midpoint(image, "left_elbow", "left_wrist") - 128).max())
    steps = np.diff(strengths)
    assert (steps >= 0).all()
    assert steps.max() < 8
    assert strengths[0] < 0.4 * strengths[-1]


def test_a_limb_is_as_faint_as_its_fainter_end():
    person = make_person()
    person.keypoints[POSETRACK15.index("left_wrist"), 2] = 0.3
    image = draw(person)
    faint = np.abs(midpoint(image, "left_elbow", "left_wrist") - 128).max()
    sure = np.abs(midpoint(image, "left_shoulder", "left_elbow") - 128).max()
    assert 0 < faint < 0.6 * sure


def test_joints_under_the_floor_are_not_drawn():
    assert not changed(draw(make_person(0.19))).any()
    assert changed(draw(make_person(0.21))).any()
    assert changed(draw(make_person(0.19), style=replace(NO_TAG, score_floor=0.1))).any()


def test_missing_joints_and_their_limbs_are_left_out():
    image = draw(make_person(left_wrist=None))
    assert (midpoint(image, "left_elbow", "left_wrist") == 128).all()
    x, y = PLACES["left_wrist"]
    assert not changed(image)[y - 4 : y + 5, x - 4 : x + 5].any()
    np.testing.assert_allclose(midpoint(image, "left_shoulder", "left_elbow"), LEFT_ORANGE, atol=1)
    assert not changed(image)[:20, :20].any(), "nothing is drawn to the origin"


def test_the_picture_given_is_left_as_it_is():
    image = GREY.copy()
    image.setflags(write=False)
    out = draw(make_person(), image=image, style=RenderStyle(show_boxes=True))
    assert (image == GREY).all()
    assert changed(out).any()
    assert not np.shares_memory(out, image)
    assert (draw(image=image) == GREY).all()


@pytest.mark.parametrize("place", [(-50, 80), (500, 80), (130, -1e7), (1e30, 1e30), (np.inf, 80)])
def test_joints_off_the_screen(place):
    image = draw(make_person(left_wrist=place), style=RenderStyle())
    np.testing.assert_allclose(midpoint(image, "right_elbow", "right_wrist"), RIGHT_BLUE, atol=1)


def test_people_off_the_screen_draw_nothing():
    person = make_person(**{name: (x + 1000, y) for name, (x, y) in PLACES.items()})
    assert not changed(draw(person, style=RenderStyle())).any()


def test_a_person_without_joints_or_box_draws_nothing():
    person = replace(make_person(**dict.fromkeys(PLACES)), box=np.full(4, np.nan))
    assert not changed(draw(person, style=RenderStyle(show_boxes=True))).any()


def test_people_change_only_what_is_near_them():
    near = np.zeros(GREY.shape[:2], bool)
    near[5:245, 40:160] = True
    assert not changed(draw(make_person(), style=replace(NO_TAG, show_boxes=True)))[~near].any()


def test_limbs_are_thicker_on_larger_people():
    def width(scale: int) -> int:
        large = {name: (x * scale, y * scale) for name, (x, y) in PLACES.items()}
        person = replace(make_person(**large), box=make_person().box * scale)
        image = draw(person, image=np.zeros((260 * scale, 200 * scale, 3), np.uint8))
        row = image[170 * scale, 90 * scale : 130 * scale].astype(int)
        return int((np.abs(row - LEFT_ORANGE).max(axis=1) < 60).sum())

    assert width(1) < width(3) < width(6)
    assert width(6) == pytest.approx(2 * width(3), rel=0.3)


def test_tags_have_the_colour_of_the_track():
    bare, tagged = draw(make_person()), draw(make_person(track_id=4), style=RenderStyle())
    pixels = tagged[changed(tagged, bare)]
    assert (np.abs(pixels.astype(int) - track_colour(4)).max(axis=1) <= 1).sum() > 40
    assert len({track_colour(n) for n in range(8)}) == 8
    untracked = draw(make_person(track_id=NO_TRACK), style=RenderStyle())
    assert (untracked == bare).all()
    assert (draw(make_person(track_id=12), style=RenderStyle()) != tagged).any(), (
        "the id is written"
    )


@pytest.mark.parametrize(("dx", "dy"), [(-100, 0), (100, 0), (0, -60), (0, 0)])
def test_tags_stay_in_the_picture(dx, dy):
    moved = {name: (x + dx, y + dy) for name, (x, y) in PLACES.items()}
    bare = draw(make_person(**moved))
    tagged = draw(make_person(track_id=123456, **moved), style=RenderStyle())
    ys, xs = np.nonzero(changed(tagged, bare))
    assert len(ys) > 200
    assert min(xs.min(), ys.min()) >= 0
    assert xs.max() < GREY.shape[1] - 1
    assert np.ptp(xs) > 30, "the tag is whole"


def tag_pixels(**places) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels that a person's tag changes."""
    tagged = draw(make_person(**places), style=RenderStyle())
    return np.nonzero(changed(tagged, draw(make_person(**places))))


@pytest.mark.parametrize("lean", [-60, 0, 60])
def test_the_tag_of_a_leaning_person_is_above_the_head(lean):
    head = {name: (100 + lean, PLACES[name][1] + 40) for name in ("nose", "head_top")}
    ys, xs = tag_pixels(**head, head_bottom=(100 + lean / 2, 100))
    assert xs.mean() == pytest.approx(100 + 0.75 * lean, abs=1)
    assert ys.min() > 30
    assert ys.max() < 70, "the top of the head is free"


def test_the_tag_of_a_person_who_lies_is_clear_of_the_head():
    ys, xs = tag_pixels(head_top=(20, 60), nose=(40, 60), head_bottom=(60, 60))
    assert xs.mean() == pytest.approx(40, abs=1)
    assert ys.max() < 45


@pytest.mark.parametrize(("x", "side"), [(80, 1), (120, 1), (165, -1)])
def test_where_the_picture_ends_above_a_head_the_tag_is_beside_it(x, side):
    ys, xs = tag_pixels(head_top=(x, 2), nose=(x, 20), head_bottom=(x, 42))
    assert ((xs - x) * side > 25).all()
    assert ys.max() < 42


def test_a_tag_does_not_leap_as_a_head_rises_to_the_edge():
    heads = [
        {"head_top": (100, y), "nose": (100, y + 18), "head_bottom": (100, y + 40)}
        for y in range(40)
    ]
    middles = np.array([[places.mean() for places in tag_pixels(**head)] for head in heads])
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    assert np.ptp(middles[:, 1]) > 30
    assert steps.max() < 12


@pytest.mark.parametrize("rise", [0, 28])
def test_tags_of_people_at_one_place_do_not_hide_each_other(rise):
    places = {name: (x, y - rise) for name, (x, y) in PLACES.items()}
    people = [make_person(track_id=track, **places) for track in range(1, 4)]
    image = draw(*people, style=RenderStyle())
    where = [
        np.argwhere(np.abs(image.astype(int) - track_colour(track)).max(axis=2) <= 1)
        for track in range(1, 4)
    ]
    assert min(map(len, where)) == pytest.approx(max(map(len, where)), rel=0.3)
    assert max(np.ptp(places, axis=0).max() for places in where) < 20


@pytest.mark.parametrize("missing", [("nose", "head_top"), ("nose", "head_top", "head_bottom")])
def test_without_a_head_the_tag_is_above_all_joints(missing):
    ys, xs = tag_pixels(**dict.fromkeys(missing), left_wrist=(145, 60))
    assert xs.mean() == pytest.approx(100, abs=1)
    assert ys.max() < 60


def test_boxes_are_drawn_when_asked():
    image = draw(make_person(track_id=2), style=replace(NO_TAG, show_boxes=True))
    np.testing.assert_allclose(image[130, 45].astype(int), track_colour(2), atol=40)
    assert (image[130, 100] != track_colour(2)).any()


@pytest.mark.parametrize("name", [*SKELETONS])
def test_every_skeleton_is_drawn(name):
    skeleton = SKELETONS[name]
    keypoints = np.column_stack([np.linspace(20, 180, skeleton.num_joints)] * 2)
    keypoints = np.column_stack([keypoints, np.ones(skeleton.num_joints)])
    person = PersonPose(0, np.array([20.0, 20, 180, 180]), 1, 1, keypoints)
    assert changed(draw_poses(GREY, [person], skeleton)).any()


@pytest.mark.parametrize(
    "image", [GREY.astype(np.float32), GREY[..., 0], np.zeros((9, 9, 4), np.uint8)]
)
def test_pictures_that_are_no_rgb_bytes_are_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        draw(make_person(), image=image)


def test_keypoints_of_another_skeleton_are_refused():
    with pytest.raises(ValueError, match=r"coco17 must be \(17, 3\)"):
        draw_poses(GREY, [make_person()], COCO17)


def test_strided_pictures_are_drawn_alike():
    wide = np.full((260, 400, 3), 128, np.uint8)
    assert (draw(make_person(), image=wide[:, ::2]) == draw(make_person())).all()


# --- Contact sheets -------------------------------------------------------------------------------


def make_frame(index: int, size: tuple[int, int] = (48, 64)) -> Frame:
    return Frame(index, Fraction(index, 25), np.full((*size, 3), 40 + 20 * index, np.uint8))


def test_contact_sheet_has_every_frame_in_its_place():
    sheet = contact_sheet([make_frame(index) for index in range(5)], 3, tile_width=128)
    height, width = sheet.shape[:2]
    assert sheet.dtype == np.uint8
    for index in range(5):
        y, x = height * (index // 3 + 0.4) / 2, width * (index % 3 + 0.5) / 3
        assert (sheet[int(y), int(x)] == 40 + 20 * index).all()
    assert (sheet[int(height * 0.7), int(width * 0.85)] == sheet[0, 0]).all(), "no sixth picture"


def test_contact_sheet_writes_index_and_time():
    early, late = make_frame(1), Frame(1, Fraction(5), make_frame(1).image)
    assert (contact_sheet([early]) != contact_sheet([late])).any()
    assert (contact_sheet([early]) != contact_sheet([Frame(2, early.time, early.image)])).any()
    assert (contact_sheet([early]) == contact_sheet([make_frame(1)])).all()


def test_contact_sheet_fits_other_shapes_into_its_tiles():
    sheet = contact_sheet([make_frame(0), make_frame(5, (64, 32))], 2, tile_width=128)
    tile = sheet[4:100, 4 + 128 + 4 : 4 + 128 + 4 + 128]
    assert (tile[:, 64] == 140).all()
    assert (tile[:, 2] == sheet[0, 0]).all()


def test_contact_sheet_of_few_frames_is_narrow():
    assert contact_sheet([make_frame(0)], 4).shape[1] < 400


@pytest.mark.parametrize(("num_frames", "columns"), [(0, 4), (1, 0)])
def test_contact_sheet_needs_frames_and_columns(num_frames, columns):
    with pytest.raises(ValueError, match="frames in"):
        contact_sheet([make_frame(index) for index in range(num_frames)], columns)


def test_contact_sheet_takes_captions_and_a_title():
    frames = [make_frame(1), make_frame(2)]
    plain, named = contact_sheet(frames), contact_sheet(frames, captions=["one", "two"])
    assert named.shape == plain.shape
    assert (named != plain).any()
    titled = contact_sheet(frames, captions=["one", "two"], title="All of it")
    grown = titled.shape[0] - named.shape[0]
    assert grown > 0
    assert (titled[grown + 10 :] == named[10:]).all()
    assert (titled[:grown] != titled[0, 0]).any()
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(frames, captions=["one"])
