"""Crop windows are kept while they fit, and lead a moving person."""

import numpy as np
import pytest

from diffusionpose.crop_windows import CropWindows
from diffusionpose.nn.geometry import crop_window
from diffusionpose.structures import Boxes


def people(*rows):
    boxes = np.array([row[1:] for row in rows], float).reshape(-1, 4)
    return Boxes(boxes, np.ones(len(rows)), np.array([row[0] for row in rows], int))


def test_crop_windows_are_held_while_the_person_stays_inside():
    held = CropWindows((256, 192))
    (first,) = held.update(people((7, 0, 0, 60, 100)))
    for shift in (2, -3, 5):
        (same,) = held.update(people((7, shift, shift, 60 + shift, 100 + shift)))
        assert same.number == first.number
        np.testing.assert_array_equal(same.window, first.window)
    (moved,) = held.update(people((7, 12, 0, 72, 100)))
    assert moved.number != first.number
    # It leads the movement by a limited share of the window.
    own = crop_window(np.array([12.0, 0, 72, 100]), (256, 192))
    assert 0 < moved.window[0] - own[0] <= 0.06 * own[2]
    (grown,) = held.update(people((7, 12, 0, 82, 118)))
    assert grown.number != moved.number


def test_crop_windows_of_two_people_and_of_one_who_was_away():
    held = CropWindows((256, 192))
    a, b = held.update(people((1, 0, 0, 60, 100), (2, 100, 0, 160, 100)))
    b_again, a_again = held.update(people((2, 101, 0, 161, 100), (1, 1, 0, 61, 100)))
    assert (a_again.number, b_again.number) == (a.number, b.number)
    held.update(people((2, 101, 0, 161, 100)))
    (back,) = held.update(people((1, 1, 0, 61, 100)))
    assert back.number not in (a.number, b.number)


def test_crop_windows_that_are_not_held_are_the_boxes_own():
    free = CropWindows((256, 192), is_held=False)
    numbers = set()
    for shift in (0, 0, 1):
        (window,) = free.update(people((7, shift, 0, 60 + shift, 100)))
        own = crop_window(np.array([shift, 0.0, 60 + shift, 100]), (256, 192))
        np.testing.assert_array_equal(window.window, own)
        numbers.add(window.number)
    assert len(numbers) == 3


def test_a_walker_has_a_new_window_every_few_frames_only():
    held = CropWindows((256, 192))
    numbers = []
    for frame in range(60):
        x = 2 * frame
        (window,) = held.update(people((1, x, 0, x + 60, 100)))
        centre = crop_window(np.array([x, 0.0, x + 60, 100]), (256, 192))[0]
        assert abs(centre - window.window[0]) <= 0.08 * window.window[2] + 1e-9
        numbers.append(window.number)
    assert len(set(numbers)) <= 12


@pytest.mark.parametrize(
    ("factor", "is_held"), [(1.1, True), (1.15, False), (1 / 1.1, True), (1 / 1.15, False)]
)
def test_crop_windows_are_held_while_the_size_stays(factor, is_held):
    held = CropWindows((256, 192))
    (first,) = held.update(people((7, -30, -50, 30, 50)))
    (again,) = held.update(people((7, *(factor * np.array([-30, -50, 30, 50])))))
    assert (again.number == first.number) == is_held


def test_a_new_window_leads_by_four_frames_of_the_newest_movement():
    held = CropWindows((256, 192))
    for x in range(12):
        (window,) = held.update(people((1, x, 0, x + 60, 100)))
        if window.number == 2:
            break
    own = crop_window(np.array([x, 0.0, x + 60, 100]), (256, 192))
    assert window.window[0] - own[0] == pytest.approx(4)
