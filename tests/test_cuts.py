"""Cuts between scenes, on synthetic images and on the bundled clip."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffusionpose.cuts import AROUND, mark_cuts, note_cuts
from diffusionpose.structures import Frame, VideoIssue, VideoVerdict
from diffusionpose.video import open_video

DEMO = Path(__file__).parents[1] / "examples" / "demo.mp4"

HEIGHT, WIDTH = 120, 160


def place(seed, width=4 * WIDTH):
    """Return a wide image of a place, made of patches of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.uniform(0, 255, (rows, 4 * rows, 3)), (width, HEIGHT)) for rows in (4, 9, 20)
    ]
    return np.mean(layers, 0).astype(np.uint8)


def look(scene, left=0):
    return scene[:, left : left + WIDTH].copy()


def cuts(images):
    frames = [Frame(i, Fraction(i, 25), np.ascontiguousarray(x)) for i, x in enumerate(images)]
    marked = list(mark_cuts(frames))
    assert [frame.index for frame in marked] == list(range(len(frames)))
    assert all(a.image is b.image for a, b in zip(marked, frames, strict=True))
    return [frame.index for frame in marked if frame.cut]


@pytest.mark.parametrize("num_scenes", [1, 2, 5])
@pytest.mark.parametrize("length", [3, 4, 9])
def test_scenes_begin_where_another_place_is_seen(num_scenes, length):
    images = [look(place(seed)) for seed in range(num_scenes) for _ in range(length)]
    assert cuts(images) == list(range(length, num_scenes * length, length))


def test_the_bundled_clip_is_one_scene_and_its_mirror_image_another():
    with open_video(DEMO) as video:
        images = [frame.image for frame in video]
    assert cuts(images) == []
    # Every eighth frame, as of a video with three frames a second.
    assert cuts(images[::8]) == []
    mirrored = [image[:, ::-1] for image in images]
    assert cuts(images[:10] + mirrored[10:25] + images[25:40]) == [10, 25]


@pytest.mark.parametrize("step", [2, 8, 16])
def test_a_camera_that_pans_stays_in_its_scene(step):
    assert cuts([look(place(0), left) for left in range(0, 20 * step, step)]) == []


def test_a_camera_that_is_pushed_stays_in_its_scene():
    # By a tenth of the image in a single frame.
    assert cuts([look(place(0))] * 6 + [look(place(0), 16)] * 6) == []


@pytest.mark.parametrize("length", [1, AROUND])
@pytest.mark.parametrize("glitch", ["flash", "other", "black"])
def test_what_is_over_at_once_is_no_cut(glitch, length):
    scene = look(place(0))
    bright = np.clip(scene.astype(int) * 2 + 60, 0, 255).astype(np.uint8)
    shown = {"flash": bright, "other": look(place(1)), "black": np.zeros_like(scene)}[glitch]
    assert cuts([scene] * 6 + [shown] * length + [scene] * 6) == []


