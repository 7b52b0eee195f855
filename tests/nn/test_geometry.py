import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusionpose.nn.geometry import (
    compose,
    crop_affine,
    crop_window,
    flip_keypoints,
    invert,
    keypoint_box,
    transform,
    warp,
)
from diffusionpose.skeleton import COCO17, POSETRACK15

SIZE = (256, 192)
number = st.floats(-2000, 2000)
length = st.floats(2, 3000)
boxes = st.tuples(number, number, length, length).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
)


@given(boxes, st.floats(-180, 180))
def test_crop_to_image_and_back(box, rotation):
    affine = crop_affine(crop_window(box, SIZE), SIZE, rotation)
    points = np.random.default_rng(0).uniform(-100, 400, (50, 2))
    there_and_back = transform(transform(points, invert(affine)), affine)
    assert np.abs(there_and_back - points).max() < 1e-3


@given(boxes, st.floats(-180, 180))
def test_the_composed_map_is_one_after_the_other(box, rotation):
    first = crop_affine(crop_window(box, SIZE), SIZE, rotation)
    second = np.array([[-1.0, 0.5, 7], [0.25, 2, -3]])
    points = np.random.default_rng(0).uniform(-100, 400, (50, 2))
    expected = transform(transform(points, first), second)
    np.testing.assert_allclose(
        transform(points, compose(second, first)), expected, rtol=1e-9, atol=1e-6
    )


@given(boxes)
def test_window_holds_the_box_enlarged_by_a_quarter_at_the_crop_aspect(box):
    x, y, width, height = crop_window(box, SIZE)
    assert (x, y) == pytest.approx(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    assert width / height == pytest.approx(192 / 256)
    ratios = width / (box[2] - box[0]), height / (box[3] - box[1])
    assert min(ratios) == pytest.approx(1.25)


def test_the_content_lands_where_the_points_do():
    image = np.zeros((300, 400, 3), np.uint8)
    spots = np.array([[120.0, 80.0], [210.0, 150.0], [160.0, 190.0]])
    for x, y in spots.astype(int):
        cv2.circle(image, (int(x), int(y)), 4, (255, 255, 255), -1, cv2.LINE_AA)
    for rotation in (0.0, 30.0, -90.0):
        affine = crop_affine(crop_window(np.array([100.0, 60, 230, 220]), SIZE), SIZE, rotation)
        crop = warp(image, affine, SIZE)[..., 0].astype(float)
        for x, y in transform(spots, affine):
            patch = np.zeros_like(crop)
            rows, columns = np.indices(crop.shape)
            near = (rows - y) ** 2 + (columns - x) ** 2 < 12**2
            patch[near] = crop[near]
            found = np.array([(patch * columns).sum(), (patch * rows).sum()]) / patch.sum()
            assert np.abs(found - [x, y]).max() < 0.2


def test_strong_shrinking_keeps_the_place():
    image = np.zeros((3000, 4000, 3), np.uint8)
    cv2.circle(image, (1500, 1100), 60, (255, 255, 255), -1)
    affine = crop_affine(crop_window(np.array([0.0, 0, 4000, 3000]), SIZE), SIZE)
    crop = warp(image, affine, SIZE)[..., 0].astype(float)
    rows, columns = np.indices(crop.shape)
    found = [(crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()]
    expected = transform(np.array([1500.0, 1100.0]), affine)
    assert np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize("skeleton", [POSETRACK15, COCO17])
def test_flip_twice_is_the_identity(skeleton):
    keypoints = np.random.default_rng(0).uniform(0, 192, (7, skeleton.num_joints, 3))
    keypoints[2, 3] = np.nan
    flipped = flip_keypoints(keypoints, 192, skeleton)
    np.testing.assert_allclose(flip_keypoints(flipped, 192, skeleton), keypoints, atol=1e-9)
    left, right = skeleton.index("left_wrist"), skeleton.index("right_wrist")
    np.testing.assert_allclose(flipped[0, left, 0], 191 - keypoints[0, right, 0])


def test_flip_agrees_with_the_mirrored_image():
    image = np.zeros((20, 31, 1), np.uint8)
    image[4, 7] = 255
    rows, columns, _ = np.nonzero(image[:, ::-1])
    points = np.full((15, 2), [7.0, 4.0])
    assert flip_keypoints(points, 31, POSETRACK15)[0].tolist() == [columns[0], rows[0]]


def test_keypoint_box():
    points = np.array([[0.0, 0], [10, 20], [np.nan, np.nan]])
    assert keypoint_box(points, 2.0).tolist() == [-5, -10, 15, 30]
