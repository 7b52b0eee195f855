"""Augmentation: effects on a clip and their limits."""

import numpy as np
import pytest

from diffusionpose.data.clips import read_image
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.data.transforms import _drift, augment_clip
from diffusionpose.nn.geometry import crop_window, keypoint_box, transform
from diffusionpose.skeleton import POSETRACK15
from tests.data.made import posetrack_root
from tests.data.test_clips import CONFIG, QUIET

SIZE = CONFIG.image_size
STILL = {"scale": 0.0, "shift": 0.0, "rotation_share": 0.0}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_posetrack(posetrack_root(tmp_path_factory.mktemp("posetrack")), "val")


def drawn(record, seed, image=None, keypoints=None, still=False, **settings):
    image = read_image(record.frames[1]) if image is None else image
    keypoints = record.keypoints if keypoints is None else keypoints
    augment = QUIET.model_copy(update=STILL | settings)
    rng = np.random.default_rng(seed)
    return augment_clip([image] * 3, keypoints, record.box, CONFIG, augment, rng, still=still)


def window_of(to_image):
    """Return (centre x, centre y, width, height) of an unrotated crop."""
    middle = transform(np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2]), to_image)
    return np.array([*middle, to_image[0, 0] * SIZE[1], to_image[1, 1] * SIZE[0]])


def test_crops_are_shifted_scaled_and_turned_as_far_as_asked(records):
    own = crop_window(records[0].box, SIZE)
    off, turned = [], 0
    for seed in range(200):
        window = window_of(drawn(records[0], seed, shift=0.1, scale=0.3)[2])
        off.append(np.abs([*(window - own)[:2] / own[2:], window[2] / own[2] - 1]))
        to_image = drawn(records[0], seed, rotation=40.0, rotation_share=0.3)[2]
        turned += abs(to_image[0, 1]) > 1e-9
    # The shift is relative to the window before scaling.
    np.testing.assert_allclose(np.max(off, axis=0), [0.1, 0.1, 0.3], rtol=0.05)
    assert turned / 200 == pytest.approx(0.3, abs=0.1)


def test_half_a_body_is_cut_out_around_its_joints_if_there_are_four(records):
    keypoints = records[0].keypoints
    lower = np.array([joint.endswith(("hip", "knee", "ankle")) for joint in POSETRACK15.joints])
    halves = [crop_window(keypoint_box(keypoints[part], 1.5), SIZE) for part in (~lower, lower)]
    found = [window_of(drawn(records[0], seed, half_body=1.0)[2]) for seed in range(60)]
    is_half = np.array([[np.allclose(one, half) for half in halves] for one in found])
    assert (is_half.sum(1) == 1).all()
    assert is_half[:, 0].mean() == pytest.approx(0.6, abs=0.15)
    few = keypoints.copy()
    few[np.flatnonzero(lower)[3:]] = np.nan
    few[np.flatnonzero(~lower)[3:]] = np.nan
    for seed in range(10):
        window = window_of(drawn(records[0], seed, keypoints=few, half_body=1.0)[2])
        np.testing.assert_allclose(window, crop_window(records[0].box, SIZE))


def test_the_key_frame_of_a_still_does_not_move_and_videos_get_no_motion(records):
    plain = drawn(records[0], 0)[0]
    for seed in range(5):
        crops = drawn(records[0], seed, still=True, still_motion=0.05)[0]
        np.testing.assert_array_equal(crops[1], plain[1])
        for crop in drawn(records[0], seed, still_motion=0.05)[0]:
            np.testing.assert_array_equal(crop, plain[1])


def test_a_still_moves_by_a_share_of_the_crop(records):
    moved = []
    for seed in range(40):
        maps = _drift(3, SIZE, 0.05, np.random.default_rng(seed))
        middle = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2])
        before, _, after = (transform(middle, one) - middle for one in maps)
        moved += [before, after]
        # Constant velocity: equal distance before and after, except for the shake.
        assert np.abs(before + after).max() < 0.05 * 0.1 * SIZE[1] * 8
    np.testing.assert_allclose(np.std(moved, axis=0), 0.05 * np.array([192, 256]), rtol=0.3)