def test_light_that_is_switched_off_is_no_cut():
    scene = look(place(0))
    assert cuts([scene] * 6 + [scene // 3] * 6) == []


def test_somebody_who_walks_through_before_the_camera_is_no_cut():
    images = [look(place(0)) for _ in range(30)]
    for number, image in enumerate(images):
        left = 20 * number - 100
        image[:, max(left, 0) : max(left + 70, 0)] = look(place(1))[:, :1]
    assert cuts(images) == []


@pytest.mark.parametrize("num_black", [1, 3, 40])
def test_scenes_with_black_between_them_are_compared_across_it(num_black):
    black = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * num_black
    first, second = [look(place(0))] * 6, [look(place(1))] * 6
    assert cuts(first + black + second) == [6 + num_black]
    assert cuts(first + black + first) == []
    assert cuts(black + first) == []


def test_a_scene_that_fades_into_another_through_black_ends_once():
    def faded(scene, light):
        return (scene * light).astype(np.uint8)

    lights = np.linspace(1, 0, 10)
    images = [faded(look(place(0)), light) for light in lights]
    images += [faded(look(place(1)), light) for light in lights[::-1]]
    (cut,) = cuts(images)
    assert 8 <= cut <= 12


def between_bars(image, height, width, brightness=0):
    """The picture in the middle of a flat one of that size."""
    out = np.full((height, width, 3), brightness, np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out


@pytest.mark.parametrize("brightness", [0, 200])
@pytest.mark.parametrize(
    ("height", "width"), [(160, 160), (280, 160), (HEIGHT, 400), (280, 400), (840, 480)]
)
def test_bars_beside_the_picture_stay_in_all_scenes(height, width, brightness):
    # Of such a frame, most blocks hold a bar's edge, which is there after the cut, too.
    def shown(seed, size):
        picture = cv2.resize(look(place(seed)), None, fx=size, fy=size)
        return between_bars(picture, height, width, brightness)

    size = 3 if width == 480 else 1
    assert cuts([shown(seed, size) for seed in range(8) for _ in range(5)]) == list(range(5, 40, 5))


def test_scenes_of_different_shapes_between_bars():
    images = [look(place(seed)) for seed in range(6)]
    shapes = (images[0], images[1][20:100], images[2], images[3][:, 40:110], images[4][:, 50:110])
    shown = [between_bars(image, HEIGHT, WIDTH) for image in shapes for _ in range(5)]
    assert cuts(shown) == [5, 10, 15, 20]


def test_what_is_flat_beside_a_figure_is_no_bar():
    # Otherwise, each frame would be cropped to the figure, which moves a lot in so small a picture.
    rng = np.random.default_rng(0)
    figure = look(place(0))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(8):
        images, centre, speed = [], np.array([60.0, 80.0]), np.zeros(2)
        for _ in range(20):
            speed = 0.8 * speed + rng.normal(0, 5, 2)
            centre = np.clip(centre + speed, 30, [90, 130])
            y, x = centre.astype(int)
            image = np.roll(figure, (y - 60, x - 80), (0, 1))
            image[np.hypot(rows - y, columns - x) > 18] = 0
            images.append(image)
        assert cuts(images) == []


def test_pictures_of_another_size_are_another_scene():
    small, large, wide = (look(place(0))[:rows] for rows in (60, 120, 80))
    assert cuts([small] * 5 + [large] * 5 + [wide] * 5) == [5, 10]
    assert cuts([large] * 5 + [wide] + [large] * 5) == []


@pytest.mark.parametrize("shape", [(3, 3), (9, 40), (21, 21)])
def test_a_dot_in_a_flat_picture_is_no_scene(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[shape[0] // 2, shape[1] // 2] = 255
    assert cuts([image] * 4) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 400), (400, 2), (17, 23)])
def test_pictures_of_any_shape_will_do(shape):
    rng = np.random.default_rng(0)
    assert cuts([rng.integers(0, 255, (*shape, 3), np.uint8)] * 3) == []


def test_no_frames_at_all():
    assert cuts([]) == []


def test_frames_come_a_fixed_number_late_and_are_not_kept():
    alive = 0

    def frames():
        nonlocal alive
        for index in range(50):
            alive = index
            yield Frame(index, Fraction(index, 25), look(place(0)))

    for frame in mark_cuts(frames()):
        assert alive == min(frame.index + AROUND, 49)


def test_a_cut_that_the_caller_knows_of_stays():
    frames = [Frame(i, Fraction(i, 25), look(place(0)), cut=i == 4) for i in range(8)]
    assert [frame.index for frame in mark_cuts(frames) if frame.cut] == [4]


def test_the_verdict_names_where_scenes_begin():
    verdict = VideoVerdict(9, 9, Fraction(1), (VideoIssue("VFR", "steps vary", "info"),))
    assert note_cuts(verdict, []) is verdict
    noted = note_cuts(verdict, [7])
    assert noted.issues[0] == verdict.issues[0]
    assert noted.issues[1] == VideoIssue(
        "CUTS", "a cut at frame 7: each scene is tracked by itself", "info", 7
    )
    assert noted.status == "ok"
    many = note_cuts(verdict, range(10, 200, 10)).issues[1].message
    assert many.startswith(
        "19 cuts at frames 10, 20, 30, 40, 50, 60, 70, 80 ...: each scene is tracked by itself"
    )


def test_every_pair_of_places_is_told_apart():
    # Otherwise the synthetic images would be too similar for the tests above to mean anything.
    for first, second in pairwise(range(12)):
        assert cuts([look(place(first))] * 4 + [look(place(second))] * 4) == [4]