def test_colours_change_about_a_pivot_and_their_tint_a_little(records):
    black, grey = (np.full((240, 320, 3), value, np.uint8) for value in (0, 128))
    tints, lights = [], []
    for seed in range(60):
        tint = drawn(records[0], seed, image=grey, colour=0.2)[0][1][128, 96].astype(float)
        tints.append(np.ptp(tint) / 128)
        lights.append(drawn(records[0], seed, image=black, colour=0.2)[0][1].max())
    assert 0.02 < np.max(tints) < 0.15
    assert 20 < np.max(lights) < 80


def test_grey_clips_are_grey_and_as_many_as_asked(records):
    num_grey = 0
    for seed in range(60):
        crop = drawn(records[0], seed, grey=0.3)[0][1].astype(int)
        num_grey += np.ptp(crop, axis=-1).max() <= 1
    assert num_grey / 60 == pytest.approx(0.3, abs=0.15)


def test_what_is_cut_off_is_black_on_any_side_and_the_crop_gets_closer(records):
    image = np.full_like(read_image(records[0].frames[1]), 255)
    sides, widths = set(), []
    for seed in range(120):
        crops, points, to_image = drawn(records[0], seed, image=image, truncation=1.0)
        lost = np.isnan(points[:, 0]) & np.isfinite(records[0].keypoints[:, 0])
        if not lost.any():
            continue
        kept = records[0].keypoints[~lost]
        widths.append(window_of(to_image)[2])
        gone = records[0].keypoints[lost]
        beyond = {
            "below": gone[:, 1].min() > np.nanmax(kept[:, 1]),
            "above": gone[:, 1].max() < np.nanmin(kept[:, 1]),
            "right": gone[:, 0].min() > np.nanmax(kept[:, 0]),
            "left": gone[:, 0].max() < np.nanmin(kept[:, 0]),
        }
        if sum(beyond.values()) == 1:
            sides |= {side for side, is_cut in beyond.items() if is_cut}
        forth = np.linalg.inv(np.vstack([to_image, [0, 0, 1]]))[:2]
        for x, y in np.rint(transform(records[0].keypoints[lost], forth)).astype(int):
            if 2 <= x < SIZE[1] - 2 and 2 <= y < SIZE[0] - 2:
                assert crops[1][y, x].max() < 255
    assert sides == {"below", "above", "right", "left"}
    assert min(widths) < 0.95 * crop_window(records[0].box, SIZE)[2]


def test_an_occluder_lies_over_a_joint_of_the_key_frame(records):
    for seed in range(30):
        hidden, points, _ = drawn(records[0], seed, occlusion=1.0, occluder_speed=0.3)
        changed = (hidden[1] != drawn(records[0], seed)[0][1]).any(-1)
        places = np.rint(points[np.isfinite(points[:, 0])]).astype(int)
        inside = places[((places >= 0) & (places < [SIZE[1], SIZE[0]])).all(1)]
        assert changed[inside[:, 1], inside[:, 0]].any()


def test_blur_does_not_move_the_picture(records):
    image = np.zeros((240, 320, 3), np.uint8)
    x, y = np.rint((records[0].box[:2] + records[0].box[2:]) / 2).astype(int)
    image[y - 3 : y + 4, x - 3 : x + 4] = 255

    def centre(crop):
        weights = crop[..., 0].astype(float)
        rows, columns = np.indices(weights.shape)
        return np.array([(rows * weights).sum(), (columns * weights).sum()]) / weights.sum()

    expected = centre(drawn(records[0], 0, image=image)[0][1])
    for seed in range(12):
        crop = drawn(records[0], seed, image=image, blur=1.0, defocus=0.0)[0][1]
        np.testing.assert_allclose(centre(crop), expected, atol=0.3)
